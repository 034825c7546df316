"""Every notebook runs from top to bottom in its QUICK form and is stored without outputs."""

import json
import os
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
MAX_CODE_CELLS = 15
TIMEOUT = 180  # seconds per cell; a QUICK notebook takes less than that in all, on a busy machine

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(path):
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]


def test_there_are_notebooks():
    assert NOTEBOOKS, "colab/ holds no notebook; the tests below would check nothing."


@each_notebook
def test_is_short_and_stored_clean(path):
    cells = code_cells(path)
    assert 0 < len(cells) <= MAX_CODE_CELLS
    for cell in cells:
        assert cell["outputs"] == [], "stored outputs; clear them before committing"
        assert cell["execution_count"] is None
    kernel = read(path)["metadata"]["kernelspec"]
    assert (kernel["name"], kernel["display_name"]) == ("python3", "Python 3")


@each_notebook
def test_first_cell_installs_a_fixed_version_from_the_one_address(path):
    with (ROOT / "pyproject.toml").open("rb") as file:
        wanted = tomllib.load(file)["tool"]["monojax"]["REPO_URL"]
    source = "".join(code_cells(path)[0]["source"])
    assert re.findall(r'^REPO_URL = "(.*)"$', source, re.MULTILINE) == [wanted]
    assert re.search(r'^VERSION = "v\d+\.\d+\.\d+"$', source, re.MULTILINE)
    assert "--branch {VERSION} {REPO_URL}" in source


@pytest.mark.slow  # 40 s of processor time a notebook, nearly all of it compilation
@each_notebook
def test_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="running notebooks needs nbformat")
    nbclient = pytest.importorskip("nbclient", reason="running notebooks needs nbclient")
    pytest.importorskip("ipykernel", reason="running notebooks needs ipykernel")
    pytest.importorskip("matplotlib", reason="the notebooks draw; the extra train has matplotlib")
    # The kernel inherits the environment: this checkout, not an installed copy or a clone.
    inherited = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), inherited])))
    monkeypatch.setenv("MONOJAX_QUICK", "1")
    monkeypatch.setenv("JAX_PLATFORMS", os.environ.get("JAX_PLATFORMS", "cpu"))
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    probe = "import monojax; print(monojax.__file__, QUICK)"
    notebook.cells.append(nbformat.v4.new_code_cell(probe))
    client = nbclient.NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=TIMEOUT,
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()  # a cell that raises ends the test with its traceback
    assert notebook.cells[-1].outputs[0].text.split() == [
        str(ROOT / "monojax" / "__init__.py"),
        "True",
    ]
    pictures = [out for cell in notebook.cells for out in cell.get("outputs", ()) if "data" in out]
    assert any("image/png" in out["data"] for out in pictures), "no picture was drawn"
    assert not any(tmp_path.iterdir()), "the notebook left files behind (was something cloned?)"
