"""The package as a user meets it: imports, the wheel's contents, README, addresses."""

import inspect
import itertools
import re
import runpy
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata

import pytest

EXTRAS = ["orbax", "matplotlib", "sklearn", "scipy", "tensorflow_datasets", "grain", "tqdm",
          "tensorboardX", "ml_collections", "PIL", "tensorflow", "torch", "pandas"]  # fmt: skip


def project(checkout):
    return tomllib.loads((checkout / "pyproject.toml").read_text())


def test_import_pulls_in_nothing_of_the_extras():
    """Beyond what jax, flax.linen and optax import themselves."""
    code = (
        "import sys, jax, flax.linen, optax; before = set(sys.modules); import monojax; "
        "print(' '.join({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    new = set(out.stdout.split())
    assert "monojax" in new and not new & set(EXTRAS), new & set(EXTRAS)


INSIDE = {"base", "saving"}  # rooms whose names are reached from elsewhere
LATER = {"data", "estimators", "models", "training"}


def rooms(checkout):
    return {p.parent.name for p in (checkout / "monojax").glob("*/__init__.py")}


def test_all_names_of_the_top_level_are_told(checkout):
    """What is there is in ``__all__``, what is in ``__all__`` is there, every room among it."""
    import monojax

    there = {name for name in dir(monojax) if not name.startswith("_")} - INSIDE
    assert set(monojax.__all__) == there
    assert rooms(checkout) - INSIDE <= there


def test_rooms_that_are_not_needed_are_imported_at_their_first_use():
    code = (
        "import sys, monojax as mj; rooms = ('data', 'models', 'training'); "
        "print([r for r in rooms if f'monojax.{r}' in sys.modules]); "
        "print(mj.models.MLP.__name__, mj.training.fit.__name__, mj.data.load_tabular.__name__); "
        "print(set(mj.__all__) <= set(dir(mj)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split("\n")[:3] == ["[]", "MLP fit load_tabular", "True"]
    import monojax

    with pytest.raises(AttributeError, match="no attribute 'modles'"):
        monojax.modles  # noqa: B018
    for name, place in (
        ("MonotoneMLP", "mj.layers.MonotoneMLP"),
        ("Diagnostics", "mj.bilipschitz.Diagnostics"),
        ("knn_accuracy", "mj.metrics.knn_accuracy"),
        ("pointing_game", "mj.attribution.metrics.pointing_game"),
        ("MLP", "mj.models.MLP"),
    ):
        with pytest.raises(AttributeError, match=rf"'{name}'; did you mean {place}\?$"):
            getattr(monojax, name)


def test_asking_for_what_is_elsewhere_imports_nothing():
    code = (
        "import sys, monojax as mj; print([hasattr(mj, n) for n in ('fit', 'MLP', '__x__')]); "
        "print([r for r in ('data', 'models', 'training') if f'monojax.{r}' in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split("\n")[:2] == ["[False, False, False]", "[]"]


def test_every_public_name_exists_and_is_documented(checkout):
    import importlib

    import monojax

    for module in (monojax, *(importlib.import_module(f"monojax.{r}") for r in rooms(checkout))):
        for name in getattr(module, "__all__", ()):
            item = getattr(module, name)
            where = f"{module.__name__}.{name}"
            assert item.__doc__, where
            if inspect.isfunction(item):
                assert "Returns:" in item.__doc__, where
                if inspect.signature(item).parameters:
                    assert "Args:" in item.__doc__, where


def test_one_address(checkout):
    """REPO_URL of pyproject.toml is what README, CITATION and the notebooks show."""
    command = [sys.executable, str(checkout / ".ci" / "repo_url.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_readme_commands_are_those_of_ci(checkout):
    readme, ci = (checkout / "README.md").read_text(), (checkout / ".ci" / "run").read_text()
    commands = re.findall(r"^pip install .*$", readme, re.M)
    assert len(commands) >= 2
    test_command = next(line for line in commands if "test" in line)
    assert test_command in ci
    assert any("python -m train" in line for line in commands) and "python -m train" in ci


def test_oldest_versions_are_the_lower_bounds(checkout):
    data = project(checkout)
    wanted = [*data["project"]["dependencies"], *data["project"]["optional-dependencies"]["train"]]
    bounds = dict(re.fullmatch(r"([A-Za-z_-]+)>=([\d.]+)", line).groups() for line in wanted)
    lines = (checkout / ".ci" / "oldest.txt").read_text().splitlines()
    oldest = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    for name, version in bounds.items():
        assert oldest[name].rstrip(".0") == version.rstrip(".0"), name


def test_no_upper_pins(checkout):
    data = project(checkout)["project"]
    lines = [*data["dependencies"], *itertools.chain(*data["optional-dependencies"].values())]
    assert not [line for line in lines if "<" in line or "==" in line or "~=" in line]


def test_no_machine_paths_in_tracked_files(checkout):
    listed = subprocess.run(["git", "ls-files"], cwd=checkout, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    pattern = re.compile(r"/(work|farm|root|home|tmp)/\w")
    bad = []
    for name in listed.stdout.split():
        path = checkout / name
        if (
            path.suffix in (".png", ".npz")
            or not path.is_file()
            or name == "tests/house/test_package.py"
        ):
            continue
        if pattern.search(path.read_text(encoding="utf-8", errors="ignore")):
            bad.append(name)
    assert not bad


@pytest.mark.slow
def test_the_wheel_holds_monojax_alone(checkout, tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(tmp_path)]
    subprocess.run([*command, str(checkout)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"monojax"}
    assert "monojax/py.typed" in names and "monojax/data/files/auto_mpg.csv" in names


def test_version_is_one(checkout):
    import monojax

    assert project(checkout)["project"]["version"] == monojax.__version__
    assert monojax.__version__ in (checkout / "CHANGELOG.md").read_text()
    assert metadata.version("monojax") == monojax.__version__


def test_the_library_speaks_of_the_library(checkout):
    """Its texts name no command line, which belongs to train/."""
    for path in (checkout / "monojax").rglob("*.py"):
        found = re.findall(r"--config|--workdir|python -m train", path.read_text(encoding="utf-8"))
        assert not found, path


def test_config_files_run_alone(checkout):
    """A config imports nothing heavy, so that a mistake in the command fails at once."""
    namespace = runpy.run_path(str(checkout / "train" / "configs" / "main.py"))
    assert namespace["get_config"]("quick").seeds == 2


def test_every_test_file_has_a_name_of_its_own(checkout):
    """pytest imports the files by their bare names, so two of one name stop a run of all tests."""
    files = [path.name for path in (checkout / "tests").rglob("test_*.py")]
    twice = sorted({name for name in files if files.count(name) > 1})
    assert files and not twice, twice
