"""Writes the pages of the API reference: a page per public package, from what each exports."""

import ast
import importlib
import itertools
import sys
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

PACKAGES = {
    "monojax": "Everything at the top",
    "monojax.penalties": "Penalties",
    "monojax.groups": "Groups of feature maps",
    "monojax.layers": "Layers",
    "monojax.conjugate": "Conjugates",
    "monojax.bilipschitz": "Bi-Lipschitz networks",
    "monojax.splitting": "Split",
    "monojax.attribution": "Attributions",
    "monojax.attribution.metrics": "Metrics of attributions",
    "monojax.attribution.occlusion": "Occlusion",
    "monojax.certify": "Certificates",
    "monojax.compact": "Compact embeddings",
    "monojax.uncertainty": "Uncertainty",
    "monojax.estimators": "Estimators",
    "monojax.metrics": "Metrics",
    "monojax.models": "Models",
    "monojax.models.pretrained": "Published weights",
    "monojax.data": "Data",
    "monojax.data.shapes3d": "Rendered scenes",
    "monojax.training": "Training",
    "monojax.saving": "Saving",
    "monojax.exporting": "Exporting",
}


def names(package: str) -> list[str]:
    """The public names of a package: its `__all__`, else what it defines without an underscore."""
    module = importlib.import_module(package)
    listed = getattr(module, "__all__", None)
    if listed is None:
        listed = [
            name
            for name, item in vars(module).items()
            if not name.startswith("_") and getattr(item, "__module__", "") == module.__name__
        ]
    return sorted(listed, key=str.lower)


def home(name: str, item: Any) -> str:
    """Where a name of the top package is documented: its room's page, or the top's own."""
    for package in PACKAGES:
        if package != "monojax" and getattr(importlib.import_module(package), name, None) is item:
            return f"~{package.removeprefix('monojax.')}.{name}"
    return name


def constant(package: str, name: str) -> str:
    """The sentence that stands under a constant in the module that defines it."""
    for module in sorted(m for m in sys.modules if m.startswith(package)):
        file = getattr(sys.modules[module], "__file__", None)
        body = ast.parse(Path(file).read_text(encoding="utf-8")).body if file else []
        for assigned, text in itertools.pairwise(body):
            targets = getattr(assigned, "targets", [getattr(assigned, "target", None)])
            if not any(isinstance(t, ast.Name) and t.id == name for t in targets):
                continue
            value = text.value if isinstance(text, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                return " ".join(value.value.split())
    return f"{package}.{name}"


def is_constant(item: Any) -> bool:
    """Neither a function nor a class: a table or a tuple."""
    return not isinstance(item, FunctionType | type) and not callable(item)


def page(package: str, title: str) -> str:
    """One page: the package's sentence, its packages as links, and a table of its names."""
    module = importlib.import_module(package)
    sentence = (module.__doc__ or "").strip().splitlines()[0]
    lines = [f"# {title}", "", f"`{package}`. {sentence}", ""]
    rooms = [n for n in names(package) if isinstance(getattr(module, n), ModuleType)]
    plain = [n for n in names(package) if n not in rooms]
    if rooms:
        lines += ["| package | what |", "|---|---|"]
        for name in rooms:
            full = f"{package}.{name}"
            text = (getattr(module, name).__doc__ or "").strip().splitlines()[0]
            link = f"[`{full}`]({file_name(full)})" if full in PACKAGES else f"`{full}`"
            lines.append(f"| {link} | {text} |")
        lines.append("")
    constants = [n for n in plain if is_constant(getattr(module, n))]
    if constants:
        lines += ["| constant | what |", "|---|---|"]
        lines += [f"| `{package}.{n}` | {constant(package, n)} |" for n in constants]
        lines.append("")
    lines += ["```{eval-rst}", f".. currentmodule:: {package}", "", ".. autosummary::"]
    lines += ["   :toctree: generated", "   :nosignatures:", ""]
    for name in plain:
        if name not in constants:
            item = getattr(module, name)
            lines.append(f"   {home(name, item) if package == 'monojax' else name}")
    return "\n".join([*lines, "```", ""])


def primitives() -> str:
    """The page of primitives that the split and the attributions know."""
    rules = importlib.import_module("monojax.splitting").RULES
    known = sorted(name for name in rules if name.isidentifier())
    lines = ["# Primitives with a rule", "", "What the split, LRP and their relatives can read;"]
    lines += ["`mj.split_report(fn, x)` tells what a network of yours uses."]
    lines += ["Anything else is an error with the primitive's name, unless it does not depend on"]
    lines += ["the input. `mj.splitting.register_rule` adds a rule."]
    lines += ["", f"{len(known)} primitives of jax:", "", ", ".join(f"`{name}`" for name in known)]
    return "\n".join([*lines, ""])


def file_name(package: str) -> str:
    """The page's file: `monojax.data` is data.md."""
    return f"{package.removeprefix('monojax.').replace('.', '_')}.md"


def objects() -> set[str]:
    """The full names that have a page of their own."""
    found = set()
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in names(package):
            item = getattr(module, name)
            if isinstance(item, ModuleType) or is_constant(item):
                continue
            place = home(name, item) if package == "monojax" else name
            prefix = "monojax" if place.startswith("~") else package
            found.add(f"{prefix}.{place.removeprefix('~')}")
    return found


def write(folder: Path) -> None:
    """Writes all pages and their index, those that have changed only; removes old ones."""
    folder.mkdir(exist_ok=True)
    pages = {file_name(package): page(package, title) for package, title in PACKAGES.items()}
    pages["primitives.md"] = primitives()
    order = "\n".join(name.removesuffix(".md") for name in pages)
    pages["index.md"] = (
        "# Reference\n\nEvery public name, from its docstring. "
        "`fn` is a function of ONE example; shapes stand in brackets.\n\n"
        f"```{{toctree}}\n:maxdepth: 1\n\n{order}\n```\n"
    )
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    kept = objects()
    for path in (*folder.glob("*.md"), *folder.glob("generated/*.rst")):
        if path.name not in pages and path.stem not in kept:
            path.unlink()
