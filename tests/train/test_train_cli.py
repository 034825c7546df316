"""`python -m train`: mistakes fail at once, runs resume, reports are whole."""

import json
import os
import re
import subprocess
import sys

import ml_collections
import numpy as np
import pytest

from monojax.training.workdir import WorkdirError
from train.__main__ import CONFIGS, main
from train.arguments import UsageError, parse
from train.checks import same_inputs
from train.penalties import experiment as penalties
from train.penalties import report


@pytest.mark.parametrize(
    "argv, match",
    [
        (["--config", "penaltys_synthetic"], "did you mean penalties_synthetic"),
        (["--config", "train/configs/mian.py"], "did you mean main"),
        (["--config", "nothing_like_it"], "there is: .*main.*sphere"),
        (["--config", "monocon"], "monocon_cifar10 or .*monocon_cifar100 .*monocon_digits .*_snli"),
        (["--config", "monocon_"], "monocon_cifar10 or .*_cifar100 or .*_digits or .*_snli[?]"),
        (["--config", "penalties.py:d100"], "did you mean penalties_synthetic[?]"),
        (["--config", "main:fast"], "unknown mode 'fast'; main.py has 'full' and 'quick'"),
        (["--config", "penalties_synthetic:d300"], "unknown mode 'd300'.*d100"),
        (["--config.sed=3"], "config has no key 'sed'; did you mean seed"),
        (["--config.penalty.gama=3"], "config.penalty has no key 'gama'; did you mean gamma"),
        (["--config.seeds.x=3"], "config.seeds has no key 'x'"),
        (["--config.epochs=3"], "there is config.problems.auto_mpg.epochs, config.problems.synth"),
        (["--config.penalty.lr=3"], "there is config.problems.auto_mpg.lr"),
        (["--config", "tokens", "--config.heads=3"], "there is config.vit.model.heads"),
        (["--config.penalty.gamma"], "--config.penalty.gamma has no value; write"),
        (["--config.seeds", "--workdir=x"], "--config.seeds has no value; write --config.seeds="),
        (["--config.chunk=3"], "config.chunk is named config.seeds_at_once now"),
        (["--config=difference", "--config.reparam=clip"], "is named config.weight_map now"),
        (["--config=monocon_snli", "--config.embed_batch=2"], "named config.embed_batch_size now"),
        (["--config=monocon_digits", "--config.recipe.batch", "2"], "config.recipe.batch_size now"),
        (["--config=tokens", "--config.vit.model.pool=mean"], "named config.vit.model.reduce now"),
        (["--config=explain", "--config.batch=3"], "config.batch is named config.batch_size now"),
        (["--config.seeds=many"], "takes a int .now 10., got 'many', a str"),
        (["--config.problems=3"], "is a group; set one of auto_mpg, synthetic_100"),
        (["--wrkdir", "x"], "unknown argument '--wrkdir'; did you mean --workdir"),
        (["quick"], "unknown argument 'quick'"),
    ],
)
def test_mistakes_are_named_at_once(argv, match, capsys):
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("train: ") and len(error.strip().splitlines()) == 1
    with pytest.raises(UsageError, match=match):
        parse(argv, CONFIGS)


def test_overrides_keep_types():
    argv = ["--config.penalty.gamma=10", "--config.kinds=('none',)", "--config.penalty.reduce=mean"]
    config, workdir = parse([*argv, "--workdir", "w"], CONFIGS)
    assert config.penalty.gamma == 10.0 and isinstance(config.penalty.gamma, float)
    assert config.kinds == ("none",) and config.penalty.reduce == "mean" and str(workdir) == "w"
    assert str(parse(["--config", "main:quick"], CONFIGS)[1]) == os.path.join("runs", "main-quick")


@pytest.mark.parametrize(
    "override, match",
    [
        ("kinds=('none','mixupp')", "got 'mixupp'; did you mean 'mixup'"),
        (
            "penalty.reduce=maxx",
            "penalty.reduce must be one of 'mean', 'max', got 'maxx'; did you mean 'max'",
        ),
        ("problems.auto_mpg.data=auto_mgp", "did you mean 'auto_mpg'"),
        ("problems.synthetic_100.shift=cod", "did you mean 'code'"),
        ("seeds=0", "config.seeds must be at least 1, got 0"),
        ("penalty.gamma=-1.0", "config.penalty.gamma must be at least 0"),
        ("experiment=penaltys", "got 'penaltys'; did you mean 'penalties'"),
    ],
)
def test_mistyped_values_fail_before_anything_is_written(tmp_path, override, match, capsys):
    argv = ["--config=main:quick", f"--config.{override}", f"--workdir={tmp_path / 'run'}"]
    assert main(argv) == 1
    assert match in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_value_may_follow_its_key():
    argv = ["--config.penalty.gamma", "10", "--config.seed", "-1", "--config.kinds=('none',)"]
    config, _ = parse([*argv, "--workdir", "w"], CONFIGS)
    assert (config.penalty.gamma, config.seed, config.kinds) == (10.0, -1, ("none",))


def test_help_lists_every_config(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    for path in CONFIGS.glob("*.py"):
        assert path.stem == "__init__" or f"\n  {path.stem} " in out
    assert "four models, ten seeds" in out


@pytest.mark.parametrize(
    "lines, match",
    [
        ("c.experiment, c.reparam = 'difference', 'abs'", "config.reparam is named config.weight"),
        ("c.experiment, c.chunk = 'penalties', 5", "config.chunk is named config.seeds_at_once"),
        (
            "c.experiment, c.recipe = 'monocon', dict(batch=5)",
            "config.recipe.batch is named config.recipe.batch_size",
        ),
    ],
)
def test_an_old_word_in_ones_own_config_file(tmp_path, lines, match):
    body = ["c = ml_collections.ConfigDict()", lines]
    text = "import ml_collections\ndef get_config():\n    " + "\n    ".join(body) + "\n"
    (tmp_path / "own.py").write_text(text + "    return c\n")
    with pytest.raises(UsageError, match=match):
        parse(["--config", str(tmp_path / "own.py")], CONFIGS)


def test_an_old_name_of_an_experiment(tmp_path, capsys):
    assert main(["--config=minilm_golden", "--config.experiment=sentences"]) == 1
    assert "the experiment 'sentences' is named 'minilm_golden' now" in capsys.readouterr().err


@pytest.mark.parametrize(
    "module, extra",
    [("ml_collections", "train"), ("matplotlib", "train"), ("sklearn", "sklearn"), ("PIL", "data")],
)
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, capsys, module, extra):
    def absent(*_):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    where = "train.arguments.load_config" if module == "ml_collections" else "train.__main__.run"
    monkeypatch.setattr(where, absent)
    assert main([f"--workdir={tmp_path / 'run'}"]) == 1
    error = capsys.readouterr().err
    assert f"the package {module!r}" in error and f"'.[{extra}]'" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("coordinator", ["localhost", "localhost:", "10.0.0.1:http", ":x"])
def test_a_coordinator_without_a_port(tmp_path, coordinator, capsys):
    argv = ["--config=imagenet:quick", "--config.data.source=fake", "--num_hosts=2", "--host=0"]
    assert main([*argv, f"--coordinator={coordinator}", f"--workdir={tmp_path / 'run'}"]) == 1
    assert "must be HOST:PORT" in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "config, hint",
    [("groups:quick", "--config.source=tfds"), ("groups:cifar10", "--config.source=tfds")],
)
def test_missing_data_name_the_other_source(tmp_path, monkeypatch, capsys, config, hint):
    monkeypatch.delenv("MONOJAX_DATA", raising=False)
    assert main([f"--config={config}", f"--workdir={tmp_path / 'run'}"]) == 1
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize("config", ["imagenet", "groups:quick", "monocon_snli:reduced"])
def test_a_missing_file_that_is_no_data_gets_no_hint_to_data(tmp_path, monkeypatch, capsys, config):
    def absent(*_):
        raise FileNotFoundError("no weights file at resnet50.pth.")

    monkeypatch.setattr("train.__main__.run", absent)
    assert main([f"--config={config}", f"--workdir={tmp_path / 'run'}"]) == 1
    assert capsys.readouterr().err == "train: no weights file at resnet50.pth.\n"


@pytest.mark.parametrize("config", ["main:quick", "sphere", "lipschitz_fits:quick"])
def test_a_config_for_one_host_names_itself_and_the_way_out(tmp_path, capsys, config):
    flags = ["--coordinator=localhost:1", "--num_hosts=2", "--host=0"]
    assert main([f"--config={config}", *flags, f"--workdir={tmp_path / 'run'}"]) == 1
    error = capsys.readouterr().err
    assert f"--config {config} runs on one host; on several runs only imagenet" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("address", ["gs://bucket/run", "s3://bucket/run", "gs:/bucket/run"])
def test_a_remote_work_directory_is_refused_where_results_are_local(
    tmp_path, monkeypatch, capsys, address
):
    monkeypatch.chdir(tmp_path)
    assert main(["--config=main:quick", f"--workdir={address}"]) == 1
    error = capsys.readouterr().err
    assert "give a local --workdir" in error or "lost a slash" in error
    assert not list(tmp_path.iterdir())


def test_a_file_without_get_config(tmp_path):
    (tmp_path / "c.py").write_text("x = 1\n")
    with pytest.raises(UsageError, match="no function get_config"):
        parse(["--config", str(tmp_path / "c.py")], CONFIGS)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda p: p.stem)
def test_every_config_loads_in_both_modes(path):
    if path.stem == "__init__":
        pytest.skip("no config")
    default = re.search(r'def get_config\(mode="(\w+)"\)', path.read_text()).group(1)
    for mode in ("", ":quick"):
        config, _ = parse(["--config", f"{path}{mode}"], CONFIGS)
        assert config.is_locked and config.experiment and config.mode == (mode[1:] or default)


TINY = [
    "--config=penalties_synthetic:quick",
    "--config.seeds=1",
    "--config.kinds=('train','mixup')",
    "--config.penalty.points=8",
]


def tiny(tmp_path, *more):
    return [*TINY, *more, f"--workdir={tmp_path / 'run'}"]


@pytest.mark.slow
def test_an_experiment_writes_and_resumes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(penalties, "NUM_CHECK", 200)
    assert main(tiny(tmp_path)) == 0
    out = capsys.readouterr().out
    run = tmp_path / "run"
    text = (run / "synthetic_100.md").read_text()
    assert "mixup" in text and text.split("\n\n")[1].strip() in out
    numbers = json.loads((run / "synthetic_100.json").read_text())
    assert set(numbers) == {"train", "mixup"}
    assert np.isfinite([v for row in numbers.values() for v in row.values()]).all()
    assert (run / "synthetic_100_dependence.png").read_bytes().startswith(b"\x89PNG")
    before = {p.name: p.read_bytes() for p in run.glob("*.csv")}
    assert set(before) == {"synthetic_100.csv", "table1.csv", "table2.csv"}
    assert main(tiny(tmp_path)) == 0  # everything is read from the checkpoints
    assert before == {p.name: p.read_bytes() for p in run.glob("*.csv")}
    assert main(tiny(tmp_path, "--config.penalty.gamma=1.0")) == 1
    assert "belongs to another config: penalty.gamma is 10000.0" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_and_another_process(tmp_path, checkout):
    """The real program, stopped by SIGTERM: exit status 143 and a checkpoint that is named."""
    command = [sys.executable, "-m", "train", "--config=main:quick", "--config.kinds=('none',)"]
    command += ["--config.problems.auto_mpg.epochs=200000", f"--workdir={tmp_path / 'run'}"]
    process = subprocess.Popen(command, cwd=checkout, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "auto_mpg" / "none" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        pass
    process.terminate()
    _, error = process.communicate(timeout=120)
    assert process.returncode == 143, error
    assert "interrupted at step" in error and "checkpoints" in error
    kept = [p.name for p in (metrics.parent / "checkpoints").iterdir()]
    assert any(f"step {name}" in error for name in kept)


def test_unknown_kind_and_set():
    config, _ = parse(["--config", "main:quick"], CONFIGS)
    config.kinds = ("mixupp",)
    with pytest.raises(ValueError, match=r"kind of penalty must be one of .*got 'mixupp'"):
        options = config.problems.auto_mpg
        penalties.train_seeds(None, None, "mixupp", config, options, None)
    with pytest.raises(ValueError, match="auto_mpgg"):
        penalties.load_problem("x", ml_collections.ConfigDict({"data": "auto_mpgg"}))
    with pytest.raises(ValueError, match="classification set"):
        penalties.load_problem("x", ml_collections.ConfigDict({"data": "heart_cleveland"}))


@pytest.mark.slow
def test_all_kinds_give_finite_penalties():
    """Every region the reference has, in one step each."""
    import jax
    import jax.numpy as jnp

    from monojax.models import TwoBranch

    config, _ = parse(["--config", "main:quick"], CONFIGS)
    model, x = TwoBranch((0, 1), hidden=4), jnp.linspace(0, 1, 20).reshape(5, 4)
    params = model.init(jax.random.key(0), x)
    for kind in penalties.KINDS:
        loss, (error, omega) = penalties.loss_and_penalty(
            model,
            np.array([1, -1, 0, 0]),
            kind,
            config.penalty,
            params,
            x,
            x[:, 0],
            jax.random.key(1),
        )
        assert float(loss) == pytest.approx(float(error + config.penalty.gamma * omega), rel=1e-5)
        assert (float(omega) > 0) == (kind != "none")


def test_paper_tables_carry_the_published_numbers(tmp_path, capsys):
    config, _ = parse(["--config", "penalties_synthetic:d100"], CONFIGS)
    values = {column: np.array([0.5, 0.7]) for column in report.COLUMNS}
    results = {"synthetic_100": dict.fromkeys(config.kinds, values)}
    report.paper_tables(results, config, tmp_path)
    rows = (tmp_path / "table2.csv").read_text().splitlines()
    assert rows[0] == "penalty on,rho random % 20/100,rho test % 20/100"
    assert rows[1] == "no penalty,60.00 ± 13.86 (99.9),60.00 ± 13.86 (99.99)"
    assert "0.6000 ± 0.1386 (0.114)" in (tmp_path / "table1.md").read_text()


def test_a_work_directory_belongs_to_its_files(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "a.npy"
    file.write_bytes(b"one")
    given = {"embeddings": "~/a.npy", "labels": ""}  # paths of a person, as they are typed
    digest = same_inputs(tmp_path, given)
    assert same_inputs(tmp_path, given) == digest
    with pytest.raises(WorkdirError, match="was added or taken away"):
        same_inputs(tmp_path, given | {"b": file})
    with pytest.raises(WorkdirError, match="labels was added or taken away"):
        same_inputs(tmp_path, {"embeddings": file})
    file.write_bytes(b"two")
    with pytest.raises(WorkdirError, match=r"a\.npy has changed since"):
        same_inputs(tmp_path, given)
