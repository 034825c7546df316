"""README and docs: the examples run, the reference is complete, links lead somewhere."""

import ast
import doctest
import importlib
import importlib.util
import inspect
import pkgutil
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import monojax as mj

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
WRITTEN = ("_build", "api", "results")  # folders that a build fills
PAGES = sorted(
    path
    for path in DOCS.rglob("*.md")
    if path.relative_to(DOCS).parts[0] not in WRITTEN and "{include}" not in path.read_text()[:20]
)
TEXTS = [ROOT / name for name in ("README.md", "BUILD.md", "CONTRIBUTING.md")] + PAGES
BLOCK = re.compile(r"^```(python|pycon)\n(.*?)^```$", re.M | re.S)
MOST_WORDS = 35

each_text = pytest.mark.parametrize("path", TEXTS, ids=lambda p: str(p.relative_to(ROOT)))


def run_blocks(path):
    """Runs a page's code in one namespace; what stands under pycon must come out as it is there."""
    names = {"__name__": path.stem}
    text = path.read_text(encoding="utf-8")
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for block in BLOCK.finditer(text):
        line = text[: block.start()].count("\n") + 1
        if block.group(1) == "python":
            # Blank lines before it, so that a traceback shows the page's own line.
            exec(compile("\n" * line + block.group(2), str(path), "exec"), names)
        else:
            parser = doctest.DocTestParser()
            example = parser.get_doctest(block.group(2), {}, path.name, str(path), line)
            example.globs = names
            report = []
            result = runner.run(example, out=report.append, clear_globs=False)
            assert result.failed == 0, "".join(report)
    return names


def examples(path):
    return BLOCK.findall(path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_readme_example_runs():
    """From a pandas frame to a certificate, in at most 12 lines."""
    pytest.importorskip("pandas", reason="README's example reads a pandas frame")
    pytest.importorskip("sklearn", reason="the estimators need the extra sklearn")
    ((kind, code),) = examples(ROOT / "README.md")
    assert kind == "python" and len([line for line in code.splitlines() if line.strip()]) <= 12
    names = run_blocks(ROOT / "README.md")
    assert names["certificate"].status == "proved"
    assert names["model"].score(names["x"], names["y"]) > 0.85


def test_the_front_page_shows_the_same_example():
    assert examples(DOCS / "index.md")[0] == examples(ROOT / "README.md")[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [p for p in PAGES if examples(p)], ids=lambda p: str(p.relative_to(DOCS))
)
def test_a_page_runs_from_top_to_bottom(path):
    if "import pandas" in path.read_text(encoding="utf-8"):
        pytest.importorskip("pandas", reason="the page reads a pandas frame")
    run_blocks(path)
    jax.clear_caches()


def modules():
    for found in pkgutil.walk_packages(mj.__path__, "monojax."):
        yield importlib.import_module(found.name)


def with_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    for module in modules():
        names = {"jax": jax, "jnp": jnp, "np": np, "mj": mj, **vars(module)}
        for found in finder.find(module, module.__name__, module=module, globs=names):
            if found.examples:
                yield found


@pytest.mark.slow
def test_examples_of_docstrings_run():
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    found = list(with_examples())
    assert found
    for example in found:
        report = []
        assert runner.run(example, out=report.append).failed == 0, "".join(report)


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_complete(reference, tmp_path):
    """Every public name of the top package, and of every package that it names, has its place."""
    reference.write(tmp_path)
    assert set(reference.names("monojax")) == set(mj.__all__)
    for package in reference.PACKAGES:
        page = (tmp_path / reference.file_name(package)).read_text()
        listed = set(re.findall(r"[\w.]+", page))
        leaves = {name.rsplit(".", 1)[-1] for name in listed}
        assert set(reference.names(package)) <= leaves, package
    rooms = {f"monojax.{name}" for name in mj.__all__ if inspect.ismodule(getattr(mj, name))}
    assert rooms <= set(reference.PACKAGES)
    index = (tmp_path / "index.md").read_text()
    assert all(path.stem in index for path in tmp_path.glob("*.md") if path.stem != "index")


def test_public_packages_are_in_the_reference(reference):
    """A package with an `__all__` of its own is public, unless it is the ground floor."""
    public = {
        module.__name__
        for module in modules()
        if hasattr(module, "__path__") and hasattr(module, "__all__")
    }
    assert public - {"monojax.base"} <= set(reference.PACKAGES)


def sentences(text):
    """Plain sentences of a Markdown text; a table's cells are sentences of their own."""
    text = re.sub(r"^```.*?^```$|^:::.*?$|<!--.*?-->", "\n\n", text, flags=re.M | re.S)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    for paragraph in re.split(r"\n\s*\n|\n(?=[|#\-*:])", text):
        for cell in paragraph.split("|"):
            yield from re.split(r"(?<=[.!?:;])\s+", " ".join(cell.split()))


@pytest.mark.parametrize("path", [ROOT / "README.md", DOCS / "index.md"], ids=lambda p: p.name)
def test_sentences_are_short(path):
    long = [s for s in sentences(path.read_text()) if len(s.split()) > MOST_WORDS]
    assert not long


def test_lengths():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160
    assert len((ROOT / "BUILD.md").read_text().splitlines()) <= 115


def test_readme_begins_with_three_pictures():
    before, _ = (ROOT / "README.md").read_text().split("## Run it")
    assert len(re.findall(r"!\[[^\]]+\]\(\S+\.png\)", before)) == 3


@each_text
def test_links_lead_somewhere(path):
    text = re.sub(r"^```(?!\{).*?^```$", "", path.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file = path.parent / target
        inside = file.resolve().relative_to(ROOT).parts
        if inside[:2] == ("docs", "results"):
            assert (ROOT / "train" / "results" / file.stem).is_dir(), target
        elif inside[:2] == ("docs", "notebooks") and file.suffix == ".ipynb":
            assert (ROOT / "colab" / file.name).exists(), target
        elif inside[:2] != ("docs", "api"):
            assert file.exists(), target


def test_every_page_of_results_begins_with_a_title_and_a_sentence():
    """Of a folder: its README's title or one in conf.py, and its row of the index."""
    conf = (DOCS / "conf.py").read_text()
    titles = ast.literal_eval(re.search(r"^TITLES = (\{.*?^\})", conf, re.M | re.S)[1])
    index = (ROOT / "train" / "results" / "README.md").read_text()
    for folder in (ROOT / "train" / "results").iterdir():
        if folder.is_dir():
            readme = folder / "README.md"
            title = readme.read_text()[:2] == "# " if readme.exists() else titles[folder.name]
            assert title, folder.name
            row = re.search(rf"^\| \[{folder.name}\]\([^)]*\) \| (.+\S) \|$", index, re.M)
            assert row and row[1], folder.name


def papers(path):
    """Rows of a page's table of papers."""
    text = path.read_text().split("## Papers")[1]
    return [line for line in text.splitlines() if re.match(r"\| [A-Z]\. ", line)]


def test_papers_have_their_whole_titles_and_their_commands():
    bib = (DOCS / "references.bib").read_text()
    titles = re.findall(r"^\s*title\s*= \{(.*)\},?$", bib, re.M)[:4]
    tables = papers(ROOT / "README.md"), papers(DOCS / "index.md")
    for title, *rows in zip(titles, *tables, strict=True):
        plain = re.sub("[{}]", "", title)
        commands = [re.findall(r"`([a-z0-9_]+)`", row.rstrip("| ").split("|")[-1]) for row in rows]
        assert commands[0] and commands[0] == commands[1]
        for row in rows:
            assert f'"{plain}"' in row and re.search(r"\b20\d\d\b", row)
        for name in commands[0]:
            assert (ROOT / "train" / "configs" / f"{name}.py").exists(), name
    told = {name for row in tables[0] for name in re.findall(r"`([a-z0-9_]+)`", row)}
    configs = {path.stem for path in (ROOT / "train" / "configs").glob("*.py")}
    assert configs - told <= {
        "main",
        "minilm_golden",
        "explain_photo",
        "compress_embeddings",
        "csv",
    }


def test_every_experiment_and_every_notebook_is_listed():
    experiments = (DOCS / "experiments.md").read_text()
    for path in (ROOT / "train" / "configs").glob("*.py"):
        stem = path.stem.removeprefix("monocon_")
        assert stem in experiments, f"docs/experiments.md does not name {path.stem}"
    notebooks = (DOCS / "notebooks" / "index.md").read_text().split()
    assert {path.stem for path in (ROOT / "colab").glob("*.ipynb")} <= set(notebooks)


@pytest.mark.parametrize("name", ["run", "full"])
def test_what_ci_names_exists(name):
    text = (ROOT / ".ci" / name).read_text()
    for path in re.findall(r"(?<![\w./])(?:tests|train|docs)/[\w./-]+", text):
        assert (ROOT / path).exists(), path


def test_the_extras_are_explained():
    """Every dependency in pyproject.toml has its row in BUILD.md."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    build = (ROOT / "BUILD.md").read_text()
    extras = dict(project["optional-dependencies"], core=project["dependencies"])
    for extra in (
        "core",
        "data",
        "train",
        "sklearn",
        "text",
        "weights",
        "export",
        "faiss",
        "tpu",
        "test",
        "docs",
        "dev",
    ):
        for line in extras[extra]:
            name = re.split(r"[><=\[]", line)[0]
            assert name in build, f"BUILD.md does not say why {name} is there"


def test_the_citation_has_the_version():
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert cited and cited.group(1) == mj.__version__


def test_pages_are_python_that_parses():
    for path in PAGES:
        for kind, code in examples(path):
            if kind == "python":
                ast.parse(code)
