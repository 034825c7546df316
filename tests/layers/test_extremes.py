"""Guarantees at weights where squares leave the range of floats, and slopes where they are ties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import drawn

from monojax import layers
from monojax.layers.aol import aol_conv_scale, aol_kernel, aol_scale, gram_sums
from monojax.layers.cayley import LIMIT, cayley, limited, polished
from monojax.layers.lipschitz_common import length, magnitude, rescaled
from monojax.layers.lmn import constrain
from monojax.layers.nonnegative import CAP, NONNEGATIVE_MAPS, nonnegative_map
from monojax.layers.sll import sll_scale
from monojax.layers.spectral import gram_bound, spectral_norm

TOL = 2e-5  # as in the tests of the layers
quick_cayley = jax.jit(cayley)


@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (7, 6), (12, 10), (4, 9), (5, 1), (2, 2)])
def test_cayley_is_orthogonal_at_every_scale(shape):
    """Full rank and rank one; the fault was 7.6% at 1e3 and 69 times or NaN at 1e4."""
    rng = np.random.default_rng(0)
    full, thin = rng.normal(size=shape), np.outer(*(rng.normal(size=n) for n in shape))
    for matrix in (full, thin):
        matrix = matrix / np.linalg.norm(matrix)
        for scale in (1e-30, 1e-10, 1.0, 30.0, 100.0, 1e3, 1e4, 1e10, 1e25, 1e37):
            q = np.asarray(quick_cayley(jnp.asarray(scale * matrix, jnp.float32)), np.float64)
            gram = q.T @ q if shape[0] >= shape[1] else q @ q.T
            np.testing.assert_allclose(gram, np.eye(min(shape)), atol=TOL)


def test_cayley_below_its_limit_is_untouched(x64):
    """Against the formula, in float64; above the limit it is that of the scaled matrix."""
    w = np.random.default_rng(0).normal(size=(7, 4))
    w = w / np.linalg.norm(w)

    def formula(w):
        u, v = w[:4], w[4:]
        a, eye = u - u.T + v.T @ v, np.eye(4)
        inverse = np.linalg.inv(eye + a)
        return np.concatenate([inverse @ (eye - a), -2 * v @ inverse])

    for scale in (0.5, 5.0, 99.0):
        np.testing.assert_allclose(quick_cayley(scale * w), formula(scale * w), atol=1e-9)
    np.testing.assert_allclose(quick_cayley(1e6 * w), formula(LIMIT * w), atol=1e-9)


def test_limited_and_polished():
    w = jnp.asarray([[3.0, 4.0]])
    np.testing.assert_array_equal(limited(w, 10.0), w)
    np.testing.assert_allclose(limited(1e30 * w, 10.0), [[6.0, 8.0]], rtol=1e-6)
    np.testing.assert_array_equal(limited(jnp.zeros((2, 2)), 1.0), 0)
    near = 1.01 * jnp.eye(3)  # 1.5 * 1.01 - 0.5 * 1.01^3
    np.testing.assert_allclose(polished(near), (1.515 - 0.5 * 1.01**3) * np.eye(3), rtol=1e-6)


@pytest.mark.parametrize("skew", [1e3, 1e4, 1e8, 1e30])
def test_rotations_turn_at_every_skew(skew):
    net = layers.Rotation()
    x = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    variables = {"params": {"skew": skew * drawn(net, x)["params"]["skew"]}}
    y = jax.jit(net.apply)(variables, x)
    before, after = (np.linalg.norm(np.float64(v), axis=1) for v in (x, y))
    np.testing.assert_allclose(after, before, rtol=TOL)
    back = jax.jit(lambda v, y: net.apply(v, y, method="inverse"))(variables, y)
    np.testing.assert_allclose(back, x, atol=10 * TOL)


def gains(layer, variables, x):
    """Norms of Jacobians at the rows of x, judged in float64."""
    flat = lambda v, z: layer.apply(v, z).ravel()
    slopes = jax.jit(jax.vmap(jax.jacfwd(flat, argnums=1), in_axes=(None, 0)))(variables, x)
    return np.linalg.norm(np.asarray(slopes, np.float64).reshape(len(x), -1, x[0].size), 2, (1, 2))


SIZES = [1e-30, 1e-19, 3e-20, 1e-11, 1e19, 1e25, 1e30]


@pytest.mark.parametrize(
    "layer", [layers.AOLDense(4), layers.SLLDense(3, hidden=4), layers.SpectralDense(4)]
)
def test_dense_layers_keep_their_bound_at_every_scale(layer):
    """All weights of one size, one unit of it, and entries of sizes around 1e-19 (the fault)."""
    x = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    variables = drawn(layer, x)
    shape = variables["params"]["kernel"].shape
    one, row = np.ones(shape), np.ones(shape)
    row[0] = 0
    mixed = np.exp(np.random.default_rng(1).normal(size=shape))
    run = jax.jit(
        jax.vmap(jax.jacfwd(lambda v, z: layer.apply(v, z), argnums=1), in_axes=(None, 0))
    )
    found = []
    for size in SIZES:
        for spread in (size * one, np.where(row, size, 1.0), size * mixed):
            kernel = variables["params"]["kernel"] * jnp.asarray(spread, jnp.float32)
            slopes = run({"params": variables["params"] | {"kernel": kernel}}, x)
            found.append(np.linalg.norm(np.asarray(slopes, np.float64), 2, (1, 2)).max())
    assert np.max(found) <= 1 + TOL  # False for NaN
    assert np.min(found) > 0.5  # not by being 0 either


@pytest.mark.parametrize("layer", [layers.AOLConv(3), layers.SLLConv(2, hidden=3)])
@pytest.mark.parametrize("size", [1e-19, 1e25])
def test_convolutions_keep_their_bound_at_every_scale(layer, size):
    x = np.random.default_rng(0).normal(size=(3, 4, 3, 2)).astype(np.float32)
    variables = drawn(layer, x)
    params = variables["params"] | {"kernel": size * variables["params"]["kernel"]}
    found = gains(layer, {"params": params}, x)
    assert 0.2 < found.max() <= 1 + TOL


def test_scales_are_those_of_the_formulas(x64):
    """Balancing changes nothing: against the published formulas in numpy, to rounding."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(5, 7)) * rng.lognormal(0, 3, size=(5, 1))
    want = np.abs(kernel @ kernel.T).sum(axis=1) ** -0.5
    q = rng.lognormal(0, 1, size=7)
    taps = rng.normal(size=(3, 2, 4, 5))

    @jax.jit
    def run(kernel, q, taps):
        dense = aol_scale(kernel), aol_kernel(kernel), sll_scale(kernel, q)
        sums = gram_sums(jnp.swapaxes(taps, 2, 3)).sum(axis=1)
        return *dense, sums, aol_conv_scale(taps), aol_kernel(taps)

    scale, rows, steps, sums, conv_scale, conv = run(kernel, q, taps)
    np.testing.assert_allclose(scale, want, rtol=1e-12)
    np.testing.assert_allclose(rows, want[:, None] * kernel, rtol=1e-12)
    np.testing.assert_allclose(steps, 2 / (np.abs(kernel.T @ kernel) @ q / q), rtol=1e-12)
    np.testing.assert_allclose(conv_scale, np.asarray(sums) ** -0.5, rtol=1e-12)
    np.testing.assert_allclose(conv, np.asarray(conv_scale)[:, None] * taps, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("psi", [0.0, 8.0, -8.0, 10.0, 100.0])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sandwich_keeps_its_bound_at_every_psi(psi, dtype):
    """Jacobians, and differences of values beyond their rounding (up to e^4 times the bias)."""
    layer = layers.SandwichDense(8, dtype=dtype)
    x = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    variables = drawn(layer, x)
    params = variables["params"] | {"log_psi": jnp.full(8, psi)}
    assert gains(layer, {"params": params}, x).max() <= 1 + (TOL if dtype == "float32" else 0.03)
    y = np.asarray(jax.jit(layer.apply)({"params": params}, x), np.float64)
    i, j = np.triu_indices(40, 1)
    near = np.linalg.norm(np.float64(x)[i] - x[j], axis=1)
    far = np.linalg.norm(y[i] - y[j], axis=1)
    rounding = 8 * float(jnp.finfo(dtype).eps) * np.abs(y).max()
    assert (far <= near * (1 + TOL) + rounding).all()
    assert np.abs(y).max() < 1e3  # e^8 would give offsets of 3,000


def test_gradients_of_sll_at_tiny_kernels():
    """Finite at 1e-11 and at neighbours, dense and convolutional (the fault: NaN)."""
    dense, conv = layers.SLLDense(3, hidden=4), layers.SLLConv(2, hidden=3)
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    images = np.random.default_rng(0).normal(size=(2, 4, 4, 2)).astype(np.float32)
    for layer, inputs in ((dense, x), (conv, images)):
        variables = drawn(layer, inputs)
        run = jax.jit(jax.grad(lambda v, layer=layer, x=inputs: jnp.sum(layer.apply(v, x)) / 1e12))
        for size in (1e-11, 1e-15, 1e-19, 0.0):
            kernel = size * variables["params"]["kernel"]
            slopes = run({"params": variables["params"] | {"kernel": kernel}})
            assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(slopes)), size


def test_second_derivatives_of_the_spectral_norm_at_ties():
    """Finite at the identity, at a rotation, at 0 and at two equal rows (the fault: NaN)."""
    second = jax.jit(jax.hessian(lambda w: jnp.sum(spectral_norm(w) * w**2)))
    turn = np.array([[0, -1.0, 0], [1, 0, 0], [0, 0, 1]])
    for matrix in (np.eye(3), 2 * turn, np.zeros((3, 3)), np.diag([2.0, 2.0, 1.0])):
        assert bool(jnp.isfinite(second(jnp.asarray(matrix, jnp.float32))).all())
    layer = layers.SpectralDense(3)
    loss = lambda k: jnp.sum(jnp.sin(layer.apply({"params": {"kernel": k, "bias": 0 * k[0]}}, k)))
    assert bool(jnp.isfinite(jax.jit(jax.hessian(loss))(jnp.eye(3))).all())


def test_derivatives_of_the_spectral_norm_where_there_are_any(x64):
    """First and second, against differences; 1e-6: central differences at 1e-5."""
    rng = np.random.default_rng(0)
    for shape in ((4, 3), (3, 5), (4, 4)):
        matrix, move = (jnp.asarray(rng.normal(size=shape)) for _ in range(2))
        slope = jax.jit(jax.grad(spectral_norm))
        value = lambda t, m=matrix, d=move: spectral_norm(m + t * d)
        by_value = (value(1e-5) - value(-1e-5)) / 2e-5
        np.testing.assert_allclose(jnp.sum(slope(matrix) * move), by_value, atol=1e-6)
        curved = jax.jit(jax.hessian(spectral_norm))(matrix)
        by_slope = (slope(matrix + 1e-5 * move) - slope(matrix - 1e-5 * move)) / 2e-5
        np.testing.assert_allclose(jnp.einsum("ijkl,kl", curved, move), by_slope, atol=1e-6)


def test_one_decomposition_for_value_and_slopes():
    """Of the norm, of a layer and of a layer with tangents: a second one costs as much again."""
    layer = layers.SpectralDense(3)
    loss = lambda k: jnp.sum(layer.apply({"params": {"kernel": k, "bias": 0 * k[0]}}, k) ** 2)
    kernel = jnp.eye(3)
    for run in (
        jax.value_and_grad(spectral_norm),
        jax.value_and_grad(loss),
        lambda k: jax.jvp(loss, (k,), (k,)),
    ):
        compiled = jax.jit(run).lower(kernel).compile().as_text()
        assert compiled.count("gesdd") == 1, compiled


@pytest.mark.parametrize("size", [1e-30, 1e-19, 1.0, 1e25, 1e37])
def test_norms_in_range(size):
    """Frobenius, spectral and operator norms against numpy's in float64, where squares leave."""
    matrix = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    matrix = np.float32(size) * matrix
    exact = np.float64(matrix)
    np.testing.assert_allclose(length(jnp.asarray(matrix)), np.linalg.norm(exact), rtol=1e-6)
    bound = float(jax.jit(gram_bound)(matrix)) / np.linalg.norm(exact, 2)
    assert 1 - 1e-5 <= bound <= 3 ** (1 / 512) * (1 + 1e-5)
    scaled = rescaled(jnp.asarray(matrix), jnp.asarray(2.0))
    np.testing.assert_allclose(scaled, 2 * exact / np.linalg.norm(exact), rtol=1e-5)
    for kind in ("one", "inf", "one-inf", "two-inf"):
        kept = np.asarray(constrain(jnp.asarray(matrix), kind), np.float64)
        columns = np.linalg.norm(kept, axis=0)
        assert np.isfinite(kept).all() and np.abs(kept).max() <= 1 + 1e-6
        if kind == "two-inf" and size > 1:
            np.testing.assert_allclose(columns, 1, rtol=1e-6)


def test_magnitude_is_an_exact_power_of_two():
    values = jnp.asarray([[3.0, -5.0], [0.0, 0.0], [1e-45, 0.0], [jnp.inf, 1.0], [1.0, 0.5]])
    np.testing.assert_array_equal(magnitude(values, 1)[:, 0], [4, 1, 1, 1, 1])
    slope = jax.grad(lambda w: jnp.sum(w / magnitude(w)))(jnp.asarray([3.0, 5.0]))
    np.testing.assert_array_equal(slope, 0.25)  # constant in derivatives


@pytest.mark.parametrize("weight_map", NONNEGATIVE_MAPS)
def test_non_negative_weights_are_capped_with_finite_slopes(weight_map):
    positive = jax.jit(nonnegative_map(weight_map))
    raw = jnp.asarray([-1e30, -1e3, -1.0, 0.0, 1.0, 1e3, 1e30])
    values, slopes = positive(raw), jax.jit(jax.vmap(jax.grad(nonnegative_map(weight_map))))(raw)
    assert (values >= 0).all() and values.max() <= CAP * (1 + 1e-5)
    assert bool(jnp.isfinite(slopes).all())


# --- chains and inverses ----------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)


def test_chains_multiply_where_norms_agree():
    chain = layers.Chain((layers.BiLipNet((4,), 0.5, 2.0), layers.Rotation(), layers.AOLDense(2)))
    np.testing.assert_allclose(chain.apply(drawn(chain, X), method="bounds"), (0, 2), rtol=1e-6)
    assert chain.norms == ("two", "two")
    plain = layers.Chain(
        (layers.NormDense(4, "inf", 2.0), layers.LMN((4, 1), 1.0, (0,) * 4, "inf"))
    )
    np.testing.assert_allclose(plain.bounds(), (0, 2))
    assert plain.norms == ("inf", "any")
    assert layers.Chain((layers.LMN((4, 1), 1.0, (1,) * 3), layers.CayleyDense(2))).bounds()[1] == 2


@pytest.mark.parametrize(
    "modules",
    [
        (layers.NormDense(4, "inf"), layers.AOLDense(2)),
        (layers.AOLDense(4), layers.NormDense(2, "one-inf")),
        (layers.LMN((4, 2), 1.0, (1, 0, 0)), layers.Rotation()),
    ],
)
def test_chains_of_other_norms_are_refused(modules):
    """The values are still to be had; the bounds are not: the product would be too small."""
    chain = layers.Chain(modules)
    assert jax.eval_shape(chain.apply, drawn(chain, X), X).shape[-1] >= 2
    with pytest.raises(ValueError, match="constants do not multiply"):
        chain.apply(drawn(chain, X), method="bounds")


@pytest.mark.slow
def test_a_chain_says_how_good_its_inverse_is(x64):
    net = layers.BiLipNet((4,), 0.5, 4.0, param_dtype=jnp.float64)
    turn = layers.Rotation(param_dtype=jnp.float64)
    chain = layers.Chain((net, turn, layers.MonLipDense((3,), 0.2, 1.0, param_dtype=jnp.float64)))
    x = jnp.asarray(X, jnp.float64)
    variables = drawn(chain, x)

    @jax.jit
    def run(v):
        y = chain.apply(v, x)
        back = chain.apply(v, y, method="inverse")
        return back, chain.apply(v, y, method="inverse_diagnostics")

    back, record = run(variables)
    error = np.linalg.norm(back - x, axis=-1)
    assert bool(record.converged.all()) and record.steps.min() >= 1
    assert (error <= record.error_bound).all() and record.error_bound.max() < 1e-5
    with pytest.raises(ValueError, match="no inverse: AOLDense"):
        layers.Chain((layers.AOLDense(3),)).apply({}, x, method="inverse_diagnostics")


@pytest.mark.slow
def test_the_record_of_a_stiff_inverse_is_true():
    """Float32: the residual that it states is at least the true one, in float64."""
    net = layers.BiLipNet((6, 5), 0.1, 10.0)
    variables = jax.tree.map(lambda p: 3 * p, drawn(net, X))

    @jax.jit
    def run(v, upper):
        net = layers.BiLipNet((6, 5), 0.1, upper)
        y = net.apply(v, X)
        return y, *(net.apply(v, y, method=m) for m in ("inverse", "inverse_diagnostics"))

    forward = lambda v, x, upper: layers.BiLipNet((6, 5), 0.1, upper).apply(v, x)
    for upper in (10.0, 1e3, 1e5):
        y, x, record = run(variables, upper)
        with jax.enable_x64(True):
            wide = jax.tree.map(lambda p: jnp.asarray(p, jnp.float64), variables)
            there = np.asarray(jax.jit(forward)(wide, jnp.asarray(np.float64(x)), upper))
        residual = np.linalg.norm(there - np.float64(y), axis=1)
        assert (residual <= np.asarray(record.residual)).all()
        np.testing.assert_allclose(record.error_bound, record.residual / 0.1, rtol=1e-5)
        assert bool(record.converged.any())


@pytest.mark.parametrize("net", [layers.MonLipDense((4,), 0.5, 2.0), layers.BiLipNet((4,), 1, 2)])
def test_the_old_report_names_the_new_one(net):
    with pytest.raises(TypeError, match="inverse_report is named inverse_diagnostics now"):
        net.apply(drawn(net, X), X, method="inverse_report")


@pytest.mark.slow
def test_the_inverse_of_nan_is_an_iterate_that_did_not_converge():
    net = layers.MonLipDense((4,), 0.5, 2.0)
    y = jnp.asarray(X).at[0].set(jnp.nan)
    record = jax.jit(lambda v, y: net.apply(v, y, method="inverse_diagnostics"))(drawn(net, X), y)
    np.testing.assert_array_equal(record.converged, np.arange(12) > 0)
