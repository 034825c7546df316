"""Errors of missing packages name what installs them."""

import ast
import re
import sys
import tomllib

import pytest

from monojax.base.extras import require

DISTRIBUTIONS = {
    "PIL": "pillow",
    "absl": "absl-py",
    "faiss": "faiss-cpu",
    "orbax": "orbax-checkpoint",
    "libtpu": "jax",
    "sklearn": "scikit-learn",
    "tensorflow_datasets": "tensorflow-datasets",
}


def calls(checkout):
    """(file, module, extra or None) of every `require` in the library and in train/."""
    for room in ("monojax", "train"):
        for path in (checkout / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require":
                    yield (
                        path.name,
                        *[arg.value for arg in node.args],
                        *[None] * (2 - len(node.args)),
                    )


def packages(project, extra):
    """Names that an extra installs, those of extras inside it included."""
    found = set()
    for line in project["optional-dependencies"][extra]:
        if inner := re.fullmatch(r"monojax\[(.*)\]", line):
            found |= set().union(*(packages(project, name) for name in inner[1].split(",")))
        else:
            found.add(re.match(r"[A-Za-z0-9_-]+", line)[0].lower())
    return found


def test_every_extra_brings_the_package(checkout):
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    core = {re.match(r"[a-z-]+", line)[0] for line in project["dependencies"]}
    found = list(calls(checkout))
    assert len(found) > 10
    for file, module, extra in found:
        top = module.split(".")[0]
        name = DISTRIBUTIONS.get(top, top).lower()
        if extra is None:  # monojax needs it anyway, or no extra brings it
            brought = set().union(*(packages(project, e) for e in project["optional-dependencies"]))
            assert name in core or name not in brought, (file, module)
        elif name not in packages(project, extra):
            assert (name, extra) == ("absl-py", "data"), (file, module, extra)  # comes with grain


def test_the_error_says_how(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"'tensorboardX'.*pip install 'monojax\[train\]'"):
        require("tensorboardX", "train")
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match="pip install orbax-checkpoint"):
        require("orbax.checkpoint")
