"""What is claimed of functions of one variable holds everywhere, not on an interval only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import monojax as mj

WIDE = {
    "elu far out": (lambda x: jax.nn.elu(x - 128.0), 128.0, 3.0),
    "slow elu": (lambda x: jax.nn.elu(0.01 * x), 0.0, 300.0),
    "steep tanh": (lambda x: jnp.tanh(100 * x), 0.0, 0.05),
    "two bends": (lambda x: jnp.tanh(x + 200.0) + jnp.tanh(x - 200.0), 0.0, 250.0),
    "soft cap": (lambda x: 90 * jnp.tanh(x / 90), 0.0, 150.0),
    "silu of another unit": (lambda x: jax.nn.silu((x - 5e3) / 40), 5e3, 200.0),
    "by hand": (lambda x: jnp.log(1 + jnp.exp(0.5 * x - 90)), 180.0, 20.0),
    "gelu far out": (lambda x: jax.nn.gelu(-x - 77.0), -77.0, 4.0),
    "between infinite bounds": (
        lambda x: jnp.clip(jnp.maximum(jax.nn.elu(x - 60), -jnp.inf), -jnp.inf, jnp.inf), 60.0, 3.0,
    ),
    "a slow bump": (lambda x: jnp.exp(-((x / 100) ** 2)), 0.0, 150.0),
    "parabola with straight ends": (
        lambda x: jnp.where(jnp.abs(x) < 70, x * x / 140, jnp.abs(x) - 35), 0.0, 80.0,
    ),
}  # fmt: skip
SLOW = {
    "atan": lambda x: jnp.arctan(x - 300.0),
    "soft sign": lambda x: jax.nn.soft_sign(3 * x),
    "root": lambda x: jnp.sqrt(1 + (x - 2.0) ** 2),
}
STEEP = {
    "an exponential that starts late": lambda x: jnp.exp(x - 800.0),
    "a parabola that starts late": lambda x: jnp.maximum(x - 300.0, 0.0) ** 2,
    "a late product": lambda x: (x - 90.0) * jnp.maximum(x - 90.0, 0.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WIDE)
def test_dc_means_dc_everywhere(x64, name):
    """g and h rise in p and n, and lie below their chords, near the bend and far from it."""
    fn, centre, scale = WIDE[name]
    run = mj.split(fn, recentre="none")
    assert run(jnp.ones(2)).kind == "dc"
    rng = np.random.default_rng(0)
    n = np.abs(rng.normal(size=(2, 4000))) * scale
    p = np.maximum(centre + scale * rng.normal(size=(2, 4000)), -n) + n
    (p, q), (n, m) = p, n
    streams = jax.jit(run.streams)
    first, second = streams(p, n), streams(q, m)
    middle = streams((p + q) / 2, (n + m) / 2)
    more = streams(p + scale * rng.random(4000), n + scale * rng.random(4000))
    for a, b, c, d in zip(first, second, middle, more, strict=True):
        # Knots are found to a few roundings of the second difference.
        allowed = 1e-9 * (1 + np.abs(a) + np.abs(b))
        assert (c <= (a + b) / 2 + allowed).all() and (d >= a - allowed).all()
    np.testing.assert_allclose(first.g - first.h, fn(p - n), atol=1e-9 * (1 + scale))


@pytest.mark.parametrize("name", SLOW)
def test_what_settles_too_slowly_is_local(x64, name):
    fn = SLOW[name]
    pair = mj.split(fn, recentre="none")(jnp.array([1.0, -2.0]))
    np.testing.assert_allclose(pair.g - pair.h, fn(jnp.array([1.0, -2.0])), atol=1e-10)
    assert pair.kind == "local" == mj.split_report(fn, jnp.ones(2)).kind


@pytest.mark.parametrize("name", STEEP)
def test_slopes_that_grow_beyond_the_grid_are_refused(x64, name):
    """On [-50, 50] each of these is constant."""
    with pytest.raises(ValueError, match=r"not bounded|multiplies two values"):
        mj.split(STEEP[name])(jnp.ones(2))
    assert mj.split_report(STEEP[name], jnp.ones(2)).kind == "missing"
