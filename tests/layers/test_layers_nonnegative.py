"""NonNegativeDense: slopes >= 0 for any parameters, and initial values that keep variance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from monojax.layers import NonNegativeDense, nonnegative_init
from monojax.layers.nonnegative import INVERSES, NONNEGATIVE_MAPS, fan_in_uniform, spread_columns

KEY = jax.random.key(0)


@pytest.mark.parametrize("weight_map", NONNEGATIVE_MAPS)
def test_layer_by_hand_and_slopes(weight_map):
    """x r(W) + b in numpy float64; the Jacobian is r(W)', >= 0 whatever the raw weights are."""
    layer = NonNegativeDense(4, weight_map)
    x = jax.random.normal(KEY, (3, 2, 5))
    params = layer.init(KEY, x)["params"]
    params = jax.tree.map(lambda a: a + jax.random.normal(KEY, a.shape), params)
    w = np.float64(params["kernel"])
    mapped = {
        "square": w**2,
        "softplus": np.log1p(np.exp(w)),
        "abs": np.abs(w),
        "clamp": np.maximum(w, 0),
        "exp": np.exp(w),
    }[weight_map]
    apply = jax.jit(lambda x: layer.apply({"params": params}, x))
    want = np.float64(x) @ mapped + np.float64(params["bias"])
    np.testing.assert_allclose(apply(x), want, rtol=1e-5, atol=1e-5)  # float32, 5 terms
    slopes = jax.jacobian(apply)(x[0, 0])
    np.testing.assert_allclose(slopes, mapped.T, rtol=1e-5, atol=1e-6)
    assert slopes.min() >= 0


@pytest.mark.parametrize("weight_map", INVERSES)
def test_inverse_undoes_the_map(weight_map, x64):
    values = jnp.asarray([1e-12, 1e-3, 0.5, 3.0, 40.0])
    np.testing.assert_allclose(
        NONNEGATIVE_MAPS[weight_map](INVERSES[weight_map](values)), values, rtol=1e-10
    )


@pytest.mark.parametrize("weight_map", NONNEGATIVE_MAPS)
@pytest.mark.parametrize("spread", [0.0, 2.0])
def test_variance_is_kept(weight_map, spread):
    """With white inputs Var = sum of squares = 1 per unit, exactly up to float32 (60 terms)."""
    init = nonnegative_init(weight_map, spread=spread)
    values = NONNEGATIVE_MAPS[weight_map](init(KEY, (60, 8)))
    np.testing.assert_allclose(jnp.sum(values**2, axis=0), 1.0, rtol=1e-4)
    assert values.min() > 0
    layer = NonNegativeDense(8, weight_map, kernel_init=init)
    x = jax.random.normal(KEY, (4000, 60))
    y, _ = layer.init_with_output(KEY, x)
    # 4,000 samples: a standard error of 0.022 in the variance, and four of them.
    np.testing.assert_allclose(y.var(axis=0), 1.0, atol=0.09)


def test_spread_decorrelates_units():
    """Mean cosine of two columns: 1 at spread 0, near exp(-1) at 1, small at 2."""
    found = []
    for spread in (0.0, 1.0, 2.0):
        v = np.float64(spread_columns(spread=spread)(KEY, (4000, 40)))
        found.append(((v.T @ v).sum() - 40) / (40 * 39))
    assert found[0] == pytest.approx(1, abs=1e-6)
    # Columns of 4,000 terms with kurtosis of a log-normal: a tenth of the value.
    assert found[1] == pytest.approx(np.exp(-1), rel=0.1)
    assert found[2] < 0.1


def test_bias_takes_off_the_mean():
    """With bias = -m r(W) the output at the mean itself is 0; one number or one per input."""
    for mean in (0.7, (0.1, 0.2, 5.0)):
        layer = NonNegativeDense(6, input_mean=mean)
        at_mean = jnp.broadcast_to(jnp.asarray(mean), (3,))
        y, _ = layer.init_with_output(KEY, at_mean)
        np.testing.assert_allclose(y, 0, atol=1e-5)  # float32, weights of size 1, mean 5
    noisy = NonNegativeDense(2000, bias_spread=1.5).init(KEY, jnp.ones(3))["params"]["bias"]
    assert float(noisy.std()) == pytest.approx(1.5, rel=0.07)  # four standard errors
    zero = NonNegativeDense(6).init(KEY, jnp.ones(3))["params"]["bias"]
    np.testing.assert_array_equal(zero, 0)
    assert set(NonNegativeDense(6, use_bias=False).init(KEY, jnp.ones(3))["params"]) == {"kernel"}


def test_fan_in_uniform_is_pytorchs():
    """Quantiles of U(-1/4, 1/4); 40,000 draws: errors of at most 0.25 * 2 * 0.0025 * 4."""
    draw = np.asarray(fan_in_uniform(16)(KEY, (200, 200)))
    want = np.array([-0.25, -0.125, 0, 0.125, 0.25])
    np.testing.assert_allclose(np.quantile(draw, [0, 0.25, 0.5, 0.75, 1]), want, atol=5e-3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_dtypes_keep_the_guarantee(dtype, x64):
    layer = NonNegativeDense(4, "softplus", dtype=dtype)
    x = jnp.ones((2, 3), jnp.float32)
    y, variables = layer.init_with_output(KEY, x)
    assert y.dtype == dtype and variables["params"]["kernel"].dtype == jnp.float32
    assert jax.jacobian(lambda x: layer.apply(variables, x).astype("float32"))(x[0]).min() >= 0


def test_transformations_agree():
    layer = NonNegativeDense(4)
    x = jax.random.normal(KEY, (6, 3))
    variables = layer.init(KEY, x)
    whole = layer.apply(variables, x)
    rows = jax.jit(jax.vmap(lambda x: layer.apply(variables, x)))(x)
    np.testing.assert_allclose(whole, rows, rtol=1e-5, atol=1e-6)
    slopes = jax.grad(lambda p: jnp.sum(layer.apply(p, x) ** 2))(variables)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(slopes))


def test_bad_arguments_are_named():
    x = jnp.ones((2, 3))
    with pytest.raises(ValueError, match=r"one of .*got 'sqare'.*did you mean 'square'"):
        NonNegativeDense(4, "sqare").init(KEY, x)
    with pytest.raises(ValueError, match="integers >= 1, got 0"):
        NonNegativeDense(0).init(KEY, x)
    with pytest.raises(ValueError, match=r"x must have shape \[\.\.\., d\], got \(\)"):
        NonNegativeDense(4).init(KEY, jnp.ones(()))
    with pytest.raises(ValueError, match="one number or one per input"):
        NonNegativeDense(4, input_mean=(0.0, 1.0)).init(KEY, x)
    variables = NonNegativeDense(4).init(KEY, x)
    with pytest.raises(ValueError, match="another width than at init"):
        NonNegativeDense(4).apply(variables, jnp.ones((2, 5)))
    with pytest.raises(ValueError, match="scale must be finite and > 0"):
        nonnegative_init("square", scale=0.0)
    with pytest.raises(ValueError, match="spread must be finite and >= 0"):
        nonnegative_init("square", spread=-1.0)
