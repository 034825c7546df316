"""What every guaranteed layer has: bounds, norms, frozen options, explicit broadcasting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import drawn

from monojax import layers
from monojax.layers.depthwise import depthwise_conv
from monojax.layers.guarantee import frozen

KEY = jax.random.key(0)
D = (1, 0, -1)
TWO = ("two", "two")
# The module, its bounds where they are known in advance, and its norms.
KNOWN = {
    "spectral": (layers.SpectralDense(4), (0, 1), TWO),
    "aol": (layers.AOLDense(4), (0, 1), TWO),
    "cayley tall": (layers.CayleyDense(4), (1, 1), TWO),
    "cayley wide": (layers.CayleyDense(2), (0, 1), TWO),
    "sll": (layers.SLLDense(3), (0, 1), TWO),
    "sandwich": (layers.SandwichDense(4), (0, 1), TWO),
    "rotation": (layers.Rotation(), (1, 1), TWO),
    "monlip": (layers.MonLipDense((4,), 0.5, 2.0), (0.5, 2), TWO),
    "bilipnet": (layers.BiLipNet((4,), 0.25, 4.0), (0.25, 4), TWO),
    "network": (layers.LipschitzMLP((4, 2), 3.0), (0, 3), TWO),
    "norm one": (layers.NormDense(4, "one", 0.5), (0, 0.5), ("one", "one")),
    "norm inf": (layers.NormDense(4, "inf", 2.0), (0, 2), ("inf", "inf")),
    "norm one-inf": (layers.NormDense(4, "one-inf"), (0, 1), ("one", "inf")),
    "norm two-inf": (layers.NormDense(4, "two-inf"), (0, 1), ("two", "inf")),
    "lmn one": (layers.LMN((4, 1), 2.0, D), (0, 4), ("one", "any")),
    "lmn two": (layers.LMN((4, 2), 2.0, D, "two"), (0, 2 + 8**0.5), ("two", "inf")),
    "lmn inf": (layers.LMN((4, 2), 2.0, D, "inf"), (0, 6), ("inf", "inf")),
}
FROM_WEIGHTS = {
    "nonnegative": layers.NonNegativeDense(4),
    "mlp": layers.MonotoneMLP((4, 4, 2), D),
    "mlp of free inputs": layers.MonotoneMLP((4, 2), (0, 0, 0)),
    "head": layers.MonotoneHead(3),
    "standard head": layers.MonotoneHead(3, monotone=False),
    "smooth min-max": layers.SmoothMinMax(3, 2, D, 2),
    "min-max": layers.SmoothMinMax(3, 2, D, 2, smooth=False),
    "smnn": layers.ScalableMonotoneNetwork((4, 3), D, (3, 2), (2, 4), outputs=2),
    "icnn": layers.ICNN((4, 3)),
    "convex": layers.ConvexMLP((4, 3, 2)),
    "dc convex": layers.DCNetwork((4, 2)),
    "dc monotone": layers.DCNetwork((4, 2), "monotone", inverted=True),
}
X = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
ORDS = {"one": 1, "two": 2, "inf": np.inf, "any": 2}


@pytest.mark.parametrize("name", KNOWN)
def test_bounds_and_norms(name):
    """As the constants say, and no pair of points is stretched more or less, in the norms."""
    module, want, norms = KNOWN[name]
    variables = drawn(module, X)
    low, high = module.apply(variables, method="bounds")
    np.testing.assert_allclose((low, high), want, rtol=1e-6)
    assert module.norms == norms
    y = np.asarray(jax.jit(module.apply)(variables, X), np.float64)
    i, j = np.triu_indices(len(X), 1)
    before, after = (
        np.linalg.norm(v[i] - v[j], ord=ORDS[norm], axis=1)
        for v, norm in zip((np.float64(X), y), norms, strict=True)
    )
    # 2e-5: rounding of small layers, as in the tests of the layers.
    assert (after <= high * before * (1 + 2e-5) + 1e-5).all()
    assert (after >= low * before * (1 - 2e-5) - 1e-5).all()


@pytest.mark.parametrize("name", FROM_WEIGHTS)
def test_bounds_from_the_weights(name):
    """They lie above every Jacobian's norm, and follow the weights."""
    module = FROM_WEIGHTS[name]
    variables = drawn(module, X)
    assert module.norms == TWO

    @jax.jit
    def run(v):
        flat = lambda x: jnp.atleast_1d(module.apply(v, x))
        return module.apply(v, method="bounds"), jax.vmap(jax.jacfwd(flat))(X)

    (low, high), slopes = run(variables)
    seen = np.linalg.norm(np.asarray(slopes, np.float64), 2, axis=(1, 2)).max()
    assert low == 0 and 0 < seen <= high * (1 + 1e-5)


def test_bounds_that_are_not_known_are_refused():
    power = layers.SpectralDense(4, norm="power")
    with pytest.raises(ValueError, match="certifies no bound"):
        power.bounds()
    custom = layers.MonotoneMLP((4, 1), activation=jnp.arctan)
    with pytest.raises(ValueError, match="callable activation are not known"):
        custom.apply(drawn(custom, X), method="bounds")
    steep = layers.ConvexMLP((4, 1), activation=jnp.exp)
    with pytest.raises(ValueError, match="not bounded, or not known"):
        steep.apply(drawn(steep, X), method="bounds")


# --- options ----------------------------------------------------------------------------------

SAME = [
    (layers.LMN, ((4, 1), 2.0, (1, 0, -1)), ([4, 1], np.float32(2), [1, 0, -1])),
    (layers.LMN, ((4, 1), 2.0, (1, 0, -1)), ((4, 1), jnp.float32(2), jnp.array([1, 0, -1]))),
    (layers.MonotoneMLP, ((4, 1), (1, 0, -1)), ([4, 1], np.array([1, 0, -1]))),
    (layers.SmoothMinMax, (3, 2, (1, 0, -1)), (np.int64(3), 2, np.array([1.0, 0, -1]))),
    (layers.NonNegativeDense, (3, "abs"), (np.int32(3), "abs")),
    (layers.NormDense, (3, "inf", 2.0), (3, "inf", jnp.bfloat16(2))),
    (layers.MonLipDense, ((4,), 0.5, 2.0), ([4], jnp.float32(0.5), np.float64(2))),
    (layers.ICNN, ((4, 4),), ([4, 4],)),
    (layers.PairwiseICNN, ((4, 4),), (np.array([4, 4]),)),
    (layers.ConvICNN, ((4,), 3, (1,)), ([4], np.int64(3), [1])),
]


@pytest.mark.parametrize("case", range(len(SAME)))
def test_options_are_hashable_and_equal(case):
    """Lists, arrays and scalars of numpy and jax are what tuples and numbers are."""
    make, plain, other = SAME[case]
    assert make(*other) == make(*plain)
    assert hash(make(*other)) == hash(make(*plain))


def test_a_module_with_listed_directions_is_a_static_argument():
    apply = jax.jit(lambda module, variables, x: module.apply(variables, x), static_argnums=0)
    for directions in ([1, 0, -1], np.array(D), jnp.array(D)):
        module = layers.LMN((4, 1), 2.0, directions)
        assert apply(module, drawn(module, X), X).shape == (30, 1)


def test_frozen_leaves_the_rest_alone():
    assert frozen(jnp.tanh) is jnp.tanh and frozen(None) is None and frozen("a") == "a"
    assert frozen(np.dtype("float32")) == np.dtype("float32") and frozen(jnp.float32) is jnp.float32
    assert frozen([1, [np.float32(0.5)]]) == (1, (0.5,))
    traced = []
    jax.jit(lambda c: traced.append(frozen(c)) or c)(1.0)
    assert isinstance(traced[0], jax.core.Tracer)


BAD = [
    (lambda c: layers.LMN((4, 1), c, D), -1.0, "lipschitz must be finite and > 0"),
    (lambda c: layers.LipschitzMLP((4, 1), c), 0.0, "lipschitz must be finite and > 0"),
    (lambda c: layers.NormDense(4, max_norm=c), float("nan"), "max_norm must be finite and > 0"),
    (lambda c: layers.MonLipDense((4,), c, 2.0), -1.0, "lower must be finite and >= 0"),
    (lambda c: layers.BiLipNet((4,), 1.0, c), 0.5, "lower must be below upper"),
    (lambda c: layers.NonNegativeDense(4, input_mean=c), float("inf"), "input_mean must be finite"),
    (lambda c: layers.MonotoneMLP((4, 1), spread=c), -1.0, "spread must be finite and >= 0"),
    (lambda c: layers.MonotoneMLP((4, 1), input_variance=c), 0.0, "input_variance must be finite"),
    (lambda c: layers.MonotoneHead(3, negative_slope=c), 2.0, "negative_slope must be in"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
@pytest.mark.parametrize("kind", [float, np.float32, jnp.float32])
def test_bad_constants_are_refused_in_every_form_inside_jit(case, kind):
    make, value, message = BAD[case]
    constant = kind(value)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda x: make(constant).init(KEY, x), X)


def test_good_constants_of_every_kind_work_inside_jit():
    lower, upper, one = jnp.float32(0.5), np.float32(2), jnp.bfloat16(1)
    modules = [
        layers.BiLipNet((4,), lower, upper),
        layers.LMN((4, 1), one, jnp.array(D)),
        layers.LipschitzMLP((4, 1), upper),
        layers.NonNegativeDense(4, input_mean=jnp.zeros(3)),
    ]
    for module in modules:
        jax.eval_shape(lambda x, module=module: module.init(KEY, x), X)
    net = modules[0]
    record = jax.eval_shape(
        lambda v, x: net.apply(v, x, method="inverse_diagnostics"), drawn(net, X), X
    )
    assert record.converged.shape == (30,)


# --- broadcasting -----------------------------------------------------------------------------

EVERY = {name: row[0] for name, row in KNOWN.items()} | FROM_WEIGHTS
EVERY |= {
    "spectral bound": layers.SpectralDense(4, norm="bound"),
    "spectral power": layers.SpectralDense(4, norm="power"),
    "lmn of three": layers.LMN((6, 2), 2.0, D, group_size=3),
    **{
        f"network {kind}": layers.LipschitzMLP((4, 2), 2.0, kind)
        for kind in ("spectral", "aol", "cayley", "sll")
    },
    "pairwise": layers.PairwiseICNN((4,)),
    "partial": layers.PartialICNN((4, 3)),
}
IMAGES = {
    "aol": layers.AOLConv(3),
    "cayley": layers.CayleyConv(3),
    "sll": layers.SLLConv(2, hidden=3),
    "sandwich": layers.SandwichConv(3),
    "convex": layers.ConvICNN((3, 2)),
}


@pytest.fixture
def no_promotion():
    before = jax.config.jax_numpy_rank_promotion
    jax.config.update("jax_numpy_rank_promotion", "raise")
    yield
    jax.config.update("jax_numpy_rank_promotion", before)


@pytest.mark.parametrize("name", EVERY)
def test_no_layer_needs_rank_promotion(name, no_promotion):
    """Traced only: initialised, applied and differentiated, with two leading axes."""
    module, x = EVERY[name], jnp.ones((2, 2, 3))
    inputs = (x[..., :2], x) if name in ("pairwise", "partial") else (x,)
    variables = jax.eval_shape(module.init, KEY, *inputs)
    loss = lambda v: jnp.sum(module.apply(v, *inputs))
    jax.eval_shape(jax.grad(loss), variables)
    if hasattr(module, "inverse") and name != "cayley tall" and name != "cayley wide":
        jax.eval_shape(lambda v: module.apply(v, x, method="inverse"), variables)
    if hasattr(module, "bounds") and name not in ("spectral power", "pairwise", "partial"):
        jax.eval_shape(lambda v: module.apply(v, method="bounds"), variables)


def test_no_depthwise_convolution_needs_rank_promotion(no_promotion):
    out = jax.eval_shape(
        lambda x, k: depthwise_conv(x, k, (2, 1)), jnp.ones((2, 5, 4, 3)), jnp.ones((3, 3, 1, 3))
    )
    assert out.shape == (2, 3, 4, 3)


@pytest.mark.parametrize("name", IMAGES)
def test_no_convolution_needs_rank_promotion(name, no_promotion):
    module, x = IMAGES[name], jnp.ones((2, 2, 4, 4, 2))
    variables = jax.eval_shape(module.init, KEY, x)
    jax.eval_shape(jax.grad(lambda v: jnp.sum(module.apply(v, x))), variables)
