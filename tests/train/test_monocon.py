"""The MonoCon experiments: two phases, rates, splits, the guarantee, and small runs of all."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("ml_collections", reason="the experiments need the extra train")
pytest.importorskip("matplotlib", reason="the experiments need the extra train")
pytest.importorskip("sklearn", reason="the digits are scikit-learn's")

from monojax.training import create_state, jit_step, shard_batch
from train.__main__ import main
from train.configs import (
    monocon_cifar10,
    monocon_cifar100,
    monocon_digits,
    monocon_fashion,
    monocon_snli,
)
from train.monocon.data import (
    augmented,
    digit_pairs,
    normalise,
    paired_views,
    seed_42_split,
)
from train.monocon.experiment import PROBLEMS, check, total_steps
from train.monocon.measures import dynamics, order_violations, unit
from train.monocon.sentences import trimmed
from train.monocon.training import KINDS, build, cosine, embedder, optimizers, train


class WithStatistics(nn.Module):
    """A dense layer and a batch norm: something that has batch statistics."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(8)(x)
        return nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))


@pytest.fixture(scope="module")
def config():
    return monocon_digits.get_config("quick")


@pytest.fixture(scope="module")
def problem(config):
    return digit_pairs(config.data)


def with_statistics(problem):
    return dataclasses.replace(problem, encoder=WithStatistics(), dim=8)


@pytest.mark.slow
def test_warm_up_fixes_the_encoder_and_moves_its_statistics(problem, config):
    model = build(with_statistics(problem), "monocon")
    warm_up, main_phase = optimizers(config.recipe, steps=3)
    params, state = model.init(jax.random.key(0))
    batch = jax.tree.map(lambda leaf: leaf[:64], problem.train)
    before = jax.tree.map(np.array, (params, state))
    start = create_state(jax.random.key(1), params, warm_up, state)
    step = jit_step(model.loss_fn(0.1, frozen=True), warm_up)
    after, _ = step(start, batch)
    after, metrics = step(after, batch)
    for old, new in zip(
        jax.tree.leaves(before[0]["encoder"]), jax.tree.leaves(after.params["encoder"]), strict=True
    ):
        np.testing.assert_array_equal(old, new)  # bit by bit
    changed = lambda a, b: any(
        (np.asarray(x) != np.asarray(y)).any()
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
    assert changed(before[0]["head"], after.params["head"])
    assert changed(before[1], after.model_state) and np.isfinite(metrics["loss"])
    # The main phase: fresh moments, and both parts move.
    fresh = create_state(jax.random.key(2), after.params, main_phase, after.model_state)
    moments = [leaf for leaf in jax.tree.leaves(fresh.opt_state) if np.ndim(leaf)]
    assert moments and not any(np.asarray(leaf).any() for leaf in moments)
    kept = jax.tree.map(np.array, fresh.params)
    moved, _ = jit_step(model.loss_fn(0.1, frozen=False), main_phase)(fresh, batch)
    assert changed(kept["encoder"], moved.params["encoder"])
    assert changed(kept["head"], moved.params["head"])


def test_rates_are_constant_within_an_epoch():
    schedule = cosine(0.5, epochs=4, steps=3)
    found = [float(schedule(jnp.asarray(count))) for count in range(12)]
    want = np.repeat(0.25 * (1 + np.cos(np.pi * np.arange(4) / 4)), 3)
    np.testing.assert_allclose(found, want, rtol=1e-6)
    assert found[0] == 0.5 and found[-1] > 0  # full at the start, never 0


def test_first_step_of_both_groups_by_hand(config):
    """Zero moments: AdamW's first step is rate * (sign of the gradient + decay * parameter)."""
    recipe = config.recipe.copy_and_resolve_references()
    recipe.update(lr_encoder=0.01, lr_head=0.1, weight_decay=0.5, clip=1.0)
    params = {"encoder": {"w": jnp.array([2.0, -1.0])}, "head": {"w": jnp.array([4.0])}}
    grads = {"encoder": {"w": jnp.array([30.0, -0.4])}, "head": {"w": jnp.array([40.0])}}
    _, main_phase = optimizers(recipe, steps=5)
    updates, state = main_phase.update(grads, main_phase.init(params), params)
    np.testing.assert_allclose(updates["encoder"]["w"], [-0.01 * 2, -0.01 * -1.5], rtol=1e-4)
    np.testing.assert_allclose(updates["head"]["w"], [-0.1 * 3], rtol=1e-4)
    # One clip over both groups, norm 50 to 1: seen in both moments.
    moments = [leaf for leaf in jax.tree.leaves(state) if np.shape(leaf) == (1,)]
    second = 0.001 * (40 / 50.0) ** 2
    assert min(float(leaf[0]) for leaf in moments) == pytest.approx(second, rel=1e-3)
    assert max(float(leaf[0]) for leaf in moments) == pytest.approx(0.1 * 40 / 50.0, rel=1e-4)


def test_published_split():
    rows, held = seed_42_split(50_000, 5_000)
    assert rows[:3].tolist() == [9926, 35283, 27382] and held[0] == 25278
    assert len(rows) == 45_000 and sorted([*rows, *held]) == list(range(50_000))


def test_digit_pairs_share_no_digit_between_parts(problem):
    halves = lambda x: {half.tobytes() for row in x for half in (row[:64], row[64:])}
    parts = [halves(x) for x in (problem.train["x"], problem.valid.x, problem.test.x)]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert problem.train["x"].max() == 1 and problem.train["label"].max() < 100


def test_pairs_have_one_positive_each_on_every_device():
    views = jax.pmap(lambda batch: paired_views(batch, "batch")[1], axis_name="batch")
    batch = {"first": np.zeros((16, 3)), "second": np.ones((16, 3))}
    labels = np.asarray(views(shard_batch(batch)))
    assert labels.shape == (8, 4) and (np.unique(labels, return_counts=True)[1] == 2).all()
    inputs, labels = paired_views(batch, None)
    assert inputs.shape == (32, 3) and labels.tolist() == [*range(16)] * 2
    assert not inputs[:16].any() and inputs[16:].all()


def test_padding_is_cut_to_a_multiple_of_16():
    ids = np.zeros((3, 128), np.int16)
    ids[0, :20], ids[1, :5] = 7, 7
    out = trimmed({"first": ids, "second": ids[:, :128] * 0 + (np.arange(128) < 3)})
    assert out["first"].shape == (3, 32) and out["second"].shape == (3, 32)


def test_image_inputs():
    images = np.full((4, 32, 32, 3), 255, np.uint8)
    white = (1 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(normalise(images)[0, 0, 0], white, rtol=1e-6)
    out = np.asarray(jax.jit(augmented)(jax.random.key(0), images))
    black = -np.array([0.485, 0.456, 0.406]) / np.array([0.229, 0.224, 0.225])
    assert out.shape == images.shape
    assert (out <= white + 1e-5).all() and (out >= black - 1e-5).all()


@pytest.mark.slow  # whole trainings
def test_trained_heads_and_the_guarantee(problem, config, tmp_path):
    """10,000 ordered pairs in float64: none for the monotone head, some for the standard one."""
    scores = lambda params, state, epoch: {"score": -1.0}  # never better than the first
    recipe = config.recipe.copy_and_resolve_references()
    recipe.update(epochs=9, validate_every=2, patience=4)
    broken = {}
    for kind in ("standard", "monocon"):
        model = build(problem, kind)
        out = train(model, recipe, 0, tmp_path / kind, scores)
        # Validations at epochs 2, 4, 6: the first is the best, then 2 x 2 >= 4 bad ones.
        assert (out.best_epoch, out.epochs) == (2, 6)
        assert 0 <= out.waiting < 1
        x, y = embedder(model)(out.params, out.state, problem.watch)
        assert x.shape == y.shape == (60, 16)
        broken[kind] = order_violations(model.project, out.params, x)
        again = train(model, recipe, 0, tmp_path / kind, scores)
        for a, b in zip(jax.tree.leaves(out.params), jax.tree.leaves(again.params), strict=True):
            np.testing.assert_array_equal(a, b)
    assert broken["monocon"] == 0 < broken["standard"]


@pytest.mark.slow
def test_one_compilation_for_an_epoch(problem, config):
    model = build(problem, "monocon")
    _, main_phase = optimizers(config.recipe, steps=3)
    params, state = model.init(jax.random.key(0))
    step = jit_step(model.loss_fn(0.1, frozen=False), main_phase)
    now = create_state(jax.random.key(1), params, main_phase, state)
    for start in (0, 64, 128):
        batch = jax.tree.map(lambda leaf, start=start: leaf[start : start + 64], problem.train)
        now, _ = step(now, batch)
    assert step._cache_size() == 1


def test_dynamics_of_known_spectra():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 3)) @ rng.normal(size=(3, 10))
    y = np.outer(rng.normal(size=500), np.ones(10)) + 50
    found = dynamics(x, y)
    assert found["d_x"] == 3 and found["d_y"] == 1
    assert found["rms_x"] < 1 and unit(y).shape == y.shape


@pytest.mark.parametrize(
    "file", [monocon_cifar10, monocon_cifar100, monocon_digits, monocon_fashion, monocon_snli]
)
def test_configs_are_in_order(file):
    modes = {monocon_cifar100: ("full", "dynamics", "quick"), monocon_digits: ("full", "quick")}
    modes[monocon_fashion] = ("full", "quick")
    for mode in modes.get(file, ("full", "reduced", "quick")):
        config = file.get_config(mode)
        check(config)
        assert config.problem in PROBLEMS and total_steps(config) >= 1
    with pytest.raises(ValueError, match="unknown mode"):
        file.get_config("fast")


def test_mistakes_are_named():
    cases = {
        "config.problem must be one of .* got 'digit'": {"problem": "digit"},
        "config.kinds must be one of .* got 'monoconn'": {"kinds": ("monoconn",)},
        "config.seeds": {"seeds": ()},
        "recipe.batch_size must be at least 2": {"recipe.batch_size": 1},
        "recipe.temperature must be > 0": {"recipe.temperature": 0.0},
    }
    for message, change in cases.items():
        config = monocon_digits.get_config("quick")
        config.update_from_flattened_dict(change)
        with pytest.raises(ValueError, match=message):
            check(config)


@pytest.mark.slow
def test_quick_run_writes_everything_and_is_read_again(tmp_path, capsys):
    command = ["--config", "monocon_digits:quick", "--workdir", str(tmp_path / "run")]
    assert main(command) == 0
    names = {path.name for path in (tmp_path / "run").iterdir()}
    wanted = {"table1", "table3", "recall", "trajectories"}
    assert {f"{name}.csv" for name in wanted} <= names
    wanted = {"recall", "trajectories", "tsne", "clustermaps", "dynamics_monocon"}
    assert {f"{name}.png" for name in wanted} <= names
    table = (tmp_path / "run" / "table1.csv").read_text()
    assert main(command) == 0  # finished trainings are read
    assert (tmp_path / "run" / "table1.csv").read_text() == table


def test_pairs_of_articles_by_a_convolutional_encoder(data_dir):
    options = monocon_fashion.get_config("quick").data
    problem = PROBLEMS["articles"](options, str(data_dir))
    assert problem.gallery.shape == (200, 28, 56, 1) and problem.gallery.dtype == np.uint8
    assert set(np.unique(problem.test.label)) <= set(range(100))
    x = problem.eval_inputs(problem.test.x[:3])
    variables = jax.eval_shape(problem.encoder.init, jax.random.key(0), x)
    assert jax.eval_shape(problem.encoder.apply, variables, x).shape == (3, problem.dim)


@pytest.mark.slow
def test_monocon_is_more_compact_than_the_others(tmp_path):
    """Spec 12.5: only the order of dimensions, and a floor for the accuracy."""
    from train.monocon.measures import final, validation

    config = monocon_digits.get_config()
    config.data.update(features=(128, 64), train=4000)
    config.recipe.update(epochs=60, validate_every=20)
    problem, dims = digit_pairs(config.data), {}
    for kind in ("baseline", "standard", "monocon"):
        model = build(problem, kind)
        many = embedder(model)

        def evaluate(params, state, epoch, many=many):
            return validation(problem, lambda inputs: many(params, state, inputs))

        out = train(model, config.recipe, 0, tmp_path / kind, evaluate)
        found = final(problem, lambda inputs, o=out, m=many: m(o.params, o.state, inputs), (8,))
        dims[kind] = found["d_eff"]
        assert found["score"] > 75
    assert dims["monocon"] < dims["standard"] < dims["baseline"]


def test_kinds_are_the_ablations():
    assert set(KINDS) == {"baseline", "standard", "monocon", "monocon2"}
