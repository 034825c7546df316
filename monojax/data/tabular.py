"""Tabular data sets with monotone inputs: loaded, split and scaled, ready to train on."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from monojax.base.choices import one_of
from monojax.data.csv_table import Feature, RawTable
from monojax.data.locate import embedded_bytes, external_bytes
from monojax.data.scaling import Rows, Scaling, hold_out, min_max
from monojax.data.tabular_sets import BY_NAME, SPECS, SetSpec, Task

Protocol = Literal["clean", "benchmark"]
PROTOCOLS = ("clean", "benchmark")
TABULAR_SETS: tuple[str, ...] = tuple(spec.name for spec in SPECS)
TEST_SHARE = 0.2  # of sets that come without a split


@dataclass(frozen=True, eq=False)
class TabularData:
    """A data set in three parts. Features are scaled: ``x = (raw - offset) / scale``.

    Attributes:
      name: name of the set.
      protocol: ``"clean"`` or ``"benchmark"``.
      x_train, x_valid, x_test: scaled features, float32, shape `[n, d]`; never clipped, so
        validation and test values may lie outside the box.
      y_train, y_valid, y_test: targets, float32, shape `[n]`: 0 or 1 for classification, scaled
        by ``target_scale`` for regression.
      directions: int32, shape `[d]`: +1 the target should not decrease, -1 not increase, 0 free.
      columns: names of the d features after encoding; one-hot columns are ``"race=Other"``.
      units: unit of each feature's raw values, ``""`` where there is none.
      target: name of the target.
      target_unit: unit of the raw target.
      task: ``"regression"`` or ``"classification"``.
      target_scale: (low, high): raw target = low + y * (high - low); (0, 1) if unscaled.
      low, high: corners of the scaled box, float32, shape `[d]`: zeros and ones under min-max
        scaling, the range of the rows that fitted the scaling otherwise.
      feature_low, feature_high: range of those rows in raw units, float64, shape `[d]`.
      offset, scale: the scaling itself, float64, shape `[d]`.
      dropped_rows: rows of the file left out (missing values, or the benchmark's loader).
      source, licence, attribution, caution: where it comes from and what to know.
    """

    name: str
    protocol: Protocol
    x_train: np.ndarray
    y_train: np.ndarray
    x_valid: np.ndarray
    y_valid: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    directions: np.ndarray
    columns: tuple[str, ...]
    units: Mapping[str, str]
    target: str
    target_unit: str
    task: Task
    target_scale: tuple[float, float]
    low: np.ndarray
    high: np.ndarray
    feature_low: np.ndarray
    feature_high: np.ndarray
    offset: np.ndarray
    scale: np.ndarray
    dropped_rows: int
    source: str
    licence: str
    attribution: str
    caution: str

    def in_units(self, error: float, *, squared: bool = False) -> float:
        """An error on scaled targets, in the target's own unit.

        Args:
          error: a root mean square or mean absolute error; a mean square with ``squared``.
          squared: True for a mean square error, whose unit is the target's unit squared.

        Returns:
          The error in raw units, for example mpg (mpg^2 with ``squared``).

        Raises:
          ValueError: if the set is for classification, where errors have no unit.
        """
        if self.task != "regression":
            raise ValueError(f"{self.name} is a classification set: its errors have no unit.")
        width = self.target_scale[1] - self.target_scale[0]
        return float(error) * (width * width if squared else width)

    def raw(self, x: np.ndarray) -> np.ndarray:
        """Scaled features `[..., d]` back in raw units, float64."""
        return np.asarray(x, np.float64) * self.scale + self.offset


def load_tabular(
    name: str,
    *,
    protocol: Protocol = "clean",
    data_dir: str | os.PathLike[str] | None = None,
    validation: float = 0.2,
    seed: int = 0,
) -> TabularData:
    """Loads a tabular data set with its directions, split and scaling.

    ``auto_mpg`` and ``heart_cleveland`` are part of the package (``data_dir`` is not looked at);
    ``heart``, ``compas``, ``blog_feedback`` and ``lending_club`` are read from
    ``DIR/tabular/FILE``, where DIR is ``data_dir`` or the environment variable ``MONOJAX_DATA``.
    Every file is checked against its sha256; nothing is downloaded or written.

    =============== ===== ============================================= =========================
    set             d     monotone                                      train + validation / test
    =============== ===== ============================================= =========================
    auto_mpg        7     -displacement -horsepower -weight             314 / 78, in the file
    heart_cleveland 13    +trestbps +chol                               80 / 20 %, by seed
    heart           13    +trestbps +chol                               242 / 61, in the file
    compas          13    +priors_count +juv_(fel, misd, other)_count   4937 / 1235, in the file
    blog_feedback   276   +8 counts of comments and links               52397 / 7624, in the file
    lending_club    47    +pub_rec_bankruptcies +dti -grade -emp_length issued before / from
                          -annual_inc                                   September 2011
    =============== ===== ============================================= =========================

    Validation rows are taken from the training part at random by ``seed`` (the same share of
    each class for classification); they are in no file. For ``heart_cleveland`` the seed also
    picks the test rows, 20 % of each class. Parts keep the order of the file.

    ``protocol="clean"``: every fitted number (feature ranges, the target's range, which columns
    are constant) comes from the training rows that remain after the validation rows are taken.
    Features, and the target of a regression set, are min-max scaled to [0, 1].

    ``protocol="benchmark"``: as the literature did, for comparison with its numbers. ``heart``,
    ``auto_mpg``: features standardised with mean and sd (ddof=1) of the whole training part,
    validation rows included, target raw. ``compas``: min-max over all rows, test rows included.
    ``blog_feedback``: see :func:`monojax.data.blog_feedback.read_blog_benchmark`; features and
    target min-max scaled over all remaining rows, test rows included. The papers carve no
    common validation part: put it back for a last fit if theirs had none.

    Per set: ``auto_mpg`` keeps its 7 numeric inputs (``origin`` as its code 1..3), drops
    ``car_name`` and the 6 rows without horsepower. ``heart_cleveland`` has the target num > 0
    and drops 6 rows with missing values; ``heart`` has ANOTHER target (num >= 2, see
    ``caution``); both keep categorical inputs as their codes. ``compas`` one-hot encodes race
    and sex in the benchmark's order. ``blog_feedback`` (clean) keeps all rows and drops 4
    constant columns. ``lending_club`` stands in for LoanDefaulter, with which its numbers are
    NOT comparable; grade is A=7 ... G=1, home_ownership, verification_status and purpose are
    one-hot, sub_grade (repeats grade), addr_state (50 levels) and issue_month (the split) are
    left out, mths_since_* is 240 for "never", and rows with another empty cell are dropped.

    Args:
      name: one of ``TABULAR_SETS``.
      protocol: ``"clean"`` or ``"benchmark"``.
      data_dir: folder of the data files; None for ``MONOJAX_DATA``.
      validation: share of the training part to hold out, in (0, 1).
      seed: non-negative integer; the only source of randomness.

    Returns:
      The data as float32 numpy arrays, with names, units, directions and origin.

    Raises:
      ValueError: on an unknown name or protocol, a protocol the set does not have, a share
        outside (0, 1), a bad seed, or a file that is not the expected one.
      MissingDataError: if the folder or file is missing; says what to get, from where, and
        where to put it.

    Example:
      >>> data = load_tabular("auto_mpg")
      >>> data.x_train.shape, data.x_valid.shape, data.x_test.shape
      ((251, 7), (63, 7), (78, 7))
    """
    spec = _find(name)
    _check_options(spec, protocol, validation, seed)
    table = _read(spec, protocol, data_dir)
    rows = _split_rows(table, spec, validation, np.random.default_rng(seed))
    if protocol == "clean" and spec.drop_constant:
        table = _without_constant(table, rows.train)
    features, target = _fit(spec, protocol, table, rows)
    return _assemble(spec, protocol, table, rows, features, target)


def _find(name: str) -> SetSpec:
    return BY_NAME[one_of(name, TABULAR_SETS, "data set")]


def _check_options(spec: SetSpec, protocol: str, validation: float, seed: int) -> None:
    one_of(protocol, PROTOCOLS, "protocol")
    if protocol == "benchmark" and spec.benchmark is None:
        raise ValueError(
            f"{spec.name} has no benchmark protocol: {spec.no_benchmark}. Use protocol='clean'."
        )
    if not 0.0 < validation < 1.0:
        raise ValueError(f"validation must be a share in (0, 1), got {validation}.")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed must be a non-negative integer, got {seed!r}.")


def _read(spec: SetSpec, protocol: str, data_dir: str | os.PathLike[str] | None) -> RawTable:
    benchmark = spec.benchmark if protocol == "benchmark" else None
    read = benchmark.read if benchmark is not None else spec.read
    if spec.embedded:
        return read(embedded_bytes(spec.file, spec.sha256), spec.file)
    wanted = f"tabular/{spec.file}"
    get = f"{spec.file} (sha256 {spec.sha256}), made from {spec.source}"
    return read(external_bytes(wanted, spec.sha256, get, data_dir), wanted)


def _split_rows(
    table: RawTable, spec: SetSpec, validation: float, rng: np.random.Generator
) -> Rows:
    """Rows of the three parts; the test part by the file if it says so, else by ``rng``."""
    stratify = spec.task == "classification"
    if table.part is not None:
        train, test = (np.flatnonzero(table.part == part) for part in ("train", "test"))
    else:
        every = np.arange(len(table.y))
        train, test = hold_out(every, TEST_SHARE, rng, table.y if stratify else None)
    train, valid = hold_out(train, validation, rng, table.y[train] if stratify else None)
    return Rows(train, valid, test)


def _without_constant(table: RawTable, rows: np.ndarray) -> RawTable:
    """The table without the columns that do not vary over ``rows``."""
    varying = np.flatnonzero(np.ptp(table.x[rows], axis=0) > 0)
    return RawTable(
        features=tuple(table.features[j] for j in varying),
        x=table.x[:, varying],
        y=table.y,
        part=table.part,
        dropped=table.dropped,
    )


def _fit(
    spec: SetSpec, protocol: str, table: RawTable, rows: Rows
) -> tuple[Scaling, tuple[float, float]]:
    """The features' scaling and the target's (low, high)."""
    y = table.y[:, None]
    if protocol == "benchmark" and spec.benchmark is not None:
        parts = rows if spec.benchmark.fit_on == "all" else (rows.train, rows.valid)
        fitted = np.concatenate(parts)
        target = spec.benchmark.scale_target(y[fitted])
        return spec.benchmark.scale(table.x[fitted]), _ends(target)
    if spec.task == "classification":
        return min_max(table.x[rows.train]), (0.0, 1.0)
    return min_max(table.x[rows.train]), _ends(min_max(y[rows.train]))


def _ends(target: Scaling) -> tuple[float, float]:
    """The raw targets that map to 0 and to 1."""
    return float(target.offset[0]), float(target.offset[0] + target.scale[0])


def _assemble(
    spec: SetSpec,
    protocol: Protocol,
    table: RawTable,
    rows: Rows,
    features: Scaling,
    target_scale: tuple[float, float],
) -> TabularData:
    x = features(table.x).astype(np.float32)
    y = ((table.y - target_scale[0]) / (target_scale[1] - target_scale[0])).astype(np.float32)
    return TabularData(
        name=spec.name,
        protocol=protocol,
        x_train=x[rows.train],
        y_train=y[rows.train],
        x_valid=x[rows.valid],
        y_valid=y[rows.valid],
        x_test=x[rows.test],
        y_test=y[rows.test],
        directions=np.array([f.direction for f in table.features], np.int32),
        columns=tuple(f.name for f in table.features),
        units=_units(table.features),
        target=spec.target,
        target_unit=spec.target_unit,
        task=spec.task,
        target_scale=target_scale,
        low=features.low.astype(np.float32),
        high=features.high.astype(np.float32),
        feature_low=features.raw_low,
        feature_high=features.raw_high,
        offset=features.offset,
        scale=features.scale,
        dropped_rows=table.dropped,
        source=spec.source,
        licence=spec.licence,
        attribution=spec.attribution,
        caution=spec.caution,
    )


def _units(features: Sequence[Feature]) -> dict[str, str]:
    return {f.name: f.unit for f in features}
