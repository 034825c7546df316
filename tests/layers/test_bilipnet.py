"""BiLipNet: its constants, its certificate, its two forms, its inverse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import drawn, times

from monojax.layers.bilipnet import BiLipNet, MonLipDense

KEY = jax.random.key(0)


@pytest.mark.slow
@pytest.mark.parametrize(("d", "units"), [(1, (8, 8)), (4, (6, 5, 3)), (6, (2, 2))])
def test_monlip_is_monotone_and_lipschitz(d, units):
    """||J - (mu+nu)/2|| <= (nu-mu)/2, which gives both constants; also with fewer units than d."""
    layer = MonLipDense(units, 0.5, 20.0)
    x = jax.random.normal(KEY, (40, d))
    variables = drawn(layer, x)
    slopes = jax.jit(lambda v: jax.vmap(jax.jacfwd(lambda z: layer.apply(v, z)))(x))
    for factor in (1.0, 10.0):
        jacobians = slopes(times(factor, variables))
        centred = np.asarray(jacobians, np.float64) - 10.25 * np.eye(d)
        assert np.linalg.norm(centred, 2, axis=(1, 2)).max() <= 9.75 * (1 + 1e-5)


@pytest.mark.slow
def test_monlip_certificate_and_forms_in_float64(x64):
    """2I - V - V^T - 2SS^T is positive semi-definite; both forms agree to 1e-12 of their size."""
    layer = MonLipDense((6, 5, 4), 0.5, 50.0, param_dtype=jnp.float64)
    x = jax.random.normal(KEY, (30, 4), jnp.float64)
    variables = jax.tree.map(lambda p: p + 0.2, drawn(layer, x))

    @jax.jit
    def both(v):
        forms = [layer.apply(v, x, form=form) for form in ("layers", "compact")]
        return layer.apply(v, 4, method="explicit"), *forms

    e, layers, compact = both(variables)
    certificate = 2 * np.eye(15) - e.v - e.v.T - 2 * e.s @ e.s.T
    assert np.linalg.eigvalsh(np.asarray(certificate)).min() >= -1e-12
    assert float(jnp.abs(jnp.triu(e.v)).max()) == 0
    np.testing.assert_allclose(layers, compact, atol=50 * 1e-13)


@pytest.mark.slow
def test_bilipnet_bounds_and_inverse(x64):
    """Random weights and five times those: gains within [mu, nu], f^-1 f = id, both forms."""
    net = BiLipNet((7, 5), 0.1, 20.0, depth=2, param_dtype=jnp.float64)
    x = 3 * jax.random.normal(KEY, (50, 4), jnp.float64)
    variables = drawn(net, x)

    @jax.jit
    def run(v):
        y = net.apply(v, x)
        root = net.apply(v, y, method="inverse")
        record = net.apply(v, y, method="inverse_diagnostics")
        jacobians = jax.vmap(jax.jacfwd(lambda z: net.apply(v, z)))(x)
        return jacobians, y, root, record, net.apply(v, root, form="compact")

    for factor in (1.0, 5.0):
        jacobians, y, root, record, again = run(times(factor, variables))
        sigma = np.linalg.svd(np.asarray(jacobians), compute_uv=False)
        assert sigma.max() <= 20 * (1 + 1e-9)
        assert sigma.min() >= 0.1 * (1 - 1e-9)
        assert bool(record.converged.all())
        error = jnp.linalg.norm(root - x, axis=-1)
        assert bool((error <= record.error_bound).all())
        # Each layer stops at 1e-10 (1 + |y|); the error is at most the residual times 1/mu = 10.
        scale = 10 * 1e-10 * 3 * (1 + float(jnp.linalg.norm(y, axis=-1).max())) * 10
        np.testing.assert_allclose(root, x, atol=scale)
        np.testing.assert_allclose(again, y, atol=20 * scale)


def test_monlip_inverse_is_differentiable_and_jits(x64):
    """The Jacobian of the inverse is the inverse Jacobian."""
    layer = MonLipDense((6,), 0.5, 5.0, "softplus", param_dtype=jnp.float64)
    x = jax.random.normal(KEY, (3,), jnp.float64)
    variables = drawn(layer, x)

    @jax.jit
    def slopes(x):
        forward = lambda z: layer.apply(variables, z)
        inverse = lambda z: layer.apply(variables, z, method="inverse")
        return jax.jacrev(inverse)(forward(x)), jax.jacfwd(forward)(x)

    back, forth = slopes(x)
    np.testing.assert_allclose(back @ forth, np.eye(3), atol=1e-8)


def test_unconverged_inverse_is_flagged():
    layer = MonLipDense((6,), 0.5, 5.0)
    x = jax.random.normal(KEY, (4, 3))
    x = x.at[3].set(jnp.nan)
    variables = drawn(layer, x)

    @jax.jit
    def run(y):
        methods = ("inverse_diagnostics", "inverse")
        return [layer.apply(variables, y, method=m, tolerance=0.0) for m in methods]

    root, out = run(x)
    assert root.converged.shape == (4,)
    assert bool(jnp.isfinite(out[:3]).all())  # the last iterate, and the record says how good
    assert not bool(root.converged[:3].all())  # nothing meets a tolerance of 0 in float32
    assert not bool(root.converged[3])


# --- bad input --------------------------------------------------------------------------------


X = jnp.ones((2, 3))


@pytest.mark.parametrize(
    ("lower", "upper", "match"),
    [(-1, 1, "lower"), (2, 1, "below upper"), (1, 1, "below upper"), (0, 0, "upper")],
)
def test_rejects_bad_constants(lower, upper, match):
    for layer in (MonLipDense((4,), lower, upper), BiLipNet((4,), lower, upper)):
        with pytest.raises(ValueError, match=match):
            jax.eval_shape(layer.init, KEY, X)


def test_rejects_units_depth_form_and_missing_inverse():
    with pytest.raises(ValueError, match="units"):
        jax.eval_shape(MonLipDense((), 0.1, 1.0).init, KEY, X)
    with pytest.raises(ValueError, match="depth"):
        jax.eval_shape(BiLipNet((4,), 0.1, 1.0, depth=0).init, KEY, X)
    layer = MonLipDense((4,), 0.0, 1.0)
    variables = drawn(layer, X)
    with pytest.raises(ValueError, match=r"one of .*got 'compcat'.*did you mean 'compact'"):
        layer.apply(variables, X, form="compcat")
    with pytest.raises(ValueError, match="no inverse is guaranteed"):
        layer.apply(variables, X, method="inverse")
