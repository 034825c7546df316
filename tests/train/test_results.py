"""The index of results names every folder and file that is there; titles of rows have room."""

import itertools
import re
from pathlib import Path

import pytest

from train.lipschitz_fits.figures import _row_title
from train.reporting import figure

RESULTS = Path(__file__).resolve().parents[2] / "train" / "results"
INDEX = (RESULTS / "README.md").read_text(encoding="utf-8")


def test_every_folder_is_in_the_index():
    named = set(re.findall(r"^\| \[(\w+)\]", INDEX, re.MULTILINE))
    assert named == {path.name for path in RESULTS.iterdir() if path.is_dir()}


def test_every_link_leads_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", INDEX)
    assert len(links) > 20
    assert [link for link in links if not (RESULTS / link).is_file()] == []


@pytest.mark.parametrize("height", [2.2, 2.3, 2.5])
def test_titles_of_rows_do_not_run_into_each_other(height):
    """The longest titles of the config, in rows of the height that the figures give them."""
    pytest.importorskip("matplotlib", reason="pictures need the extra train")
    titles = [
        "BLNN smooth, sharpness 30, published rates",
        "same settings, squared error",
        "BLNN smooth (ours)",
    ]
    drawn, axes = figure(len(titles), 2, (8.4, height * len(titles) + 0.5), sharex="col")
    for row, title in zip(axes, titles, strict=True):
        _row_title(row[0], title, "final MSE")
    drawn.canvas.draw()
    boxes = [row[0].yaxis.label.get_window_extent() for row in axes]
    for box, row in zip(boxes, axes, strict=True):
        place = row[0].get_window_extent()
        assert box.y0 > place.y0 - 12 and box.y1 < place.y1 + 12
    assert all(above.y0 > below.y1 for above, below in itertools.pairwise(boxes))
