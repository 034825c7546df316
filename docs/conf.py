"""Sphinx builds the documentation: `sphinx-build -W -b html docs docs/_build/html`.

Neither the build nor the pages need a network: KaTeX travels with them. Notebooks are shown without
outputs unless MONOJAX_DOCS_EXECUTE=1 asks for them to be run, in their quick form: minutes, which
.ci/full takes.
"""

import json
import os
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT)]

import reference  # noqa: E402

project = "monojax"
author = "The monojax authors"
project_copyright = "The monojax authors, Apache-2.0"
release = version = metadata.version("monojax")
url = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["monojax"]["REPO_URL"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.bibtex",
    "sphinxcontrib.katex",
]
exclude_patterns = ["_build", "_templates", "attacks_table.md"]
templates_path = ["_templates"]
default_role = "literal"  # one backtick in a docstring is code, as in Markdown

# Markdown and notebooks.
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "html_image"]
myst_heading_anchors = 3
wanted = os.environ.get("MONOJAX_DOCS_EXECUTE", "")  # 1 for all, or names such as penalties,monocon
execute = wanted not in ("", "0")
if execute and wanted != "1":
    stems = [path.stem for path in (ROOT / "colab").glob("*.ipynb")]
    nb_execution_excludepatterns = [
        f"notebooks/{stem}.ipynb" for stem in stems if stem not in wanted.split(",")
    ]
nb_execution_mode = "cache" if execute else "off"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove"
if execute:
    os.environ.setdefault("MONOJAX_QUICK", "1")
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    )

# The reference.
autosummary_generate = True
autosummary_imported_members = True
autodoc_typehints = "none"  # the docstrings say shapes and dtypes, which types do not
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
add_module_names = False
python_use_unqualified_type_names = True

# The rest.
bibtex_bibfiles = ["references.bib"]
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
katex_options = 'output: "mathml"'  # no fonts and no style sheet from elsewhere
katex_css_path = "katex-math.css"

html_theme = "sphinx_book_theme"
html_title = "monojax"
html_static_path = ["_static"]
html_css_files = ["monojax.css"]
html_theme_options = {
    "navbar_persistent": [],  # the search field stands in the side bar
    "show_toc_level": 2,
    "home_page_in_toc": False,
    "navigation_with_keys": False,
}
suppress_warnings = ["ref.python"]  # fields of two classes that share a name
html_show_sourcelink = False
if "example.com" not in url:  # else it is the placeholder, which the theme does not know
    html_theme_options |= {"repository_url": url, "use_repository_button": True}


def write_sources(app, config):
    """What is written anew in each build: the reference, and copies of notebooks and results."""
    del app, config
    reference.write(HERE / "api")
    for path in sorted((ROOT / "colab").glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        notebook["metadata"]["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
        _write(HERE / "notebooks" / path.name, json.dumps(notebook))
    results = ROOT / "train" / "results"
    for folder in sorted(path for path in results.iterdir() if path.is_dir()):
        _write(HERE / "results" / f"{folder.name}.md", _results(folder))


def _write(target, text):
    """Writes only what has changed, so that Sphinx reads only that again."""
    target.parent.mkdir(exist_ok=True)
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        target.write_text(text, encoding="utf-8")


TITLES = {  # of folders without a README
    "groups_cifar10": "Groups on CIFAR-10",
    "main": "The main job: Auto MPG and 100 inputs",
    "minilm_golden": "MiniLM in JAX against published numbers",
    "penalties_synthetic": "Penalties on 100 to 500 inputs",
    "sphere": "Where random points lie in many dimensions",
}


def _came_out(name):
    """The sentences of the index of results about a folder."""
    index = (ROOT / "train" / "results" / "README.md").read_text(encoding="utf-8")
    text = re.search(rf"^\| \[{name}\]\([^)]*\) \| (.*) \|$", index, re.M)[1]
    return re.sub(rf"\]\({name}/(\w+)\.md\)", r"](#\1)", text)  # a table on the same page


def _results(folder):
    """A page of results: title, what came out, the folder's README, its tables and pictures."""
    readme, here = folder / "README.md", os.path.relpath(folder, HERE / "results")

    def link(match):
        target = match.group(1)
        other = re.fullmatch(r"\.\./(\w+)/(?:README|\w+)\.md", target)
        if re.match(r"[a-z]+:|#", target):
            return match.group(0)
        if re.fullmatch(r"\w+\.md", target):
            return f"](#{target.removesuffix('.md')})"  # a table, which stands below
        return f"]({other.group(1)}.md)" if other else f"]({here}/{target})"

    if readme.exists():
        text = re.sub(r"\]\(([^)\s]+)\)", link, readme.read_text(encoding="utf-8")).rstrip() + "\n"
        title, _, rest = text.partition("\n")
    else:
        title, rest = f"# {TITLES[folder.name]}", ""
    text = f"{title}\n\n**{_came_out(folder.name)}**\n{rest}"
    pictures = [p for p in sorted(folder.glob("*.png")) if f"({here}/{p.name})" not in text]
    for path in pictures:
        text += f"\n![{path.stem.replace('_', ' ')}]({here}/{path.name})\n"
    for path in sorted(folder.glob("*.md")):
        if path != readme:
            text += f"\n## {path.stem}\n\n{path.read_text(encoding='utf-8').strip()}\n"
    return text


SPECIAL = re.compile(r"(?<!\\)([|*]|(?<=\w)_(?!\w))")


def plain_docstring(app, what, name, obj, options, lines):
    """Bars and stars of a docstring outside of code are themselves, as they are in Markdown.

    A linen module's attributes are what it is called with: they are shown as parameters.
    """
    del app, name, obj, options
    if what == "class":
        lines[:] = ["Args:" if line == "Attributes:" else line for line in lines]
    block = None  # indentation of the line that opened a literal or directive block
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if block is not None and line.strip() and indent <= block:
            block = None
        if block is None and not line.lstrip().startswith((">>>", "...", "* ")):
            parts = re.split(r"(`[^`]*`)", line)
            parts[::2] = [SPECIAL.sub(r"\\\1", part) for part in parts[::2]]
            lines[i] = "".join(parts)
        if block is None and (line.rstrip().endswith("::") or line.lstrip().startswith(".. ")):
            block = indent


def short_signature(app, what, name, obj, options, signature, returned):
    """The signature of a linen module without what flax adds to every one."""
    del app, what, name, obj, options
    return re.sub(r", parent=<[^>]*>, name=None(?=\)$)", "", signature or "") or None, returned


def skip_requests(app, what, name, obj, skip, options):
    """scikit-learn's methods for metadata routing point to pages of its own documentation."""
    del app, what, obj, options
    return True if re.fullmatch(r"set_\w+_request|get_metadata_routing", name) else skip


def setup(app):
    """Called by Sphinx."""
    app.connect("config-inited", write_sources)  # before Sphinx looks for pages
    app.connect("autodoc-skip-member", skip_requests)
    app.connect("autodoc-process-docstring", plain_docstring, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", short_signature)
