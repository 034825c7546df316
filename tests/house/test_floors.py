"""The drawing of the house, held by reading every import: no arrow up, no circle.

Imports inside functions count as well. A room is a package of `monojax`; the roof, `monojax`
itself, may import every room, and nothing imports the roof.
"""

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

FLOORS = (
    {"base"},
    {"conjugate", "splitting"},
    {"layers"},
    {"exporting", "models", "data", "training", "saving"},
    {"groups", "penalties", "bilipschitz"},
    {"attribution", "metrics", "uncertainty"},
    {"compact"},
    {"certify"},
    {"estimators"},
)
"""From the ground up: a room imports rooms of the floors below it alone."""

MAX_IN_TRAIN = 22


@cache
def imports(root: Path, package: str) -> dict[str, set[str]]:
    """Module -> modules of ``package`` that it imports, at any depth of the file."""
    files = {module_name(root, path): path for path in (root / package).rglob("*.py")}
    return {
        name: {
            resolved
            for target in targets(path, name, path.name == "__init__.py")
            if (resolved := resolve(target, files)) is not None
        }
        for name, path in files.items()
    }


def module_name(root: Path, path: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def targets(path: Path, name: str, is_package: bool):
    """Dotted names that a file imports; of `from a import b` both a.b, for b may be a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # a relative import
                parts = name.split(".")
                up = parts[: len(parts) - node.level + is_package]
                base = ".".join([*up, *([base] if base else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def resolve(target: str, files: dict[str, Path]) -> str | None:
    """The longest start of a dotted name that is a module, None for other packages."""
    parts = target.split(".")
    names = (".".join(parts[:size]) for size in range(len(parts), 0, -1))
    return next((name for name in names if name in files), None)


def room(module: str) -> str:
    """The room of a module; "" for the roof."""
    return (module.split(".") + [""])[1]


def arrows(graph: dict[str, set[str]]) -> set[tuple[str, str, str]]:
    """(room, room that it imports, the file that does) of different rooms."""
    return {
        (room(module), room(other), module)
        for module, others in graph.items()
        for other in others
        if room(module) != room(other)
    }


def circles(graph: dict) -> list[list]:
    """Strongly connected parts of more than one node (Tarjan)."""
    index: dict = {}
    low: dict = {}
    stack: list = []
    found: list[list] = []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            part = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(part) > 1:
                found.append(sorted(part))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def test_every_room_has_a_floor(checkout):
    here = {path.parent.name for path in (checkout / "monojax").glob("*/__init__.py")}
    assert here == set().union(*FLOORS)
    assert {p.name for p in (checkout / "monojax").glob("*.py")} == {"__init__.py"}


def test_no_arrow_goes_up(checkout):
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    wrong = [
        f"{file} imports {to or 'the roof'}"
        for start, to, file in sorted(arrows(imports(checkout, "monojax")))
        if start != "" and (to == "" or floor[to] >= floor[start])
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", ["monojax", "train"])
def test_no_circle_of_files_and_of_rooms(checkout, package):
    graph = imports(checkout, package)
    # A package and its own modules: importing a.b runs a/__init__.py, which is no arrow of a.b.
    assert not circles({name: others - {name} for name, others in graph.items()})
    rooms: dict[str, set[str]] = {}
    for start, to, _ in arrows(graph):
        rooms.setdefault(start, set()).add(to)
    assert not circles(rooms)


def test_the_library_never_imports_the_experiments(checkout):
    for path in (checkout / "monojax").rglob("*.py"):
        for target in targets(path, module_name(checkout, path), path.name == "__init__.py"):
            assert target.split(".")[0] not in ("train", "tests", "colab"), path


def test_train_has_few_doors(checkout):
    doors = [p.name for p in (checkout / "train").iterdir() if p.name != "__pycache__"]
    assert len(doors) <= MAX_IN_TRAIN, sorted(doors)


def test_nothing_beyond_jax_flax_and_optax_is_imported_at_the_top(checkout):
    """What costs more is imported by the function that needs it (`base.extras.require`)."""
    free = {"jax", "flax", "optax", "numpy", "chex", "ml_dtypes", "monojax"}
    for path in (checkout / "monojax").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                top = name.split(".")[0]
                assert top in free or top in sys.stdlib_module_names, f"{path}: {name}"


def test_the_reading_itself(tmp_path):
    """Relative and late imports, packages and circles are seen."""
    room = tmp_path / "pkg" / "a"
    room.mkdir(parents=True)
    (tmp_path / "pkg" / "__init__.py").write_text("from . import a\n")
    (room / "__init__.py").write_text("from pkg.a.one import x\n")
    (room / "one.py").write_text("def f():\n    from ..b import y\n")
    (tmp_path / "pkg" / "b.py").write_text("import pkg.a.one, os.path\n")
    graph = imports(tmp_path, "pkg")
    assert graph["pkg"] == {"pkg.a"} and graph["pkg.a"] == {"pkg.a.one"}
    assert graph["pkg.a.one"] == {"pkg.b"} and graph["pkg.b"] == {"pkg.a.one"}
    assert circles(graph) == [["pkg.a.one", "pkg.b"]]
