"""The count of unconverged solves: right, summed over layers and devices, and in the log."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawing import drawn

from monojax import training
from monojax.bilipschitz import BLNN, PartialBLNN, unconverged, worst_residual
from monojax.conjugate import Solver, softplus
from monojax.layers import Chain, Rotation

X = jnp.asarray(np.random.default_rng(0).normal(size=(16, 2)), jnp.float32)
X = X.at[::2].multiply(0.02)  # easy and hard examples
# Plain and few steps, so that some examples meet the tolerance and some do not.
SHORT = Solver("fixed", learning_rate=0.2, tolerance=1e-2, max_steps=8)
NET = BLNN((4,), 0.5, 9.0, softplus(2.0), SHORT)
VARIABLES = drawn(NET, X)


def loss_fn(net):
    def loss(params, model_state, batch, key, axis_name):
        variables = {"params": params}
        out, record = net.apply(variables, batch["x"], mutable=["diagnostics"])
        metrics = {
            "unconverged": unconverged(record, axis_name=axis_name),
            "worst_residual": worst_residual(record, axis_name=axis_name),
        }
        return jnp.mean(jnp.square(out - batch["x"])), (model_state, metrics)

    return loss


@pytest.fixture(scope="module")
def counted():
    """Count, worst residual and record of the call, and what `diagnostics` says."""

    @jax.jit
    def run(x):
        _, record = NET.apply(VARIABLES, x, mutable=["diagnostics"])
        info = NET.apply(VARIABLES, x, method="diagnostics")
        return unconverged(record), worst_residual(record), record, info

    return run


@pytest.mark.slow
def test_count_equals_the_diagnostics(counted):
    count, worst, record, info = counted(X)
    assert 0 < count < 16 and count == (~info.converged).sum() and count.dtype == jnp.int32
    np.testing.assert_allclose(worst, info.residual.max(), rtol=1e-5)
    assert set(record) == {"diagnostics"}
    assert NET.apply(VARIABLES, X).shape == X.shape  # without mutable: the output alone


@pytest.mark.slow
def test_nan_counts_and_shows(counted):
    count, _, _, info = counted(X)
    solved = int(np.flatnonzero(info.converged)[0])
    more, worst, _, _ = counted(X.at[solved].set(jnp.nan))
    assert more == count + 1 and np.isnan(worst)


def test_init_leaves_no_record():
    shapes = jax.eval_shape(NET.init, jax.random.key(0), X)
    assert set(shapes) == {"params"}


@pytest.mark.slow
def test_layers_add_up_and_vmap_keeps_its_axis():
    """A chain of two: the second's examples are the first's outputs."""
    chain = Chain((NET, Rotation(), NET.clone()))
    params = drawn(chain, X)

    @jax.jit
    def run(x):
        _, record = chain.apply(params, x, mutable=["diagnostics"])
        one = lambda x: unconverged(chain.apply(params, x, mutable=["diagnostics"])[1])
        parts = jax.vmap(lambda x: chain.apply(params, x, mutable=["diagnostics"])[1])(x)
        return unconverged(record), jax.vmap(one)(x), unconverged(parts), record

    total, each, parts, record = run(X)
    layers = [int(layer["unconverged"]) for layer in record["diagnostics"].values()]
    assert len(layers) == 2 and sum(layers) == total == each.sum() == parts and min(layers) > 0


@pytest.mark.slow
def test_partial_and_inverse_are_recorded():
    net = PartialBLNN((3,), 1.0, 9.0, activation=softplus(2.0), solver=SHORT)
    params = drawn(net, X, X)

    @jax.jit
    def run(x):
        call, back = (
            net.apply(params, x, x, mutable=["diagnostics"], method=name)[1]
            for name in ("__call__", "inverse")
        )
        return unconverged(call), unconverged(back), net.apply(params, x, x, method="diagnostics")

    call, back, info = run(X)
    assert call == (~info.converged).sum() > 0 and back > 0


@pytest.mark.slow
def test_gradients_do_not_change():
    """Recording is an auxiliary output: same value and gradient with it and without."""
    plain = lambda v: jnp.mean(jnp.square(NET.apply(v, X) - X))
    noted = lambda v: loss_fn(NET)(v["params"], {}, {"x": X}, None, None)
    run = jax.jit(lambda v: (jax.grad(plain)(v), jax.grad(noted, has_aux=True)(v)[0]))
    for a, b in zip(*map(jax.tree.leaves, run(VARIABLES)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("max_steps", [8, 500])
def test_training_log_shows_the_count(tmp_path, max_steps):
    """max_steps reached: the first line counts what diagnostics counts, later lines go on."""
    net = NET.clone(solver=Solver("fixed", learning_rate=0.2, tolerance=1e-2, max_steps=max_steps))
    optimizer = optax.sgd(1e-3)
    state = training.create_state(jax.random.key(0), VARIABLES["params"], optimizer)
    want = (~jax.jit(lambda x: net.apply(VARIABLES, x, method="diagnostics"))(X).converged).sum()
    training.fit(
        jax.tree.map(jnp.copy, state),
        training.jit_step(loss_fn(net), optimizer),
        training.Schedule(3),
        keep=training.Keep(tmp_path, {"max_steps": max_steps}, tensorboard=False),
        batches=training.ArrayBatches({"x": np.asarray(X)}, 16, seed=0),
        bar=False,
    )
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 3 and lines[0]["unconverged"] == want
    assert all(line["worst_residual"] > 0 for line in lines)
    assert (want > 0) == (max_steps == 8)


@pytest.mark.slow
def test_pmap_sums_over_devices():
    """Eight devices with two examples each count what one device counts."""
    optimizer = optax.sgd(1e-3)
    state = training.create_state(jax.random.key(0), VARIABLES["params"], optimizer)
    batch = {"x": X}
    _, one = training.jit_step(loss_fn(NET), optimizer)(jax.tree.map(jnp.copy, state), batch)
    step = training.pmap_step(loss_fn(NET), optimizer)
    _, eight = step(training.replicate(state), training.shard_batch(batch))
    assert one["unconverged"] > 0
    np.testing.assert_array_equal(eight["unconverged"], np.full(8, one["unconverged"]))
    np.testing.assert_allclose(eight["worst_residual"], one["worst_residual"], rtol=1e-5)


def test_nothing_recorded_is_an_error():
    for empty in ({}, {"diagnostics": {}}, {"batch_stats": {"mean": jnp.zeros(2)}}):
        for read in (unconverged, worst_residual):
            with pytest.raises(ValueError, match="mutable="):
                read(empty)
