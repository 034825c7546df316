"""Every notebook runs from top to bottom in its QUICK form and is stored without outputs."""

import ast
import importlib.machinery
import json
import os
import re
import sys
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
def test_first_cell_installs_the_default_branch_from_the_one_address(path):
    with (ROOT / "pyproject.toml").open("rb") as file:
        wanted = tomllib.load(file)["tool"]["monojax"]["REPO_URL"]
    source = "".join(code_cells(path)[0]["source"])
    assert re.findall(r'^REPO_URL = "(.*)"$', source, re.MULTILINE) == [wanted]
    assert "git clone -q --depth 1 {REPO_URL} monojax" in source  # no tag, which may not be there
    assert "VERSION" not in source.replace("REPO_URL", "")


def first_cell(path):
    return "".join(code_cells(path)[0]["source"])


def test_all_first_cells_are_one_text():
    own = re.compile(r"^EXTRAS, PACKAGES = .*$", re.MULTILINE)
    assert len({own.sub("", first_cell(path)) for path in NOTEBOOKS}) == 1


@each_notebook
def test_the_first_cell_installs_what_the_notebook_imports(path):
    """Extras where monojax is installed by it; single packages where monojax is there already."""
    pattern = r'^EXTRAS, PACKAGES = "(.*)", (\{.*?\})'
    extras, packages = re.search(pattern, first_cell(path), re.MULTILINE).groups()
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    brought = project["dependencies"] + ["jaxlib", "monojax"]
    for extra in extras.split(","):
        brought += project["optional-dependencies"][extra]
    code = "\n".join("".join(cell["source"]) for cell in code_cells(path)[1:])
    code = "\n".join(line for line in code.splitlines() if not line.lstrip().startswith(("!", "%")))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(code))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    known = json.loads(packages)
    for name in imported - set(sys.stdlib_module_names):
        package = known.get(name, name)
        assert any(re.match(rf"{package}\b", line, re.I) for line in brought), name
        core = any(re.match(rf"{package}\b", line) for line in project["dependencies"])
        assert core or name in known or name in ("monojax", "jaxlib"), f"{name} may be missing"


def run_first_cell(path, monkeypatch, installed):
    """The shell commands of the first cell, with braces filled in as IPython does."""
    ran = []
    lines = []
    for line in first_cell(path).splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        command = line.lstrip()
        lines.append(f"{indent}ran.append(f{command[1:]!r})" if command[:1] == "!" else line)
    found = {name: importlib.machinery.ModuleSpec(name, None, origin="x") for name in installed}
    monkeypatch.setattr("importlib.util.find_spec", found.get)
    exec("\n".join(lines), {"ran": ran})
    return ran


def test_the_first_cell_takes_a_wheel_or_a_zip_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = ROOT / "colab" / "monocon.ipynb"
    (tmp_path / "monojax-main.zip").touch()
    zipped = run_first_cell(path, monkeypatch, {"sklearn", "matplotlib"})
    assert zipped == ['pip install -q "./monojax-main.zip[train,sklearn]"']
    (tmp_path / "monojax-main.zip").unlink()
    (tmp_path / "monojax-0.1.0-py3-none-any.whl").touch()
    wheel = run_first_cell(path, monkeypatch, {"sklearn", "matplotlib"})
    assert wheel == ['pip install -q "./monojax-0.1.0-py3-none-any.whl[train,sklearn]"']


def test_the_first_cell_without_an_address_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in NOTEBOOKS:
        with pytest.raises(SystemExit, match="no address yet: put monojax's wheel"):
            run_first_cell(path, monkeypatch, {})


def test_the_first_cell_clones_from_a_real_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "copy.ipynb"
    text = (ROOT / "colab" / "penalties.ipynb").read_text()
    path.write_text(text.replace("https://example.com/monojax\\", "https://forge.org/m\\"))
    clone, install = run_first_cell(path, monkeypatch, {"matplotlib"})
    assert clone == "git clone -q --depth 1 https://forge.org/m monojax"
    assert install == 'pip install -q "./monojax[train]"'


def test_the_first_cell_where_monojax_is_there_installs_single_packages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = ROOT / "colab" / "group_monotone_mnist.ipynb"
    ran = run_first_cell(path, monkeypatch, {"monojax", "matplotlib"})
    assert ran == ["pip install -q scikit-learn"]
    assert run_first_cell(path, monkeypatch, {"monojax", "matplotlib", "sklearn"}) == []


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
