"""Smooth min-max and scalable monotone networks: by hand, in order, and with directions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import drawn

from monojax.layers import ScalableMonotoneNetwork, SmoothMinMax

KEY = jax.random.key(0)
D = (1, 0, -1)
X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
NETS = {
    "smooth": SmoothMinMax(3, 4, D, 2),
    "smooth, exp": SmoothMinMax(3, 4, D, 2, weight_map="exp"),
    "hard": SmoothMinMax(3, 4, D, 2, smooth=False),
    "smnn": ScalableMonotoneNetwork((5, 4), D, outputs=2),
    "smnn of other widths": ScalableMonotoneNetwork((5, 4), D, (3, 2), (2, 6)),
}


def test_smooth_min_max_by_hand():
    """-exp(-b) log sum_k 1 / sum_j exp(a_kj) + c in numpy float64; 1e-5: float32."""
    net = SmoothMinMax(3, 4, D, 2)
    variables = drawn(net, X)
    p = jax.tree.map(np.float64, variables["params"])
    x = np.float64(X)
    a = x[:, [0, 2]] * [1, -1] @ p["kernel"] ** 2 + x[:, [1]] @ p["free_kernel"] + p["bias"]
    a = a.reshape(40, 2, 3, 4)
    soft = -np.log((1 / np.exp(a).sum(axis=-1)).sum(axis=-1))
    want = soft * np.exp(-p["log_sharpness"]) + p["offset"]
    np.testing.assert_allclose(jax.jit(net.apply)(variables, X), want, rtol=1e-5, atol=1e-5)
    hard = net.clone(smooth=False)
    want = a.max(axis=-1).min(axis=-1)
    np.testing.assert_allclose(jax.jit(hard.apply)(variables, X), want, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_min_and_max_of_two_inputs_are_exact():
    """Two groups of one unit are a minimum, one group of two units is a maximum."""
    kernel = jnp.eye(2)  # squares of 1 and 0
    points = X[:, :2]
    for groups, units, want in ((2, 1, points.min(axis=1)), (1, 2, points.max(axis=1))):
        net = SmoothMinMax(groups, units, smooth=False)
        params = {"kernel": kernel, "bias": jnp.zeros(2)}
        np.testing.assert_array_equal(net.apply({"params": params}, points)[:, 0], want)
        sharp = {"kernel": 100 * kernel, "bias": jnp.zeros(2)}  # weights of 10,000
        sharp |= {"log_sharpness": jnp.log(jnp.full(1, 1e4)), "offset": jnp.zeros(1)}
        smooth = SmoothMinMax(groups, units).apply({"params": sharp}, points)[:, 0]
        # log(2) / sharpness is what a smooth minimum of two is off by, at most.
        np.testing.assert_allclose(smooth, want, atol=1e-4)


def test_smnn_by_hand():
    """Two layers of the three kinds of units in numpy float64; 1e-4: float32, weights of size e."""
    net = ScalableMonotoneNetwork((5, 4), D, (3, 2), (2, 6))
    variables = drawn(net, X)
    p = jax.tree.map(np.float64, variables["params"])
    dense = lambda name, x, weights: x @ weights(p[f"{name}_kernel"]) + p[f"{name}_bias"]
    clip = lambda t: 0.99 * np.clip(t, 0, 1) + 0.01 * t
    same = lambda w: w
    rising, free = np.float64(X)[:, [0, 2]] * [1, -1], np.float64(X)[:, [1]]
    for i in range(2):
        up = clip(dense(f"exp_{i}", rising, np.exp))
        met = clip(dense(f"confluence_{i}", free, same))
        free = np.maximum(dense(f"relu_{i}", free, same), 0)
        rising = np.concatenate([up, met], axis=1)
    want = dense("out", np.concatenate([rising, free], axis=1), np.exp)
    np.testing.assert_allclose(jax.jit(net.apply)(variables, X), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETS)
def test_order_and_directions(name, x64):
    """2,000 pairs in order in float64, the free input the same; the free slope has both signs."""
    net, rng = NETS[name], np.random.default_rng(1)
    low = rng.normal(size=(2000, 3))
    high = low + rng.exponential(size=low.shape) * (rng.random(low.shape) < 0.7) * np.array(D)
    variables = drawn(net, low)
    apply = jax.jit(lambda x: net.apply(variables, x))
    rise = np.asarray(apply(high) - apply(low))
    assert rise.min() >= -1e-13 * np.abs(apply(low)).max() and rise.max() > 0.01
    slopes = np.asarray(jax.jit(jax.vmap(jax.jacfwd(apply)))(low[:300]))
    assert slopes[..., 0].min() >= 0 and slopes[..., 2].max() <= 0
    assert slopes[..., 1].min() < 0 < slopes[..., 1].max()


@pytest.mark.parametrize("size", [1e-30, 1e-19, 1e4])
def test_bounds_of_tiny_weights(size):
    """Not 0 where the squares of the weights are; found by the attack."""
    net = SmoothMinMax(3, 4, D, smooth=False, weight_map="abs")
    variables = jax.tree.map(lambda p: size * p, drawn(net, X))
    kernels = [np.float64(variables["params"][n]) for n in ("kernel", "free_kernel")]
    want = np.linalg.norm(np.concatenate(kernels), axis=0).max()
    np.testing.assert_allclose(net.apply(variables, method="bounds")[1], want, rtol=1e-6)


@pytest.mark.slow
def test_initial_values_are_the_published_ones():
    """Normal cut off at 2; uniform on [-20, 2], and around -10; sharpness e^-1."""
    p = SmoothMinMax(60, 60).init(KEY, X)["params"]
    for name in ("kernel", "bias"):
        assert abs(p[name]).max() <= 2 and 0.84 < float(p[name].std()) < 0.92  # 0.880
    assert p["log_sharpness"] == -1 and p["offset"] == 0
    p = ScalableMonotoneNetwork((200, 200), (1, 1, 0)).init(KEY, X)["params"]
    raw = np.asarray(p["exp_1_kernel"])
    np.testing.assert_allclose(np.quantile(raw, [0, 0.5, 1]), [-20, -9, 2], atol=0.3)
    assert np.median(p["out_kernel"]) == pytest.approx(-10, abs=0.5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", ["smooth", "hard", "smnn"])
def test_dtypes_and_transformations(name, dtype):
    net = NETS[name].clone(dtype=dtype)
    variables = drawn(net, X)

    @jax.jit
    def run(v, x):
        rows = jax.vmap(lambda x: net.apply(v, x))(x)
        loss = lambda v: jnp.sum(net.apply(v, x).astype("float32") ** 2)
        return net.apply(v, x.reshape(2, 20, 3)), rows, jax.grad(loss)(v)

    y, rows, slopes = run(variables, X)
    assert y.dtype == dtype and y.shape == (2, 20, 2)
    rough = 0.1 if dtype == "bfloat16" else 1e-5
    np.testing.assert_allclose(
        np.float32(y).reshape(40, 2), np.float32(rows), rtol=rough, atol=rough
    )
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(slopes))


def test_bad_arguments_are_named():
    for net, message in (
        (SmoothMinMax(0), "groups must be made of integers >= 1, got 0"),
        (SmoothMinMax(2, units=0), "units must be made of integers"),
        (SmoothMinMax(2, directions=(1, 1)), r"directions must have shape \(3,\)"),
        (SmoothMinMax(2, directions=(1, 2, 0)), "entry 1 is 2"),
        (SmoothMinMax(2, weight_map="clip"), "'clip' is named 'clamp' now"),
        (ScalableMonotoneNetwork(()), "non-empty sequence of widths"),
        (ScalableMonotoneNetwork((4, 4), relu=(4,)), r"relu must name as many layers .*\(2\)"),
        (ScalableMonotoneNetwork((4,), directions=(1, 1)), r"directions must have shape \(3,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(net.init, KEY, X)
    for net in (SmoothMinMax(2), ScalableMonotoneNetwork((4,))):
        with pytest.raises(ValueError, match="another width than at init"):
            jax.eval_shape(net.apply, drawn(net, X), X[:, :2])
        with pytest.raises(ValueError, match="cannot be traced"):
            jax.jit(lambda d, net=net: net.clone(directions=d).init(KEY, X))(jnp.ones(3, int))
