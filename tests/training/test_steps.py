"""The step under jit on one device and under pmap on eight."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import monojax as mj
from monojax import training
from monojax.models import MLP

MODEL = MLP((16,))
DIRECTIONS = np.array([1, -1, 0, 1, 1])
BATCH, POINTS = 32, 64
DATA = jax.random.uniform(jax.random.key(0), (BATCH, 5))
TARGET = jnp.sin(5 * DATA).sum(axis=1)
PARAMS = MODEL.init(jax.random.key(1), DATA)

needs_8 = pytest.mark.skipif(
    jax.local_device_count() < 8, reason="needs 8 devices (tests/conftest.py simulates them)"
)


def loss_fn(params, model_state, batch, key, axis_name, *, reduce, region):
    """Squared error plus penalty, the points keyed by their global index."""
    fn = functools.partial(MODEL.apply, params)
    x, index, share = batch["x"], 0, 1
    if axis_name is not None:
        index, share = jax.lax.axis_index(axis_name), jax.lax.psum(1, axis_name)
        x = jax.lax.all_gather(x, axis_name, tiled=True)  # mixtures pair all rows of the batch
    num = POINTS // share
    low, high = jnp.zeros(5), jnp.ones(5)
    if region == "random":
        points = mj.uniform_points(key, num, low, high, first=index * num)
    elif region == "mixup":
        points = mj.mixup_points(key, num, x, low, high, first=index * num)
    else:
        points = batch["x"]
    penalty = mj.monotonicity_penalty(
        fn, points, DIRECTIONS, reduce=reduce, margin=0.5, axis_name=axis_name
    )
    error = jnp.mean(jnp.square(fn(batch["x"]) - batch["y"]))
    return error + penalty, (model_state, {"penalty": penalty})


@needs_8
@pytest.mark.parametrize("reduce", ["mean", "max"])
@pytest.mark.parametrize("region", ["random", "mixup", "train"])
def test_eight_devices_take_the_step_of_one(reduce, region):
    """One SGD step (Adam would hide a wrong scale), relative to the update's norm."""
    optimizer = optax.sgd(0.1)
    loss = functools.partial(loss_fn, reduce=reduce, region=region)
    batch = {"x": DATA, "y": TARGET}
    # Copies: the step donates its state, and PARAMS is shared by the tests.
    one = training.create_state(jax.random.key(2), jax.tree.map(jnp.copy, PARAMS), optimizer)
    many = training.replicate(one)
    one, metrics = training.jit_step(loss, optimizer)(one, batch)
    many, metrics_many = training.pmap_step(loss, optimizer)(many, training.shard_batch(batch))
    many = training.unreplicate(many)
    assert float(metrics["penalty"]) > 0
    np.testing.assert_allclose(metrics_many["penalty"], metrics["penalty"], rtol=1e-6)
    flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    update = flat(one.params) - flat(PARAMS)
    difference = np.linalg.norm(flat(many.params) - flat(one.params))
    # float32 sums in another order; 1e-6 is the project's bar.
    assert difference <= 1e-6 * np.linalg.norm(update)


@needs_8
def test_replicas_stay_equal():
    optimizer = optax.adam(1e-2)
    loss = functools.partial(loss_fn, reduce="max", region="random")
    state = training.replicate(
        training.create_state(jax.random.key(2), jax.tree.map(jnp.copy, PARAMS), optimizer)
    )
    step = training.pmap_step(loss, optimizer)
    batch = training.shard_batch({"x": DATA, "y": TARGET})
    for _ in range(3):
        state, metrics = step(state, batch)
    for leaf in jax.tree.leaves((state.params, state.opt_state, metrics)):
        leaf = np.asarray(leaf)
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
    assert training.unreplicate(state).step == 3


@needs_8
def test_counters_in_the_model_state_stay_integers():
    def loss(params, model_state, batch, key, axis_name):
        state = {"count": model_state["count"] + 1, "mean": batch["x"].mean()}
        return jnp.square(params["w"]).sum(), (state, {})

    optimizer = optax.sgd(0.1)
    first = {"count": jnp.int32(0), "mean": jnp.float32(0)}
    state = training.create_state(jax.random.key(0), {"w": jnp.ones(2)}, optimizer, first)
    state = training.replicate(state)
    state, _ = training.pmap_step(loss, optimizer)(state, training.shard_batch({"x": DATA}))
    state = training.unreplicate(state)
    assert state.model_state["count"].dtype == jnp.int32 and state.model_state["count"] == 1
    np.testing.assert_allclose(state.model_state["mean"], DATA.mean(), rtol=1e-6)


def test_step_counts_and_draws_new_points():
    optimizer = optax.sgd(0.0)
    loss = functools.partial(loss_fn, reduce="mean", region="random")
    state = training.create_state(jax.random.key(2), jax.tree.map(jnp.copy, PARAMS), optimizer)
    step = training.jit_step(loss, optimizer)
    state, first = step(state, {"x": DATA, "y": TARGET})
    state, second = step(state, {"x": DATA, "y": TARGET})
    assert state.step == 2 and first["penalty"] != second["penalty"]


def test_batches_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"30 examples does not divide by 8 devices.*24"):
        training.shard_batch({"x": np.zeros((30, 2))}, 8)


@pytest.mark.parametrize("batch_size", [None, 1, 2])
def test_seeds_in_one_program_equal_single_runs(batch_size):
    def run(state, data):
        return jax.tree.map(lambda w: jnp.tanh(w @ data), state)

    states = jax.random.normal(jax.random.key(0), (5, 3, 3))
    data = jax.random.normal(jax.random.key(1), (3,))
    got = jax.jit(training.over_seeds(run, batch_size=batch_size))(states, data)
    want = jnp.stack([run(state, data) for state in states])
    np.testing.assert_allclose(got, want, rtol=1e-6)  # another order of three products


def test_seeds_compile_once():
    traces = []

    def run(state):
        traces.append(1)
        return state * 2

    program = jax.jit(training.over_seeds(run, batch_size=1))
    program(jnp.ones((20, 3)))
    program(jnp.zeros((20, 3)))
    assert len(traces) == 1
    with pytest.raises(ValueError, match="at least 1"):
        training.over_seeds(run, batch_size=0)


OPTIMIZERS = {
    "sgd": lambda: optax.sgd(0.1),
    "lbfgs": optax.lbfgs,  # remembers the start; its line search wants value, grad, value_fn
    "prodigy": lambda: optax.contrib.prodigy(1.0),  # remembers the start
    "schedule_free": lambda: optax.contrib.schedule_free_adamw(0.1),
    "plateau": lambda: optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1)),
    "polyak": optax.polyak_sgd,  # wants value
    "backtracking": lambda: optax.chain(
        optax.sgd(1.0),
        optax.scale_by_backtracking_linesearch(5, store_grad=True),  # value_fn and its gradient
    ),
}
SLOW = [pytest.param("lbfgs", marks=pytest.mark.slow)]  # its zoom takes 15 s to compile


def tied_loss(params, model_state, batch, key, axis_name):
    error = jnp.tanh(batch["x"] @ params["a"]) @ params["b"].T - batch["x"]
    return jnp.square(error).mean() + 0.01 * jnp.square(params["a"]).sum(), (model_state, {})


@pytest.mark.parametrize("name", [*sorted(OPTIMIZERS.keys() - {"lbfgs"}), *SLOW])
def test_optimisers_of_any_kind_and_tied_weights(name):
    """At 97de41c: "donate the same buffer twice", a missing `value`, the caller's key deleted."""
    optimizer, weights, key = OPTIMIZERS[name](), jnp.full((5, 5), 0.3), jax.random.key(2)
    params = {"a": weights, "b": weights}
    state = training.create_state(key, params, optimizer)
    step = training.jit_step(tied_loss, optimizer)
    losses = []
    for _ in range(4):
        state, metrics = step(state, {"x": DATA})
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]
    np.testing.assert_array_equal(params["a"], np.full((5, 5), 0.3, np.float32))
    assert jax.random.key_data(key).shape  # the caller's own are still there


def test_the_state_shares_no_memory():
    """With the caller's model state, with numpy arrays, and under vmap."""
    statistics = {"mean": jnp.zeros(3)}
    state = training.create_state(
        jax.random.key(0), {"w": np.ones(3)}, optax.sgd(0.1), model_state=statistics
    )
    assert state.model_state["mean"] is not statistics["mean"]
    for leaf in jax.tree.leaves(state):
        leaf.delete()
    assert statistics["mean"].sum() == 0
    make = lambda w: training.create_state(jax.random.key(0), {"w": w}, optax.adam(0.1))
    many = jax.vmap(make)(jnp.ones((4, 3)))
    assert many.params["w"].shape == (4, 3) and many.step.shape == (4,)


@needs_8
@pytest.mark.parametrize("name", ["backtracking", *SLOW])
def test_a_line_search_on_eight_devices_is_that_of_one(name):
    """value_fn is the mean over devices, and so is its gradient."""
    optimizer = OPTIMIZERS[name]()
    params = {"a": jnp.full((5, 5), 0.3), "b": jnp.full((5, 5), -0.2)}
    one = training.create_state(jax.random.key(2), params, optimizer)
    many = training.replicate(one)
    step, pstep = training.jit_step(tied_loss, optimizer), training.pmap_step(tied_loss, optimizer)
    for _ in range(2):
        one, metrics = step(one, {"x": DATA})
        many, found = pstep(many, training.shard_batch({"x": DATA}))
    np.testing.assert_allclose(found["loss"], np.full(8, metrics["loss"]), rtol=1e-5)
    for a, b in zip(
        *map(jax.tree.leaves, (one.params, training.unreplicate(many).params)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
