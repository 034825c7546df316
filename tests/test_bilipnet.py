"""BiLipNet: its constants, its certificate, its two forms, its inverse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from monojax.layers.bilipnet import BiLipNet, MonLipDense

KEY = jax.random.key(0)


@pytest.mark.parametrize("factor", [1.0, 10.0])
@pytest.mark.parametrize(("d", "units"), [(1, (8, 8)), (4, (6, 5, 3)), (6, (2, 2))])
def test_monlip_is_monotone_and_lipschitz(d, units, factor):
    """||J - (mu+nu)/2|| <= (nu-mu)/2, which gives both constants; also with fewer units than d."""
    layer = MonLipDense(units, 0.5, 20.0)
    x = jax.random.normal(KEY, (40, d))
    variables = jax.tree.map(lambda p: factor * p, layer.init(KEY, x))
    jacobians = jax.jit(jax.vmap(jax.jacfwd(lambda z: layer.apply(variables, z))))(x)
    centred = np.asarray(jacobians, np.float64) - 10.25 * np.eye(d)
    assert np.linalg.norm(centred, 2, axis=(1, 2)).max() <= 9.75 * (1 + 1e-5)


def test_monlip_certificate_and_forms_in_float64(x64):
    """2I - V - V^T - 2SS^T is positive semi-definite; both forms agree to 1e-12 of their size."""
    layer = MonLipDense((6, 5, 4), 0.5, 50.0, param_dtype=jnp.float64)
    x = jax.random.normal(KEY, (30, 4), jnp.float64)
    variables = layer.init(KEY, x)
    variables = jax.tree.map(lambda p: p + 0.2, variables)
    e = layer.apply(variables, 4, method="explicit")
    certificate = 2 * np.eye(15) - e.v - e.v.T - 2 * e.s @ e.s.T
    assert np.linalg.eigvalsh(np.asarray(certificate)).min() >= -1e-12
    assert float(jnp.abs(jnp.triu(e.v)).max()) == 0
    layers, compact = (layer.apply(variables, x, form=form) for form in ("layers", "compact"))
    np.testing.assert_allclose(layers, compact, atol=50 * 1e-13)


@pytest.mark.parametrize("factor", [1.0, 5.0])
def test_bilipnet_bounds_and_inverse(x64, factor):
    net = BiLipNet((7, 5), 0.1, 20.0, depth=2, param_dtype=jnp.float64)
    x = 3 * jax.random.normal(KEY, (50, 4), jnp.float64)
    variables = jax.tree.map(lambda p: factor * p, net.init(KEY, x))
    jacobians = jax.vmap(jax.jacfwd(lambda z: net.apply(variables, z)))(x)
    sigma = np.linalg.svd(np.asarray(jacobians), compute_uv=False)
    assert sigma.max() <= 20 * (1 + 1e-9)
    assert sigma.min() >= 0.1 * (1 - 1e-9)
    y = net.apply(variables, x)
    root = net.apply(variables, y, method="inverse_report")
    assert bool(root.converged.all())
    # Each layer stops at 1e-10 (1 + |y|); the error is at most the residual times 1/mu = 10.
    scale = 10 * 1e-10 * 3 * (1 + float(jnp.linalg.norm(y, axis=-1).max())) * 10
    np.testing.assert_allclose(root.x, x, atol=scale)
    np.testing.assert_allclose(net.apply(variables, root.x, form="compact"), y, atol=20 * scale)


def test_monlip_inverse_is_differentiable_and_jits(x64):
    """The Jacobian of the inverse is the inverse Jacobian."""
    layer = MonLipDense((6,), 0.5, 5.0, "softplus", param_dtype=jnp.float64)
    x = jax.random.normal(KEY, (3,), jnp.float64)
    variables = layer.init(KEY, x)
    y = layer.apply(variables, x)
    inverse = jax.jit(lambda z: layer.apply(variables, z, method="inverse"))
    forward = jax.jacfwd(lambda z: layer.apply(variables, z))(x)
    np.testing.assert_allclose(jax.jacrev(inverse)(y) @ forward, np.eye(3), atol=1e-8)


def test_unconverged_inverse_is_flagged():
    layer = MonLipDense((6,), 0.5, 5.0)
    x = jax.random.normal(KEY, (4, 3))
    variables = layer.init(KEY, x)
    root = layer.apply(variables, x, method="inverse_report", tolerance=0.0)
    assert root.converged.shape == (4,)
    out = layer.apply(variables, x, method="inverse", tolerance=0.0)
    np.testing.assert_array_equal(jnp.isnan(out).all(axis=-1), ~root.converged)
    assert not bool(root.converged.all())  # nothing meets a tolerance of 0 in float32
    nan = layer.apply(variables, jnp.full((1, 3), jnp.nan), method="inverse_report")
    assert not bool(nan.converged.any())
