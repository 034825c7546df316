"""The group experiments: data, losses, attacks, tables, and a small run from end to end."""

import csv
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("ml_collections", reason="the experiments need the extra train")
pytest.importorskip("matplotlib", reason="the experiments need the extra train")

import ml_collections

import monojax as mj
from monojax.data import ImageSplits
from monojax.groups import class_shares
from train.__main__ import main
from train.configs.groups import MODES, get_config
from train.groups import convolution, unfamiliar
from train.groups import data as group_data
from train.groups import experiment as groups
from train.groups.calibrated import calibrated_scores
from train.groups.data import Problem, load_problem
from train.groups.report import published_table


def fake_mnist(data_dir=None, *, source="files"):
    """120 + 40 images, every class with a texture of its own: a tile, repeated, and noise."""
    rng = np.random.default_rng(0)
    y = np.arange(160, dtype=np.int32) % 10
    tiles = 200 * rng.integers(0, 2, (10, 4, 4))
    x = (np.tile(tiles[y], (1, 7, 7)) + rng.integers(0, 40, (160, 28, 28))).astype(np.uint8)
    return ImageSplits(x[:120], y[:120], x[120:], y[120:])


def fake_problem(colour=False):
    data = fake_mnist()
    x = np.repeat(data.x_train[..., None], 3, axis=3)[:, :12, :12] if colour else data.x_train
    name = "cifar10" if colour else "mnist"
    return Problem(name, x, data.y_train, x[:0], data.y_train[:0], data.x_test, data.y_test)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_passes_its_own_check(mode):
    config = get_config(mode)
    groups.check(config)
    assert groups.total_steps(config) > 0


def test_the_paper_s_numbers_are_in_the_configs():
    c = get_config()
    assert (c.optimizer.name, c.optimizer.lr, c.epochs, c.batch_size) == ("adadelta", 1.0, 20, 64)
    c = get_config("cifar10")
    o = c.optimizer
    assert (o.name, o.lr, o.momentum, o.weight_decay) == ("sgd", 0.1, 0.9, 1e-4)
    assert o.drops == (10, 150, 250, 350) and o.factor == 0.1
    assert (c.epochs, c.batch_size, c.shares) == (600, 64, (0.1, 0.3, 0.6, 1.0))
    assert (c.penalties.group.gamma, c.penalties.group.mu) == (1, 50)
    assert groups.num_steps(c) == 600 * (50_000 // 64)  # whatever the share


@pytest.mark.parametrize(
    "change, message",
    [
        ({"data": "mnits"}, "did you mean 'mnist'"),
        ({"model.name": "resnet"}, "config.model.name"),
        ({"optimizer.name": "adam"}, "config.optimizer.name"),
        ({"unfamiliar": ("noises",)}, "did you mean 'noise'"),
        ({"penalties.group.form": "slope"}, "config.penalties.group.form"),
        ({"penalties.group.gamma": -1.0}, "gamma must be at least 0"),
        ({"penalties.group.mu": float("nan")}, "mu must be at least 0"),
        ({"shares": (0.0,)}, "shares must lie"),
        ({"seeds": ()}, "seeds"),
        ({"epochs": 0.0}, "epochs must be > 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"model.maps": 25}, "use 20 or 30 maps"),
        ({"data": "cifar10"}, "only of mnist"),
    ],
)
def test_mistakes_in_a_config_are_named(change, message):
    config = get_config("quick")
    config.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=message):
        groups.check(config)


def test_shares_are_balanced_and_differ_by_seed():
    problem = fake_problem()
    rows = problem.subset(0.5, 0)
    assert np.bincount(problem.y_train[rows]).tolist() == [6] * 10
    assert len(np.unique(rows)) == len(rows)
    assert rows.tolist() == problem.subset(0.5, 0).tolist() != problem.subset(0.5, 1).tolist()
    assert problem.subset(1, 0).tolist() == list(range(120))


def test_validation_rows_are_no_training_rows(monkeypatch):
    source = group_data.DATA["mnist"]._replace(load=fake_mnist, train_rows=120)
    monkeypatch.setitem(group_data.DATA, "mnist", source)
    config = get_config("quick")
    config.valid, config.train_limit = 20, 0
    problem = load_problem(config)
    together = np.concatenate([problem.x_train, problem.x_valid]).reshape(120, -1)
    assert len(np.unique(together, axis=0)) == 120
    config.valid = 120
    with pytest.raises(ValueError, match="valid must lie"):
        load_problem(config)


def test_augmented_images_are_crops_and_flips():
    problem = fake_problem(colour=True)
    x = problem.prepare(jnp.asarray(problem.x_train[:16]))
    assert x.shape == (16, 12, 12, 3)
    # The published mean and deviation of CIFAR-10's first channel.
    want = (problem.x_train[3, 4, 5, 0] / 255 - 0.4914) / 0.2470
    assert float(x[3, 4, 5, 0]) == pytest.approx(want, rel=1e-5)
    out = np.asarray(jax.jit(problem.augment)(jax.random.key(0), x))
    padded = np.pad(np.asarray(x), ((0, 0), (4, 4), (4, 4), (0, 0)))
    moved = 0
    for i in range(16):
        views = [padded[i, a : a + 12, b : b + 12] for a in range(9) for b in range(9)]
        views += [view[:, ::-1] for view in views]
        at = [k for k, view in enumerate(views) if np.array_equal(view, out[i])]
        assert at, "an augmented image is no crop of the padded one"
        moved += at[0] != 40
    assert moved > 8
    grey = fake_problem()
    x = grey.prepare(jnp.asarray(grey.x_train[:4]))
    assert x.shape == (4, 28, 28, 1)
    np.testing.assert_array_equal(grey.augment(jax.random.key(0), x), x)


@pytest.mark.slow
def test_the_loss_is_cross_entropy_plus_gamma_times_the_penalty():
    config = get_config("quick")
    problem, model = fake_problem(), groups.build(config, 10)
    batch = {"x": problem.x_train[:6], "y": problem.y_train[:6]}
    variables = jax.jit(model.init)(jax.random.key(0), problem.prepare(jnp.asarray(batch["x"])))
    state = {"batch_stats": variables["batch_stats"]}

    def loss(**penalty):
        config.penalties.group.update(penalty)
        fn = jax.jit(groups.make_loss(problem, model, config.penalties.group), static_argnums=4)
        value, (_, metrics) = fn(variables["params"], state, batch, jax.random.key(1), None)
        return float(value), {k: float(v) for k, v in metrics.items()}

    plain, metrics = loss(gamma=0.0)
    assert metrics == {"cross_entropy": plain, "penalty": 0.0}
    for form in ("gradient", "activation"):
        value, metrics = loss(gamma=3.0, mu=2.0, form=form)
        x = problem.prepare(jnp.asarray(batch["x"]))
        maps, _ = model.apply(variables, x, True, method="features", mutable=["batch_stats"])
        head = lambda a: model.apply(variables, a, method="head")
        options = {"head": head} if form == "gradient" else {}
        omega = mj.group_penalty(maps, batch["y"], 10, 2.0, form=form, **options)
        assert metrics["penalty"] == pytest.approx(float(omega), rel=1e-5)
        assert value == pytest.approx(plain + 3 * float(omega), rel=1e-5)


@pytest.mark.slow
def test_at_the_convolution_the_slopes_are_the_head_s_weights_where_the_relu_is_open():
    config = get_config("quick")
    problem, model = fake_problem(), groups.build(config, 10)
    labels, x = problem.y_train[:6], problem.prepare(jnp.asarray(problem.x_train[:6]))
    variables = jax.jit(model.init)(jax.random.key(0), x)
    params = variables["params"]
    rng = np.random.default_rng(1)
    params["bn3"] = {k: jnp.asarray(rng.normal(size=20), jnp.float32) for k in params["bn3"]}
    maps, output, _ = convolution.last_output(model, variables | {"params": params}, x)
    tail = convolution.tail(model, params, output)
    head = lambda a: model.apply({"params": params}, a, method="head")
    # The same network: what is behind the convolution gives the logits of the maps.
    np.testing.assert_allclose(jax.vmap(tail)(output), head(maps), rtol=1e-4, atol=1e-5)
    open_ = np.asarray(maps > 0).mean((1, 2))  # [b, W]
    gain = np.asarray(params["bn3"]["scale"]) / np.sqrt(np.asarray(output).var((0, 1, 2)) + 1e-5)
    slopes = np.asarray(params["fc"]["kernel"]).T[labels] * open_ * gain
    logits = 2.0 * slopes.reshape(6, 10, 2).sum(-1)
    want = -(logits[np.arange(6), labels] - np.log(np.exp(logits).sum(1))).mean()
    penalty = ml_collections.ConfigDict(dict(gamma=3.0, mu=2.0, form="gradient", at="convolution"))
    loss = groups.make_loss(problem, model, penalty)
    batch = {"x": problem.x_train[:6], "y": labels}
    state = {"batch_stats": variables["batch_stats"]}
    value, (_, metrics) = jax.jit(loss, static_argnums=4)(
        params, state, batch, jax.random.key(1), None
    )
    assert float(metrics["penalty"]) == pytest.approx(want, rel=1e-4)  # float32 sums
    assert float(value) == pytest.approx(float(metrics["cross_entropy"]) + 3 * want, rel=1e-4)


def test_a_penalty_at_the_convolution_needs_one_before_the_norm():
    config = get_config("cifar10")
    config.penalties.group = dict(gamma=1.0, mu=50.0, form="gradient", at="convolution")
    with pytest.raises(ValueError, match="without the added convolution"):
        groups.check(config)
    config.penalties.group.at = "maps"
    groups.check(config)  # needs none
    config.model.maps = 80
    config.penalties.group.update(at="convolution", form="activation")
    with pytest.raises(ValueError, match="form"):  # of outputs that may be negative
        groups.check(config)
    config.penalties.group.at = "pooling"
    with pytest.raises(ValueError, match="did you mean 'convolution'"):
        groups.check(config)


def test_sgd_follows_the_published_schedule():
    """Unit gradients at parameter 0: velocity v = 1 + 0.9 v, step = rate * v."""
    config = get_config("cifar10")
    config.train_limit, config.batch_size = 20, 10  # 2 steps an epoch: drops at 20, 300, 500, 700
    optimizer = groups.make_optimizer(config)
    params = jnp.zeros(())
    state, steps = optimizer.init(params), []
    update = jax.jit(optimizer.update)
    for _ in range(320):
        move, state = update(jnp.ones(()), state, params)
        steps.append(float(move))
    velocity = (1 - 0.9 ** np.arange(1, 321)) / 0.1
    rate = np.where(np.arange(320) < 20, 0.1, np.where(np.arange(320) < 300, 0.01, 0.001))
    np.testing.assert_allclose(steps, -rate * velocity, rtol=1e-4)
    decayed, _ = optimizer.update(jnp.zeros(()), optimizer.init(params), jnp.asarray(5.0))
    assert float(decayed) == pytest.approx(-0.1 * 1e-4 * 5.0)


def test_blends_mix_two_classes():
    x = np.array([[0], [100], [201]], np.uint8)
    got = unfamiliar.blends(x, np.array([0, 1, 1]), np.random.default_rng(0))
    allowed = {50, 100}  # 0 with 100 and 0 with 201; never 100 with 201
    assert set(got.ravel().tolist()) <= allowed
    assert got.dtype == np.uint8


def test_noise_and_inversions_have_the_images_range():
    problem, config = fake_problem(), get_config("quick")
    config.unfamiliar = ("noise", "inversions", "blends", "pgd")
    sets = unfamiliar.unfamiliar_inputs(problem, config, 0)
    assert set(sets) == {"noise", "inversions", "blends"}
    np.testing.assert_array_equal(sets["inversions"] + problem.x_test, 255)
    assert sets["noise"].shape == problem.x_test.shape and sets["noise"].dtype == np.uint8
    assert 120 < sets["noise"].mean() < 135


def test_pgd_stays_in_the_ball_and_climbs_the_loss():
    """Two linear logits: the slope's sign s never changes, so a start u ends at min(u + eps, eps).

    Of u uniform in [-eps, eps] that is 3/4 eps in the mean.
    """
    y = np.arange(40, dtype=np.int32) % 2
    grey = np.full((40, 28, 28), 128, np.uint8)  # eps = 76.5 stays within [0, 255]
    problem = dataclasses.replace(fake_problem(), x_test=grey, y_test=y)
    w = jax.random.normal(jax.random.key(0), (784, 2))
    logits = lambda x: x.reshape(len(x), -1) / 255 @ w / 10
    moved = unfamiliar.pgd(logits, problem, get_config("quick"), 0) - 128.0
    epsilon = 0.3 * 255
    assert np.abs(moved).max() <= epsilon * (1 + 1e-6)
    slope = np.asarray(w[:, 1] - w[:, 0])[None] * (1 - 2 * y)[:, None]
    along = (moved.reshape(40, -1) * np.sign(slope)).mean() / epsilon
    assert along == pytest.approx(0.75, abs=0.01)  # 31,360 starts: standard error 0.002
    dark = dataclasses.replace(problem, x_test=np.zeros_like(grey))
    moved = unfamiliar.pgd(logits, dark, get_config("quick"), 0)
    assert moved.min() == 0  # pixels stay pixels


def test_table_3_stands_beside_the_published_one():
    config = get_config("cifar10_small")
    result = {"test_output": 0.5, "test_activation": 0.125}
    table = published_table({("plain", 0.1): [result], ("group", 0.1): [result]}, config)
    assert table.rows == [
        ["plain, ours", "50.00 / 12.50"],
        ["plain, published", "85.68 / 16.35"],
        ["group, ours", "50.00 / 12.50"],
        ["group, published", "85.77 / 82.21"],
    ]


@pytest.mark.slow
def test_too_much_activation_is_as_strange_as_too_little():
    """Densities of totals see what shares do not: three times the activation, or a third."""
    rng = np.random.default_rng(0)
    y = np.arange(300) % 3
    totals = np.exp(rng.normal(0, 0.1, (300, 3))) * (1 + 4 * (y[:, None] == np.arange(3)))
    scores = jax.jit(calibrated_scores(totals.astype(np.float32), y, 3))
    normal = scores(totals[:60])
    for factor in (3.0, 1 / 3):
        strange = scores(factor * totals[:60])
        for name in ("density", "share_density"):
            assert np.asarray(strange[name]).max() < np.asarray(normal[name]).min()
    shares = class_shares(totals[:60]).max(axis=1)
    np.testing.assert_allclose(class_shares(3 * totals[:60]).max(axis=1), shares, rtol=1e-5)


@pytest.mark.slow  # 20 s: two trainings of 160 steps
def test_a_small_run_learns_is_measured_and_is_not_repeated(tmp_path, monkeypatch, capsys):
    source = group_data.DATA["mnist"]._replace(load=fake_mnist, train_rows=120)
    monkeypatch.setitem(group_data.DATA, "mnist", source)
    monkeypatch.setattr(groups, "EVAL_BATCH", 40)
    command = ["--config", "groups:quick", "--workdir", str(tmp_path / "run")]
    changes = {
        "seeds": "(0,)", "epochs": "16.", "valid": 20, "train_limit": 0, "batch_size": 10,
        "unfamiliar": "('noise','blends')", "checkpoint_every": 160,
        "penalties.group.form": "activation",
        "model.maps": 10, "optimizer.name": "sgd", "optimizer.lr": 0.05,
        "penalties.group.gamma": "1.", "penalties.group.mu": "5.",
    }  # fmt: skip
    command += [f"--config.{key}={value}" for key, value in changes.items()]
    assert main(command) == 0
    run = tmp_path / "run"
    with (run / "accuracy.csv").open() as file:
        rows = {row["penalty"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["plain", "group"]
    assert float(rows["group"]["output layer %"]) > 50  # chance is 10
    assert float(rows["group"]["maps alone %"]) > float(rows["plain"]["maps alone %"]) + 20
    (file,) = (run / "cells").glob("group-1-0-*.json")
    cell = json.loads(file.read_text())
    assert set(cell["auroc"]) == set(cell["detected"]) == {"noise", "blends"}
    assert all(0 <= v <= 1 for scores in cell["auroc"].values() for v in scores.values())
    assert {"density", "share_density"} <= set(cell["auroc"]["noise"])
    assert sum(cell["classes"]["examples"]) == 40
    assert (run / "groups.png").read_bytes().startswith(b"\x89PNG")
    before = (run / "accuracy.csv").read_text()
    monkeypatch.setattr(groups, "train", lambda *_: pytest.fail("trained again"))
    assert main(command) == 0
    assert (run / "accuracy.csv").read_text() == before
    # Version 0.1.0 kept a cell's numbers in its folder: they are taken over.
    (run / "cells" / "group-1-0" / "result.json").write_text(file.read_text())
    file.unlink()
    assert main(command) == 0
    assert (run / "accuracy.csv").read_text() == before and file.exists()
    capsys.readouterr()
