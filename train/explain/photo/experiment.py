"""A person's photograph and network: predicted, explained by every method, judged, on one page."""

import functools
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from monojax.attribution.together import ALL
from monojax.splitting.shift import BALANCED
from monojax.training import Table, write_atomically
from train.checks import at_least, one_of, same_inputs
from train.explain.photo import draw, page, pictures
from train.explain.photo.measure import Study, num_maps, scores
from train.explain.photo.models import SIZE, Classifier, classifier, target_of
from train.explain.photo.scene import SHAPES, scene, trained
from train.reporting import provenance


def check(config: Any) -> None:
    """Finds what is wrong with the options and with the files before anything is written.

    Args:
      config: see train/configs/explain_photo.py.

    Raises:
      ValueError: naming the first mistake.
      FileNotFoundError: if a file is missing.
    """
    at_least(config, 1, "most", "patch_steps", "pixel_steps", "batch_size")
    at_least(config.scene, 1, "features", "train", "steps", "batch_size", at="config.scene")
    at_least(config.scene, 16, "size", at="config.scene")
    at_least(config, 2, "patch_steps", "pixel_steps")
    at_least(config, 1, "methods")
    for name in config.methods:
        one_of(name, ("all", *ALL), "config.methods")
    for alpha in (config.alpha, *config.alphas):
        if alpha != BALANCED and not (isinstance(alpha, float | int) and 0 <= alpha <= 0.5):
            raise ValueError(f"an alpha must lie in [0, 0.5] or be {BALANCED!r}, got {alpha!r}.")
    if not config.image:
        given = [name for name in ("model", "weights", "classes") if config[name]]
        if given:
            raise ValueError(f"config.image is missing: config.{given[0]} says what explains it.")
        target_of(config.target, SHAPES)
        return
    if not config.model:
        raise ValueError(
            "config.model must name the network: squeezenet, efficientnet_lite0, resnet18, "
            "resnet34, resnet50 or vgg16, with its --config.weights=FILE."
        )
    found = pictures.files(config.image, config.most)
    net = classifier(config.model, config.weights, config.classes)
    target_of(config.target, net.names)
    for path in found:
        pictures.read(path, net.size)


def total_steps(config: Any) -> int:
    """The maps of every picture, to be made and to be judged.

    Args:
      config: see train/configs/explain_photo.py.

    Returns:
      Their number.
    """
    count = len(pictures.files(config.image, config.most)) if config.image else 1
    return count * (1 + num_maps(config))


def run(config: Any, workdir: Path, bar: Any) -> None:
    """Explains what is not explained yet, and writes pictures, arrays, table and page.

    Args:
      config: see train/configs/explain_photo.py.
      workdir: where to: per picture NAME_maps.png, NAME_split.png, NAME_curves.png and NAME.npz;
        faithfulness.md, faithfulness.csv and index.html.
      bar: progress bar over :func:`total_steps`.
    """
    given = pictures.files(config.image, config.most) if config.image else []
    used = {"weights": config.weights, "classes": config.classes}
    same_inputs(workdir, used | {path.name: path for path in given})
    net, shown, heading = _network(config)
    study = Study(net, config)
    target = target_of(config.target, net.names)
    entries = []
    for number, make in enumerate(shown):
        picture, mask = make()
        file = workdir / f"{number:03d}_{picture.name}.npz"
        found = _stored(file, picture.sha256, net.sha256)
        if found is None:
            found = study(picture, target, mask, bar)
            found |= {"picture_sha256": picture.sha256, "weights_sha256": net.sha256}
            _store(file, found)
        else:
            bar.update(1 + num_maps(config))
        files = {kind: file.with_name(f"{file.stem}_{kind}.png") for kind, _ in page.PICTURES}
        for kind, paint in (
            ("maps", draw.all_maps),
            ("split", draw.split_parts),
            ("curves", draw.curves),
        ):
            paint(found, files[kind])
        entries.append((picture.name, found, files))
        print(f"\n{picture.name}: {page.sentence(found, net.names)}", flush=True)
    if config.mode == "quick":
        heading += " (QUICK FORM: a smoke run, its numbers mean nothing)"
    table = _table(entries, net, heading)
    table.write(workdir, "faithfulness", provenance(config))
    print("\n" + table.markdown(), flush=True)
    page.write(workdir / "index.html", entries, net.names, heading, provenance(config))
    print(f"explain_photo: open {workdir / 'index.html'}", flush=True)


def _network(config: Any) -> tuple[Classifier, list[Any], str]:
    """The network, how to get each picture with its mask, and what to write above it all."""
    if config.image:
        net = classifier(config.model, config.weights, config.classes)
        found = pictures.files(config.image, config.most)
        shown = [lambda path=path: (pictures.read(path, SIZE), None) for path in found]
        return net, shown, f"Explained by {net.title}"
    net, accuracy = trained(config)
    heading = f"A rendered scene, explained by {net.title} (right on {accuracy:.0%} of others)"
    return net, [functools.partial(scene, config)], heading


def _table(entries: Any, net: Classifier, heading: str) -> Table:
    """Faithfulness of every map of every picture."""
    columns = ["Picture", "Class", "Map", "Patches ↓", "Pixels ↓", "Mean rank"]
    table = Table(columns, f"{heading}: mean probability left as the map's best parts are removed")
    for name, found, _ in entries:
        values = scores(found)
        for method in sorted(values, key=lambda n: values[n]["rank"]):
            row = values[method]
            cells = f"{row['patches']:.4f}", f"{row['flips']:.4f}", f"{row['rank']:.1f}"
            table.add(name, net.names[int(found["target"])], draw.title(method), *cells)
    return table


def _store(file: Path, found: dict[str, Any]) -> None:
    """All arrays, float32, in one npz without pickles."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {key: np.asarray(value) for key, value in found.items()}
    np.savez_compressed(buffer, **arrays)
    write_atomically(file, buffer.getvalue())


def _stored(file: Path, picture: str, weights: str) -> dict[str, Any] | None:
    """What an earlier run found for the same picture by the same weights."""
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as archive:
            found = dict(archive)
    except (OSError, ValueError, zipfile.BadZipFile):
        return None
    same = str(found.get("picture_sha256")) == picture
    return found if same and str(found.get("weights_sha256")) == weights else None
