"""Every layer's gain is at most 1, whatever its weights; closed forms; bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import drawn, times, worst_gains

from monojax.layers.aol import AOLConv, AOLDense, aol_scale
from monojax.layers.cayley import CayleyConv, CayleyDense, cayley
from monojax.layers.lipschitz_common import group_sort
from monojax.layers.sandwich import SandwichConv, SandwichDense
from monojax.layers.sll import SLLConv, SLLDense, sll_scale
from monojax.layers.spectral import SpectralDense, gram_bound, power_estimate

TOL = 2e-5  # float32 rounding (1.2e-7) times the few hundred operations of a small layer
KEY = jax.random.key(0)
X = jnp.ones((2, 3))
SLOW = pytest.mark.slow
LARGE = pytest.param(16, 40, marks=SLOW)
quick_cayley = jax.jit(cayley)


def dense_layers(d, n):
    return {
        "spectral": SpectralDense(n),
        "spectral bound": SpectralDense(n, norm="bound"),
        "aol": AOLDense(n),
        "cayley": CayleyDense(n),
        "sll": SLLDense(d, hidden=n),
        "sandwich": SandwichDense(n),
        "sandwich linear": SandwichDense(n, activation=None),
    }


@pytest.mark.parametrize(("d", "n"), [pytest.param(1, 6, marks=SLOW), (7, 3), LARGE])
@pytest.mark.parametrize("name", list(dense_layers(1, 1)))
def test_dense_layers_never_stretch(name, d, n):
    """At random and climbed points, with weights as initialised and x10 (biases spread)."""
    layer = dense_layers(d, n)[name]
    x = jax.random.normal(KEY, (12, d))
    variables = jax.jit(layer.init)(KEY, x)
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    spread = [p + 0.3 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    spread = jax.tree.unflatten(tree, spread)
    both = [spread, times(10, spread)]
    gains = worst_gains(layer.apply, both, x)
    assert 0.5 < max(gains) <= 1 + TOL  # not by being 0 either
    for weights in both:
        out, points = np.asarray(jax.jit(layer.apply)(weights, x)), np.asarray(x)
        pairs = np.linalg.norm(out[:, None] - out, axis=-1)
        assert (pairs - np.linalg.norm(points[:, None] - points, axis=-1)).max() <= 1e-4


@pytest.mark.parametrize(
    "name",
    ["relu", *(pytest.param(n, marks=SLOW) for n in ("tanh", "leaky_relu", "elu", "softplus"))],
)
def test_residual_and_sandwich_hold_for_every_activation(name):
    x = 3 * jax.random.normal(KEY, (8, 5))
    for layer in (SLLDense(5, hidden=9, activation=name), SandwichDense(9, activation=name)):
        variables = jax.jit(layer.init)(KEY, x)
        assert max(worst_gains(layer.apply, [variables, times(10, variables)], x)) <= 1 + TOL


@pytest.mark.slow
def test_the_bounds_are_reached():
    """Not 1-Lipschitz by being 0: each layer stretches some direction by nearly 1."""
    x = jax.random.normal(KEY, (20, 8))
    for name, layer in dense_layers(8, 8).items():
        gain = worst_gains(layer.apply, [layer.init(KEY, x)], x)[0]
        assert gain > (0.6 if name == "aol" else 0.9), name


# --- closed forms -----------------------------------------------------------------------------


def apply_with(layer, x, **values):
    variables = jax.jit(layer.init)(KEY, x)
    params = dict(variables["params"])
    for name, value in values.items():
        assert params[name].shape == jnp.shape(value), name
        params[name] = jnp.asarray(value, x.dtype)
    return jax.jit(layer.apply)({"params": params}, x)


def test_spectral_closed_form():
    """diag(3, 4) has norm 4."""
    x = jnp.array([[1.0, 1.0]])
    out = apply_with(SpectralDense(2), x, kernel=jnp.diag(jnp.array([3.0, 4.0])))
    np.testing.assert_allclose(out, [[0.75, 1.0]], rtol=1e-6)


def test_aol_closed_form():
    """W^T W = [[1,1],[1,1]]: row sums 2, so both columns are divided by sqrt 2."""
    out = apply_with(AOLDense(1), jnp.array([[3.0, 5.0]]), kernel=jnp.ones((2, 1)))
    np.testing.assert_allclose(out, [[8 / np.sqrt(2)]], rtol=1e-6)


def test_cayley_closed_form():
    """For [[0, -t], [t, 0]], A = W - W^T is 2t times the rotation generator: angle 2 atan(2t)."""
    for t in (0.1, 0.5, 3.0):
        angle = 2 * np.arctan(2 * t)
        want = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
        np.testing.assert_allclose(quick_cayley(jnp.array([[0.0, -t], [t, 0.0]])), want, atol=1e-6)


def test_cayley_of_a_column():
    """U = u is 1x1, so A = |v|^2: top (1-|v|^2)/(1+|v|^2), bottom -2v/(1+|v|^2)."""
    got = quick_cayley(jnp.array([[7.0], [1.0], [2.0]]))
    np.testing.assert_allclose(got, np.array([[-4.0], [-2.0], [-4.0]]) / 6, rtol=1e-6)


def test_sll_closed_form():
    """One unit, W = w: T = 2/|w|^2, so an active unit reflects x along w (Householder)."""
    x = jnp.array([[3.0, 1.0]])
    out = apply_with(SLLDense(2, hidden=1), x, kernel=jnp.array([[5.0], [0.0]]))
    np.testing.assert_allclose(out, [[-3.0, 1.0]], rtol=1e-6)
    out = apply_with(SLLDense(2, hidden=1), -x, kernel=jnp.array([[5.0], [0.0]]))
    np.testing.assert_allclose(out, -x, rtol=1e-6)  # inactive: the identity


def test_sandwich_closed_form():
    """1 -> 1: [A B] = (cos, -sin)(t) gives 2 A B relu(x) = -sin(2t) relu(x), psi drops out."""
    kernel = jnp.array([[0.3], [0.5]])
    v = 0.5  # scale = ||kernel||, so the Cayley transform is of the kernel itself
    a, b = (1 - v**2) / (1 + v**2), -2 * v / (1 + v**2)
    x = jnp.array([[2.0], [-2.0]])
    scale, log_psi = np.sqrt(0.34), np.array([0.7])
    layer = SandwichDense(1)
    out = apply_with(layer, x, kernel=kernel, scale=scale, log_psi=log_psi)
    inside = b * np.array([[2.0], [-2.0]])
    np.testing.assert_allclose(out, 2 * a * np.maximum(inside, 0), rtol=1e-6)


def test_group_sort():
    x = jnp.array([[3.0, 1.0, 2.0, 5.0]])
    np.testing.assert_array_equal(group_sort(x, 2), [[1, 3, 2, 5]])
    np.testing.assert_array_equal(group_sort(x, 1), [[1, 2, 3, 5]])
    np.testing.assert_array_equal(group_sort(x, 4), x)
    with pytest.raises(ValueError, match="multiple of num_groups"):
        group_sort(x, 3)


# --- the matrices behind the bounds -----------------------------------------------------------


@pytest.mark.parametrize(("m", "n"), [(6, 6), (9, 4), (4, 9), (5, 1)])
@pytest.mark.parametrize("size", [1.0, 10.0])
def test_cayley_is_orthogonal_in_float64(x64, m, n, size):
    draw = np.random.default_rng(0).normal
    w = size * draw(size=(m, n))
    for matrix in (w, w + 1j * draw(size=(m, n))):
        q = np.asarray(quick_cayley(matrix))
        gram = q.conj().T @ q if m >= n else q @ q.conj().T
        np.testing.assert_allclose(gram, np.eye(min(m, n)), atol=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_aol_and_sll_dominance(x64, seed):
    """T^-2 - W^T W and 2 T^-1 - W W^T are positive semi-definite (1e-10: float64 rounding)."""
    rng = np.random.default_rng(seed)
    kernel = jnp.asarray(rng.normal(size=(6, 11)) * rng.lognormal(0, 2, size=(6, 1)))
    t = np.asarray(jax.jit(aol_scale)(kernel))
    gram = np.asarray(kernel @ kernel.T)
    assert np.linalg.eigvalsh(np.diag(t**-2) - gram).min() >= -1e-10 * np.abs(gram).max()
    q = jnp.asarray(rng.lognormal(0, 1, size=11))
    t = np.asarray(jax.jit(sll_scale)(kernel, q))
    gram = np.asarray(kernel.T @ kernel)
    assert np.linalg.eigvalsh(np.diag(2 / t) - gram).min() >= -1e-10 * np.abs(gram).max()


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_gram_bound_is_above_and_power_below(size):
    """1e-5: rounding of 8 squarings, whose relative error is divided by 2^8 again."""
    for seed, shape in enumerate([(5, 5), (30, 4), (4, 60)]):
        matrix = size * jax.random.normal(jax.random.key(seed), shape)
        exact = float(np.linalg.norm(np.asarray(matrix, np.float64), 2))
        bound = float(jax.jit(gram_bound)(matrix))
        assert exact * (1 - 1e-5) <= bound <= exact * min(shape) ** (1 / 512) * (1 + 1e-5)
        start = jax.random.normal(KEY, (shape[1],))
        below = jax.jit(power_estimate, static_argnums=2)(matrix, start, 1)[0]
        assert float(below) <= exact * (1 + 1e-6)


def test_power_iteration_promises_less():
    """One step from a random vector leaves the norm above 1; repeated calls bring it to 1."""
    layer = SpectralDense(30, norm="power", use_bias=False)
    x = jnp.eye(30)
    variables = layer.init(KEY, x)
    first = np.linalg.norm(layer.apply(variables, x), 2)
    assert first > 1.01
    step = jax.jit(lambda v: layer.apply(v, x, mutable=["spectral"]))
    for _ in range(300):
        out, state = step(variables)
        variables = {**variables, **state}
    np.testing.assert_allclose(np.linalg.norm(out, 2), 1, atol=1e-3)


# --- convolutions -----------------------------------------------------------------------------


CONVS = {
    "aol": lambda c: AOLConv(c),
    "aol circular": lambda c: AOLConv(c, padding="CIRCULAR"),
    "aol strided": lambda c: AOLConv(c, strides=(2, 2)),
    "aol even": lambda c: AOLConv(c, kernel_size=(2, 4)),
    "cayley": lambda c: CayleyConv(c),
    "sll": lambda c: SLLConv(2, hidden=c),
    "sandwich": lambda c: SandwichConv(c),
}


@pytest.mark.parametrize("name", list(CONVS))
@pytest.mark.parametrize("size", [(5, 4), pytest.param((4, 7), marks=SLOW)])
def test_convolutions_never_stretch(name, size):
    """Random weights and ten times those; the Jacobian of the whole image at 4 points."""
    layer = CONVS[name](3)
    x = jax.random.normal(KEY, (4, *size, 2))
    variables = drawn(layer, x)
    flat = lambda v, z: layer.apply(v, z.reshape(*size, 2)).ravel()
    slopes = jax.jit(jax.vmap(jax.jacfwd(flat, argnums=1), in_axes=(None, 0)))
    for weights in (variables, times(10, variables)):
        jacobians = np.asarray(slopes(weights, x.reshape(4, -1)))
        gain = float(np.linalg.norm(jacobians, 2, axis=(1, 2)).max())
        assert gain <= 1 + TOL
        assert gain > 0.2  # not by being 0


def test_cayley_conv_is_orthogonal_in_float64(x64):
    layer = CayleyConv(3, kernel_size=(3, 3), use_bias=False)
    x = jax.random.normal(KEY, (1, 5, 6, 3), jnp.float64)
    variables = drawn(layer, x)
    flat = lambda z: layer.apply(variables, z.reshape(5, 6, 3)).ravel()
    q = np.asarray(jax.jit(jax.jacfwd(flat))(x.ravel()))
    np.testing.assert_allclose(q.T @ q, np.eye(90), atol=1e-10)


def test_aol_conv_of_one_tap_is_the_dense_layer():
    x = jax.random.normal(KEY, (2, 3, 3, 4))
    conv, dense = AOLConv(5, kernel_size=(1, 1)), AOLDense(5)
    kernel = drawn(dense, x)["params"]["kernel"]
    params = {"kernel": kernel[None, None], "bias": jnp.zeros(5)}
    want = jax.jit(dense.apply)({"params": {"kernel": kernel, "bias": jnp.zeros(5)}}, x)
    np.testing.assert_allclose(jax.jit(conv.apply)({"params": params}, x), want, atol=1e-6)


@pytest.mark.parametrize("name", list(dense_layers(1, 1)))
def test_zero_weights_stay_finite(name):
    layer = dense_layers(3, 3)[name]
    x = jnp.ones((2, 3))
    zero = jax.tree.map(jnp.zeros_like, drawn(layer, x))
    loss = lambda v: (layer.apply(v, x) ** 2).sum()
    value, slopes = jax.jit(jax.value_and_grad(loss))(zero)
    assert bool(jnp.isfinite(value))
    assert all(bool(jnp.isfinite(p).all()) for p in jax.tree.leaves(slopes))


def test_bfloat16_output():
    x = jnp.ones((2, 3), jnp.bfloat16)
    for layer in (SandwichDense(4, dtype=jnp.bfloat16), CayleyDense(4, dtype=jnp.bfloat16)):
        out = jax.jit(layer.apply)(drawn(layer, x), x)
        assert out.dtype == jnp.bfloat16
        assert bool(jnp.isfinite(out).all())


# --- bad input --------------------------------------------------------------------------------


def test_unknown_norm():
    with pytest.raises(ValueError, match=r"norm must be one of .*got 'svd'"):
        jax.eval_shape(SpectralDense(4, norm="svd").init, KEY, X)


def test_cayley_inverse_needs_equal_widths():
    variables = jax.eval_shape(CayleyDense(4).init, KEY, jnp.ones((1, 4)))
    invert = lambda v: CayleyDense(4).apply(v, X, method="inverse")
    with pytest.raises(ValueError, match="width"):
        jax.eval_shape(invert, variables)


@pytest.mark.parametrize("name", list(dense_layers(1, 1)))
def test_rejects_another_width(name):
    layer = dense_layers(3, 3)[name]
    variables = jax.eval_shape(layer.init, KEY, X)
    with pytest.raises(ValueError, match=r"another width|keeps its width"):
        jax.eval_shape(layer.apply, variables, jnp.ones((2, 4)))
    with pytest.raises(ValueError, match="must have shape"):
        jax.eval_shape(layer.apply, variables, jnp.float32(1.0))


def test_convolutions_reject_bad_images():
    for layer in (AOLConv(4), CayleyConv(4), SandwichConv(4), SLLConv(2)):
        variables = jax.eval_shape(layer.init, KEY, jnp.ones((1, 5, 5, 2)))
        with pytest.raises(ValueError, match=r"another width|keeps its width"):
            jax.eval_shape(layer.apply, variables, jnp.ones((1, 5, 5, 3)))
        with pytest.raises(ValueError, match="smaller than the kernel"):
            jax.eval_shape(layer.apply, variables, jnp.ones((1, 5, 2, 2)))
        with pytest.raises(ValueError, match="must have shape"):
            jax.eval_shape(layer.apply, variables, jnp.ones((5, 5)))
    with pytest.raises(ValueError, match="padding"):
        AOLConv(4, padding="VALID").init(KEY, jnp.ones((1, 5, 5, 2)))


def test_sll_must_be_square():
    with pytest.raises(ValueError, match="zero-pad or slice x to 5"):
        jax.eval_shape(SLLDense(5).init, KEY, X)


def test_sandwich_need_not_be_square():
    for features in (1, 3, 8):
        out, _ = jax.eval_shape(SandwichDense(features).init_with_output, KEY, X)
        assert out.shape == (2, features)
