"""Monotone networks: Jacobian bounds, order in float64, universality, the published head."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from monojax import layers
from monojax.layers import MonotoneHead, MonotoneMLP
from monojax.layers.monotone import BOUNDED, MOMENTS, RELU_MEAN, RELU_VARIANCE

KEY = jax.random.key(0)


def perturbed(net, x, size=1.0):
    """Parameters far from the initial ones, of both signs."""
    params = jax.jit(net.init)(KEY, x)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    moved = [a + size * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)


def ordered_pairs(dim, num=10_000):
    rng = np.random.default_rng(0)
    low = rng.normal(size=(num, dim))
    # Some coordinates stay equal: order, not strict order.
    return low, low + rng.exponential(size=(num, dim)) * (rng.random((num, dim)) < 0.7)


def test_moments_of_the_half_normal():
    """E relu(z), Var relu(z) by the trapezoid rule on [0, 10], error below 1e-6."""
    z = np.linspace(0, 10, 20001)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    first, second = np.trapezoid(z * density, z), np.trapezoid(z**2 * density, z)
    np.testing.assert_allclose([RELU_MEAN, RELU_VARIANCE], [first, second - first**2], atol=1e-6)


@pytest.mark.parametrize("name", BOUNDED)
def test_moments_of_the_bounded_activations(name):
    """Mean and variance at a standard normal, by the trapezoid rule on [-10, 10]."""
    z = np.linspace(-10, 10, 40001)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    value = np.asarray(BOUNDED[name](jnp.asarray(z, jnp.float32)), np.float64)
    first = np.trapezoid(value * density, z)
    second = np.trapezoid(value**2 * density, z)
    np.testing.assert_allclose(MOMENTS[name], [first, second - first**2], atol=2e-6)


@pytest.mark.slow
def test_mlp_by_hand():
    """Three inputs, one of each direction, tanh, in numpy float64; 1e-5: float32."""
    net = MonotoneMLP((5, 4, 2), (1, 0, -1))
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    variables = perturbed(net, x)
    p = jax.tree.map(np.float64, variables["params"])
    signed = np.float64(x[:, [0, 2]]) * [1, -1]
    h = signed @ p["dense_0"]["kernel"] ** 2 + p["dense_0"]["bias"]
    h = h + np.float64(x[:, [1]]) @ p["free"]["kernel"]
    for i in (1, 2):
        h = np.tanh(h) @ p[f"dense_{i}"]["kernel"] ** 2 + p[f"dense_{i}"]["bias"]
    want = h + signed @ p["linear"]["kernel"] ** 2
    np.testing.assert_allclose(jax.jit(net.apply)(variables, x), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dim", [3, 8])
def test_head_jacobian_bounds(dim, x64):
    """0 <= 0.01 (V1 V2)' <= J <= (V1 V2)', elementwise, to float64 rounding."""
    head = MonotoneHead(dim)
    x = jax.random.normal(KEY, (64, dim), "float64")
    variables = perturbed(head, x)
    v1, v2 = (np.square(variables["params"][f"dense_{i}"]["kernel"]) for i in range(2))
    upper = np.asarray(v1 @ v2).T
    slopes = np.asarray(jax.jit(jax.vmap(jax.jacobian(lambda x: head.apply(variables, x))))(x))
    tight = 1e-12 * upper.max()
    assert slopes.min() >= 0 and upper.min() > 0
    assert (slopes >= 0.01 * upper - tight).all() and (slopes <= upper + tight).all()
    assert slopes.std() > 0  # units of both slopes are met


@pytest.mark.parametrize("num_layers", [1, 2])
def test_head_keeps_order_and_the_standard_one_does_not(num_layers, x64):
    low, high = ordered_pairs(5)
    for monotone in (True, False):
        head = MonotoneHead(5, num_layers=num_layers, monotone=monotone)
        variables = perturbed(head, jnp.asarray(low[:1]))
        apply = jax.jit(lambda x, head=head, variables=variables: head.apply(variables, x))
        worst = float((apply(high) - apply(low)).min())
        # Sums of the same terms in the same order: no tolerance.
        assert worst >= 0 if monotone else worst < -0.1


def test_sign_of_head_weights_is_irrelevant():
    head = MonotoneHead(3)
    x = jax.random.normal(KEY, (4, 3))
    variables = head.init(KEY, x)
    flipped = jax.tree_util.tree_map_with_path(
        lambda path, a: -a if path[-1].key == "kernel" else a, variables
    )
    np.testing.assert_array_equal(head.apply(variables, x), head.apply(flipped, x))


@pytest.mark.parametrize("monotone", [True, False])
def test_head_counts_and_initial_quantiles(monotone):
    """590,976 parameters at d = 384; U(-1/sqrt(n), 1/sqrt(n)) with n = 384 and 768."""
    variables = MonotoneHead(384, monotone=monotone).init(KEY, jnp.ones((1, 384)))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 590_976
    for name, fan_in in (("dense_0", 384), ("dense_1", 768)):
        for part, error in (("kernel", 0.01), ("bias", 0.2)):  # 4 / sqrt(size), and a margin
            raw = np.asarray(variables["params"][name][part]) * np.sqrt(fan_in)
            quantiles = np.quantile(raw, [0.25, 0.5, 0.75])
            np.testing.assert_allclose(quantiles, [-0.5, 0, 0.5], atol=error)
            assert abs(raw).max() <= 1 + 1e-6
    shapes = jax.eval_shape(MonotoneHead(512).init, KEY, jnp.ones((1, 512)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 1_050_112


def test_ablation_has_the_same_parameters():
    x = jnp.ones((1, 3))
    pair = [MonotoneHead(3, monotone=m).init(KEY, x) for m in (True, False)]
    jax.tree.map(np.testing.assert_array_equal, *pair)


def test_standard_head_is_a_plain_perceptron():
    head = MonotoneHead(2, hidden=5, monotone=False)
    x = np.linspace(-1, 1, 12).reshape(4, 3).astype(np.float32)
    p = jax.tree.map(np.asarray, head.init(KEY, x)["params"])
    t = x @ p["dense_0"]["kernel"] + p["dense_0"]["bias"]
    want = np.where(t > 0, t, 0.01 * t) @ p["dense_1"]["kernel"] + p["dense_1"]["bias"]
    np.testing.assert_allclose(head.apply({"params": p}, x), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weight_map", ["square", pytest.param("softplus", marks=pytest.mark.slow)])
def test_mlp_keeps_the_directions(weight_map, x64):
    """10,000 pairs ordered in the declared sense; the free input is the same in both."""
    directions = (1, -1, 0, 1)
    net = MonotoneMLP((9, 8, 2), directions, weight_map=weight_map)
    low, high = ordered_pairs(4)
    high = low + (high - low) * np.asarray(directions)
    variables = perturbed(net, jnp.asarray(low[:1]))
    apply = jax.jit(lambda x: net.apply(variables, x))
    assert (apply(high) - apply(low)).min() >= 0  # as for the head
    slopes = jax.jit(jax.vmap(jax.jacobian(apply)))(low[:200])
    assert slopes[..., [0, 3]].min() >= 0 and slopes[..., 1].max() <= 0
    assert slopes[..., 2].min() < 0 < slopes[..., 2].max()


def test_all_inputs_free_is_an_ordinary_first_layer(x64):
    net = MonotoneMLP((9, 8, 1), (0, 0))
    x = np.random.default_rng(0).normal(size=(200, 2))
    variables = perturbed(net, x)
    slopes = jax.jit(jax.vmap(jax.grad(lambda x: net.apply(variables, x)[0])))(x)
    assert slopes.min() < 0 < slopes.max()


TARGETS = {"sqrt": (jnp.sqrt, 0.04, 4.0), "tanh": (jnp.tanh, -3.0, 3.0)}


def train(net, points, goal, key, steps, rate=0.02):
    """The fitted values at ``points`` `[n, d]` of a net trained on the whole grid."""
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))

    def step(carry, _):
        params, state = carry
        loss = lambda p: jnp.mean((net.apply(p, points)[:, 0] - goal) ** 2)
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    params = net.init(key, points)
    carry = params, optimizer.init(params)
    return net.apply(jax.lax.scan(step, carry, length=steps)[0][0], points)[:, 0]


@pytest.fixture(scope="module")
def fits():
    """Activation to values on the grids `[2, 3, 121]`: two targets, three starts."""
    z = jnp.linspace(-1.7, 1.7, 121)[:, None]  # standardised, as the initialisation expects
    grids = [jnp.linspace(low, high, 121) for _, low, high in TARGETS.values()]
    goals = jnp.stack([f(x) for (f, _, _), x in zip(TARGETS.values(), grids, strict=True)])
    found = {}
    for activation in ("tanh", "relu"):
        net = MonotoneMLP((24, 24, 1), activation=activation)
        one = lambda goal, key, net=net: train(net, z, goal, key, 500)
        every = jax.vmap(jax.vmap(one, in_axes=(None, 0)), in_axes=(0, None))
        found[activation] = np.asarray(jax.jit(every)(goals, jax.random.split(KEY, 3)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_bounded_units_fit_what_convex_ones_cannot(fits, name):
    """A convex f lies below its chords: f(b) <= s f(a) + (1 - s) f(c) for b between a and c.

    So its largest error is at least half of what the target, concave on [a, c], exceeds its own
    chord by: 0.18 for sqrt, 0.22 for tanh. The best of three bounded networks is below half of
    that.
    """
    target, low, high = TARGETS[name]
    row, x = list(TARGETS).index(name), np.linspace(low, high, 121)
    a, c = (0, 120) if name == "sqrt" else (60, 120)
    chord = np.interp(x[a:], x[[a, c]], target(x[[a, c]]))
    bound = float((target(x[a:]) - chord).max()) / 2
    both, convex = (abs(fits[act][row] - target(x)).max(axis=-1) for act in ("tanh", "relu"))
    assert convex.min() >= bound - 1e-4  # float32
    assert both.min() < bound / 2
    assert np.diff(fits["tanh"][row]).min() >= -1e-5  # float32 rounding of values near 2


@pytest.mark.slow
def test_two_inputs_are_fitted():
    """An "and" and an "or" of two inputs, neither convex nor concave nor additive.

    On a grid of 21 x 21; the values reach from 0 to 2. Best of three starts; measured 0.07.
    """
    axis = np.linspace(-1.7, 1.7, 21)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    rise = lambda t: 1 / (1 + np.exp(-6 * t))
    low, high = rise(grid + [0.5, 0.5]), rise(grid - [0.8, 1.0])
    goal = low.prod(axis=1) + high.sum(axis=1) - high.prod(axis=1)
    points = jnp.asarray(grid, jnp.float32)
    net = MonotoneMLP((24, 24, 24, 1))
    every = jax.jit(jax.vmap(lambda key: train(net, points, goal, key, 1000)))
    errors = abs(np.asarray(every(jax.random.split(KEY, 3))) - goal).max(axis=1)
    assert errors.min() < 0.15


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("net", [MonotoneMLP((8, 8, 2)), MonotoneHead(2)], ids=["mlp", "head"])
def test_dtypes_and_transformations(net, dtype):
    net = net.clone(dtype=dtype)
    x = jax.random.normal(KEY, (2, 3, 4))
    variables = jax.jit(net.init)(KEY, x)
    y = jax.jit(net.apply)(variables, x)
    assert y.dtype == dtype and y.shape == (2, 3, 2)
    rows = jax.jit(jax.vmap(jax.vmap(lambda x: net.apply(variables, x))))(x)
    rough = 0.1 if dtype == "bfloat16" else 1e-5  # 8 bits of mantissa, sums of 8 terms
    np.testing.assert_allclose(np.float32(y), np.float32(rows), rtol=rough, atol=rough)
    loss = lambda p: jnp.sum(net.apply(p, x).astype("float32") ** 2)
    slopes = jax.jit(jax.grad(loss))(variables)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(slopes))


def test_initial_variance_through_layers():
    """Kept by the first layer; units are then correlated, and it grows by less than 4 a layer."""
    x = jax.random.normal(KEY, (2000, 100))
    net = MonotoneMLP((100, 100, 100))
    y, seen = net.init_with_output(KEY, x, capture_intermediates=True)
    first, second, third = (
        float(t[0].var(axis=0).mean())
        for t in (seen["intermediates"][f"dense_{i}"]["__call__"] for i in range(3))
    )
    # 100 units of 2,000 samples each.
    assert first == pytest.approx(1, abs=0.02)
    assert 0.5 < second / first < 4 and 0.5 < third / second < 4
    top, straight = (seen["intermediates"][n]["__call__"][0] for n in ("dense_2", "linear"))
    np.testing.assert_allclose(y, top + straight, rtol=1e-5, atol=1e-5)


def test_bad_arguments_are_named():
    x = jnp.ones((2, 3))
    for net, message in (
        (MonotoneMLP(()), "non-empty sequence of widths"),
        (MonotoneMLP((4, 1), (1, 1)), r"directions must have shape \(3,\)"),
        (MonotoneMLP((4, 1), (1, 2, 0)), r"entry 1 is 2"),
        (MonotoneMLP((4, 1), activation="rleu"), "did you mean 'relu'"),
        (MonotoneMLP((4, 1), weight_map="cube"), "weight_map must be one of .*got 'cube'"),
        (MonotoneMLP((4, 1), input_variance=0.0), "input_variance must be finite and > 0"),
        (MonotoneHead(0), "dim must be made of integers >= 1, got 0"),
        (MonotoneHead(3, hidden=0), "hidden must be made of integers"),
        (MonotoneHead(3, num_layers=3), "1 or 2 hidden layers, got 3"),
        (MonotoneHead(3, negative_slope=-0.1), "negative_slope must be finite and >= 0, got -0.1"),
        (MonotoneHead(3, negative_slope=1.1), r"in \[0, 1\], got 1.1"),
    ):
        with pytest.raises(ValueError, match=message):
            net.init(KEY, x)
    head = MonotoneHead(3)
    with pytest.raises(ValueError, match="another width than at init"):
        head.apply(head.init(KEY, x), jnp.ones((2, 4)))
    with pytest.raises(TypeError, match="no concave units any more"):
        MonotoneMLP((4, 1), concave=0.5)
    with pytest.raises(TypeError, match="'reparam' is named 'weight_map' now"):
        MonotoneMLP((4, 1), reparam="square")
    with pytest.raises(TypeError, match=r"squared, as published.*named weight_map.*MonotoneMLP"):
        MonotoneHead(4, reparam="square")
    for make in (lambda **o: layers.ConvexMLP((3,), **o), lambda **o: layers.ICNN((3,), **o)):
        with pytest.raises(TypeError, match="'reparam' is named 'weight_map' now"):
            make(reparam="square")
    with pytest.raises(TypeError, match="'reparam' is named 'weight_map' now"):
        layers.SmoothMinMax(reparam="square")
    with pytest.raises(TypeError, match="exponentials, as published"):
        layers.ScalableMonotoneNetwork((3,), reparam="exp")
    with pytest.raises(ValueError, match="'clip' is named 'clamp' now"):
        MonotoneMLP((4, 1), weight_map="clip").init(KEY, x)
    with pytest.raises(ValueError, match="cannot be traced"):
        jax.jit(lambda s: MonotoneMLP((2,), s).init(KEY, x))(jnp.ones(3, int))
