"""What a penalty is asked of: outputs, batches, options under jit, values that are not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import monojax as mj
from monojax.models import MLP

X = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
ENTRIES = {
    "penalty": mj.monotonicity_penalty,
    "value and penalty": mj.value_and_penalty,
    "slopes": mj.penalties.signed_slopes,
    "rate": mj.metrics.violation_rate,
    "violations": mj.metrics.violations,
    "report": mj.metrics.monotonicity_report,
}


# --- which output ------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_vector_needs_a_choice(entry):
    """The second output falls; "max" as a default looked at the first and gave 0."""
    falling = lambda x: jnp.stack([x.sum() + 100, -x.sum()])
    with pytest.raises(ValueError, match=r"2 outputs.*'all'.*'max'.*'label'.*'paired'"):
        ENTRIES[entry](falling, X, (1, 1))
    assert float(mj.monotonicity_penalty(falling, X, (1, 1), outputs="max")) == 0
    assert float(mj.monotonicity_penalty(falling, X, (1, 1), outputs="all")) == 2


def test_a_vector_of_one_has_one_reading():
    one = lambda x: -x.sum()[None]
    assert float(mj.monotonicity_penalty(one, X, (1, 1))) == 2
    assert float(mj.metrics.violation_rate(one, X, (1, 1))) == 1


@pytest.mark.parametrize(
    "batched",
    [
        lambda x: x[:, 0],
        lambda x: x.sum(axis=1),
        lambda x: jnp.einsum("nd,d->n", x, jnp.ones(2)),
        lambda x: jnp.mean(x[:, 0] - x[:, 1]),  # averages over the batch as well
    ],
)
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_function_of_a_batch_is_told_so(entry, batched):
    with pytest.raises(ValueError, match=r"ONE example of shape \(2,\).*without a batch axis"):
        ENTRIES[entry](batched, X, (1, 1))


@pytest.mark.parametrize("entry", ENTRIES)
def test_something_else_than_a_function_is_told_what_fn_is(entry):
    for wrong in ({"params": X}, X, None):
        with pytest.raises(TypeError, match=r"first argument, fn, must be .*model\.apply\(params"):
            ENTRIES[entry](wrong, X, (1, 1))


def test_other_mistakes_keep_their_error():
    with pytest.raises(KeyError, match="kernel"):
        mj.monotonicity_penalty(lambda x: {}["kernel"] @ x, X, (1, 1))
    with pytest.raises(TypeError, match="contracting"):
        mj.monotonicity_penalty(lambda x: jnp.ones(3) @ x, X, (1, 1))


# --- numbers -----------------------------------------------------------------------------------

WAVE = lambda x: jnp.sin(3 * x[0]) + x[1] ** 2
KEY = jax.random.key(3)
OPTIONS = {
    "margin": (lambda v: mj.monotonicity_penalty(WAVE, X, (1, 1), margin=v), 0.1, -1.0),
    "radius of mixup": (
        lambda v: mj.mixup_points(KEY, 4, X, 0.0, 1.0, radius=v).sum(),
        0.25,
        0.75,
    ),
    "radius of data": (lambda v: mj.data_mixup_points(KEY, 4, X, radius=v).sum(), 0.25, -0.1),
    "margin of the range": (lambda v: mj.data_range(X, margin=v)[0].sum(), 0.5, -0.5),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_concrete_jax_scalar_is_an_option_inside_jit(name):
    call, good, bad = OPTIONS[name]
    scalar, wrong = jnp.float32(good), jnp.float32(bad)
    want = float(call(good))
    assert float(jax.jit(lambda: call(scalar))()) == pytest.approx(want, rel=1e-5)
    assert float(jax.jit(call)(scalar)) == pytest.approx(want, rel=1e-5)
    with pytest.raises(ValueError, match="must be finite"):
        jax.jit(lambda: call(wrong))()


@pytest.mark.parametrize(
    "call",
    [
        lambda big: mj.monotonicity_penalty(WAVE, big, (1, 1)),
        lambda big: mj.metrics.empirical_lipschitz(WAVE, big),
        lambda big: mj.data_mixup_points(KEY, 3, big),
        lambda big: mj.uniform_points(KEY, 3, big[0], big[1]),
        lambda big: mj.total_activation(big, 2),
        lambda big: mj.supcon_loss(big, np.arange(2)),
    ],
)
@pytest.mark.parametrize("jit", [False, True])
def test_numbers_that_float32_does_not_hold_are_refused(call, jit):
    """1e39 is finite in float64; it was checked before the cast to float32 made it infinite."""
    big = np.array([[1.0, 2.0], [3.0, 1e39]])
    with pytest.raises(ValueError, match="beyond the range of float32"):
        jax.jit(lambda: call(big))() if jit else call(big)


def test_a_box_that_is_wider_than_float32():
    with pytest.raises(ValueError, match="too far apart"):
        mj.uniform_points(KEY, 3, [-3e38], [3e38])
    with pytest.raises(ValueError, match="beyond the range of float16"):
        mj.mixup_points(KEY, 3, X.astype(np.float16), -1e6, 1.0)


@pytest.mark.parametrize("first", [2**32 - 3, np.int64(2**33), -1, 2**40])
def test_counters_do_not_begin_again(first):
    """Point i of a key is counter i of 32 bits: 2^32 would be point 0 again."""
    with pytest.raises(ValueError, match="first must lie in"):
        mj.uniform_points(KEY, 4, [0.0], [1.0], first=first)
    last = mj.uniform_points(KEY, 4, [0.0], [1.0], first=2**32 - 4)
    assert len(np.unique(last)) == 4


# --- values that are not finite -----------------------------------------------------------------

BROKEN = {
    "NaN beside a clean slope": lambda x: jnp.where(x[0] > 0, x.sum(), jnp.nan),
    "minus infinity": lambda x: jnp.where(x[0] > 0, x.sum(), -jnp.inf),
    "one of two outputs": lambda x: jnp.stack([x.sum(), jnp.where(x[0] > 0, x[1], jnp.inf)]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_value_that_is_not_finite_is_a_violation(name):
    share = np.mean(X[:, 0] <= 0)
    assert 0 < share < 1
    options = {"outputs": "all" if "two" in name else None}
    rate = mj.metrics.violation_rate(BROKEN[name], X, (1, 1), **options)
    assert float(rate) == pytest.approx(share)
    report = mj.metrics.monotonicity_report(BROKEN[name], X, (1, 1), **options)
    assert float(report.violation_rate) == float(report.broken_rate) == pytest.approx(share)
    for reduce in ("mean", "max"):
        penalty = mj.monotonicity_penalty(BROKEN[name], X, (1, 1), reduce=reduce, **options)
        assert np.isnan(penalty)


# --- inside shard_map ----------------------------------------------------------------------------


@pytest.mark.parametrize("reduce", ["mean", "max"])
@pytest.mark.parametrize("directions", [(1, 0, 0, -1), (1, -1, 1, 1)], ids=["partial", "whole"])
def test_shard_map_gives_what_one_device_gives(directions, reduce):
    """With jax's own check of what varies; derivatives by shared values would be summed."""
    model = MLP((5,), activation=jnp.tanh)
    x = jax.random.normal(KEY, (8, 4))
    params = model.init(KEY, x)

    def loss(params, x, axis_name=None):
        fn = lambda point: model.apply(params, point)
        options = {"reduce": reduce, "margin": 0.3, "axis_name": axis_name}
        return mj.monotonicity_penalty(fn, x, directions, **options)

    mesh = Mesh(np.array(jax.devices()[:4]), ("b",))
    parts = jax.device_put(x, jax.NamedSharding(mesh, P("b")))
    shared = jax.device_put(params, jax.NamedSharding(mesh, P()))
    step = jax.shard_map(
        jax.value_and_grad(lambda p, x: loss(p, x, "b")),
        mesh=mesh,
        in_specs=(P(), P("b")),
        out_specs=(P(), P()),
    )
    value, grads = jax.jit(step)(shared, parts)
    want, gradient = jax.jit(jax.value_and_grad(loss))(params, x)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    # The replicated parameters' gradient comes summed: of a loss that is the same on all.
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("outputs", [None, "all"])
def test_slopes_inside_shard_map_are_each_device_s_own(outputs):
    """Points that all devices share, and a function that is each device's own."""
    scale = jnp.arange(1.0, 5.0)
    mesh = Mesh(np.array(jax.devices()[:4]), ("b",))

    def slopes(scale, x):
        fn = lambda p: scale[0] * (p[0] - p[1]) * (1 if outputs is None else jnp.ones(2))
        found = mj.penalties.signed_slopes(fn, x, (1, 0), outputs=outputs)[1]
        return found.reshape(len(x), -1, 2)[:, 0, 0]

    where = [jax.NamedSharding(mesh, spec) for spec in (P("b"), P())]
    args = jax.device_put(scale, where[0]), jax.device_put(jnp.ones((1, 2)), where[1])
    run = jax.shard_map(slopes, mesh=mesh, in_specs=(P("b"), P()), out_specs=P("b"))
    np.testing.assert_allclose(jax.jit(run)(*args), scale)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("wrong", [-1, 2])
def test_a_traced_label_that_is_no_output_is_nan(entry, wrong):
    """Under jit it cannot raise, and must not be taken for the last output: NaN, and violated."""
    fn = lambda x: jnp.stack([-x[0], x[0] + x[1]])
    points = jnp.ones((3, 2))
    labels = jnp.asarray([0, wrong, 1])
    ask = lambda labels: ENTRIES[entry](fn, points, (1, 1), outputs="label", labels=labels)
    found = jax.jit(ask)(labels)
    if entry == "violations":
        np.testing.assert_array_equal(found, [True, True, False])
    elif entry == "rate":
        np.testing.assert_allclose(found, 2 / 3, rtol=1e-6)  # one rounding
    else:
        assert any(np.isnan(np.asarray(leaf)).any() for leaf in jax.tree.leaves(found)), found
    with pytest.raises(ValueError, match="labels must lie in"):
        ask(np.asarray(labels))


def test_slopes_of_the_other_points_stay():
    fn = lambda x: jnp.stack([-x[0], x[0] + x[1]])
    ask = lambda labels: mj.penalties.signed_slopes(
        fn, jnp.ones((3, 2)), (1, 1), outputs="label", labels=labels
    )
    _, slopes = jax.jit(ask)(jnp.asarray([0, -1, 1]))
    np.testing.assert_array_equal(slopes, [[-1, 0], [np.nan, np.nan], [1, 1]])
