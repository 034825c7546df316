"""Reading BlogFeedback (Buza 2014): as it is, and as the monotone benchmark's loader did.

The file holds the 280 inputs transposed (``X_train_T``, ``X_test_T``), the targets and the date
of each test row. Target: comments that a blog post gets in the next 24 hours.
"""

import io

import numpy as np

from monojax.data.csv_table import Feature, RawTable

# 0-based columns, increasing: comments in all, in the last 24 h, 24-48 h before, in the first
# 24 h after publication; the same four counts of links.
INCREASING = (50, 51, 52, 53, 55, 56, 57, 58)
ARRAYS = ("X_train_T", "y_train", "X_test_T", "y_test", "test_date")
NUM_INPUTS = 280


def read_blog(content: bytes, where: str) -> RawTable:
    """All rows and all 280 columns, unchanged.

    Args:
      content: the `.npz` file.
      where: path for messages.

    Returns:
      52,397 training rows, then 7,624 test rows, in file order.

    Raises:
      ValueError: if an array is missing or has another shape.
    """
    arrays = _arrays(content, where)
    return RawTable(
        features=blog_features(),
        x=np.concatenate([arrays["X_train_T"].T, arrays["X_test_T"].T]).astype(np.float64),
        y=np.concatenate([arrays["y_train"], arrays["y_test"]]).astype(np.float64),
        part=np.repeat(["train", "test"], [len(arrays["y_train"]), len(arrays["y_test"])]),
        dropped=0,
    )


def read_blog_benchmark(content: bytes, where: str) -> RawTable:
    """The published 54,270 rows with 276 inputs, quirks of the original loader included.

    (1) The first row of the training file and of each of the 60 test files is lost (it was read
    as a header); (2) the target is cast to uint8, so it wraps above 255; (3) rows whose target
    exceeds the 90th percentile of both parts together are removed; (4) constant columns are
    removed; (5) the monotone columns move to the front. Min-max scaling over both parts follows
    in :func:`monojax.data.load_tabular`.

    Args:
      content: the `.npz` file.
      where: path for messages.

    Returns:
      47,302 training and 6,968 test rows.

    Raises:
      ValueError: if an array is missing or has another shape.
    """
    table = read_blog(content, where)
    date = _arrays(content, where)["test_date"]
    first_of_file = np.r_[True, date[1:] != date[:-1]]
    lost = np.zeros(len(table.y), dtype=bool)
    lost[0] = True
    lost[len(lost) - len(date) :] = first_of_file
    wrapped = np.mod(table.y, 256.0)
    keep = ~lost & (wrapped <= np.percentile(wrapped[~lost], 90))
    x = table.x[keep]
    varying = np.ptp(x, axis=0) > 0
    order = [j for j in INCREASING if varying[j]]
    order += [j for j in range(NUM_INPUTS) if varying[j] and j not in INCREASING]
    assert table.part is not None
    return RawTable(
        features=tuple(table.features[j] for j in order),
        x=x[:, order],
        y=wrapped[keep],
        part=table.part[keep],
        dropped=int(len(keep) - keep.sum()),
    )


def blog_features() -> tuple[Feature, ...]:
    """Names of the 280 inputs, after the attribute list of the UCI repository.

    Ten counts describe the post; their mean, sd, min, max and median over the posts of the same
    source come first.
    """
    kinds = ("total", "last_24h", "24_to_48h_before", "first_24h", "last_24h_change")
    counts = [f"{thing}_{kind}" for thing in ("comments", "links") for kind in kinds]
    statistics = ("mean", "sd", "min", "max", "median")
    days = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    names = [f"source_{s}_{count}" for count in counts for s in statistics]
    names += counts
    names += ["hours_since_publication", "length"]
    names += [f"word_{k}" for k in range(200)]
    names += [f"base_time_{day}" for day in days] + [f"published_{day}" for day in days]
    names += ["parents"] + [f"parents_{s}_comments" for s in ("min", "max", "mean")]
    units = {"hours_since_publication": "h", "length": "characters"}
    units |= {name: "comments" for name in names if "comments" in name}
    units |= {name: "links" for name in names if "links" in name}
    return tuple(
        Feature(name, units.get(name, ""), int(j in INCREASING)) for j, name in enumerate(names)
    )


def _arrays(content: bytes, where: str) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        missing = [name for name in ARRAYS if name not in file.files]
        if missing:
            raise ValueError(f"{where} has no array {missing}; its arrays are {file.files}.")
        arrays = {name: file[name] for name in ARRAYS}
    for part in ("train", "test"):
        want = (NUM_INPUTS, len(arrays[f"y_{part}"]))
        if arrays[f"X_{part}_T"].shape != want:
            raise ValueError(
                f"{where}: X_{part}_T must have shape {want}, got {arrays[f'X_{part}_T'].shape}."
            )
    return arrays
