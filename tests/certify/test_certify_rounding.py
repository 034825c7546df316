"""Bounds hold what floating point does: rounding, ends of the range, the flush to zero."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from certify_nets import slopes

from monojax.base.compat import enable_x64
from monojax.certify import CertifyError, certify_monotone, gradient_bounds
from monojax.certify.interval import Interval
from monojax.certify.walk import Root, Walk

TERMS = np.asarray([1.0, 2.0**-20, -1.0, -(2.0**-20), -(2.0**-30)], np.float32)


@pytest.mark.parametrize("bound", ["interval", pytest.param("backward", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "fn",
    [
        lambda x: jnp.sum(jnp.asarray(TERMS) * x[0]),  # a slope that is a constant
        lambda x: jnp.sum(jnp.asarray(TERMS) * (jnp.square(x[0]) / 2)),  # one that varies
        lambda x: (x @ jnp.ones((1, 5), x.dtype)) @ jnp.asarray(TERMS),
        lambda x: jax.jit(lambda v: v @ jnp.asarray(TERMS))(jnp.ones(5)) * x[0],
    ],
)
def test_widening_keeps_rounding_from_certifying_a_falsehood(fn, bound):
    """The slope is (1 + 2^-20 - 1 - 2^-20 - 2^-30) x < 0, and float32 sums it to 0 or more."""
    naive = np.float32(0)
    for term in TERMS[[1, 4, 0, 2, 3]]:  # an order that float32 may take
        naive = np.float32(naive + term)
    true = np.float64(TERMS).sum()
    assert naive >= 0 > true
    box = jax.jit(lambda a: gradient_bounds(fn, a, a, bound=bound))(jnp.ones(1))
    assert box.lo[0] <= true <= box.hi[0]
    assert box.hi[0] - box.lo[0] < 1e-4


@pytest.mark.slow
def test_constants_of_the_surrogate_are_enclosed():
    """Of the values that do not vary in the box, the backward bound sums up the rounding too."""
    t = [1, 1.5 * 2.0**-53, -1, -1.75 * 2.0**-53]

    def fn(x):
        p = jnp.split(x[1:], 4)
        return x[0] * (((p[0] * t[0] + p[1] * t[1]) + p[2] * t[2]) + p[3] * t[3])[0]

    lo, hi = slopes(fn, [0.0, 1, 1, 1, 1], np.ones(5), "backward")
    assert lo[0] <= -0.25 * 2.0**-53 <= hi[0]


@pytest.mark.parametrize(
    ("fn", "low", "high", "true"),
    [
        (  # the sum of the first two overflows
            lambda x: x[0] * (jnp.asarray([1.2e308, 1.2e308, -1.5e308]) @ x[1:] - 1e308),
            [0.0, 1, 1, 1],
            [1.0, 1, 1, 1],
            -0.1e308,
        ),
        (lambda x: x[0] ** jnp.asarray(-2.0, x.dtype), [-0.0], [1.0], -np.inf),
        (lambda x: x[0] * jnp.sqrt(x[1]), [0.0, -1.0], [1.0, 1.0], -np.inf),
        (lambda x: x[0] * jax.lax.rsqrt(x[1]), [0.0, -1.0], [1.0, 1.0], -np.inf),
        (lambda x: x[0] * jnp.log1p(x[1] + 3), [0.0, -5.0], [1.0, 1.0], -np.inf),
        (lambda x: jnp.square(x[0]) / 1e308 * 1e308, [0.5], [1.0], 2.0),
        (lambda x: 2 * x[0].astype(jnp.float32).astype(x.dtype), [0.0], [1.0], 2.0),
    ],
)
@pytest.mark.parametrize("bound", ["interval", pytest.param("backward", marks=pytest.mark.slow)])
def test_ends_of_the_number_range(fn, low, high, true, bound):
    lo, hi = slopes(fn, low, high, bound)
    assert lo[0] <= true <= hi[0]


def point_bounds(fn, low, high, dtype):
    with enable_x64():
        closed = jax.make_jaxpr(fn)(jnp.asarray(0.5, dtype))
        (out,) = Walk().run(closed, [Root(Interval(jnp.asarray(low), jnp.asarray(high)))])
        return out.box


@pytest.mark.parametrize(
    ("fn", "x", "true"),
    [
        (jnp.exp2, 1014.9384367833893, None),
        (jnp.sinh, 658.1436736634273, None),
        (jnp.log1p, -0.41419038573741407, None),
        (jax.lax.erfc, 23.032393466306047, math.erfc(23.032393466306047)),
    ],
)
def test_transcendentals_where_xla_errs_most(fn, x, true):
    if true is None:
        true = getattr(np, fn.__name__)(np.longdouble(x))
    box = point_bounds(fn, x, x, jnp.float64)
    assert np.longdouble(box.lo) <= true <= np.longdouble(box.hi)


def test_casts_to_a_smaller_range():
    for fn, dtype in (
        (lambda x: x.astype(jnp.float16), jnp.bfloat16),  # more bits, and 1e-30 becomes 0
        (lambda x: x.astype(jnp.bfloat16), jnp.float32),
    ):
        x = jnp.asarray(1e-30, dtype)
        box = point_bounds(fn, x, x, dtype)
        assert float(box.lo) <= float(x) <= float(box.hi)
    with pytest.raises(CertifyError, match="exponent"):
        x = jnp.float32(1e-10)
        point_bounds(lambda x: jax.lax.reduce_precision(x, 4, 10), x, x, jnp.float32)


@pytest.mark.slow
def test_measured_errors_of_transcendentals():
    """Against numpy's extended precision, on 200,000 points each."""
    rng = np.random.default_rng(0)
    ranges = {"exp": 700, "exp2": 1020, "expm1": 700, "tanh": 30, "sinh": 700, "arcsinh": 1e9}
    ranges |= {"arctan": 1e6, "cbrt": 1e6, "log1p": 0.999, "sin": 1e5, "cos": 1e5}
    for name, most in ranges.items():
        x = np.concatenate(
            [rng.uniform(-most, most, 100_000), 10 ** rng.uniform(-12, np.log10(most), 100_000)]
        )
        with enable_x64():
            closed = jax.make_jaxpr(getattr(jnp, name))(x)
            (out,) = Walk().run(closed, [Root(Interval(jnp.asarray(x), jnp.asarray(x)))])
        true = getattr(np, name)(x.astype(np.longdouble))
        assert (np.asarray(out.box.lo, np.longdouble) <= true).all(), name
        assert (np.asarray(out.box.hi, np.longdouble) >= true).all(), name


def test_a_box_is_rounded_outward():
    """0.1 - 1e-10 is 0.1 in float32, where the slope is another one."""
    fn = lambda x: jax.nn.relu(np.float32(0.1) - x[0])
    box = gradient_bounds(fn, np.asarray([0.1 - 1e-10]), np.asarray([1.0]), bound="interval")
    assert box.lo[0] <= -1
    with pytest.raises(ValueError, match="low must be <= high"):
        gradient_bounds(fn, np.ones(1), np.zeros(1))


def test_numbers_that_the_hardware_reads_as_zero():
    fn = lambda x: -jax.nn.relu(x[0])
    found = certify_monotone(fn, [0.0], [1e-310], [1], budget=1, bound="interval")
    assert found.status != "proved" and found.high[0] > 1e-310
    for constant in (1e-310, np.inf, np.nan):
        with pytest.raises(CertifyError, match="constant"):
            slopes(lambda x, c=constant: x[0] * c, [0.0], [1.0])


@pytest.mark.parametrize(
    "over", [lambda v, k: v * (1 / k), pytest.param(lambda v, k: v / k, marks=pytest.mark.slow)]
)
def test_chains_of_constants_are_not_folded(over):
    """XLA folds (x k) l to x (k l), and k l is 0 here: the slope by x[1] seemed to be 1."""
    fn = lambda x: x[1] * (over(over(x[0], 1e200), 1e200) * 1e110 + 1)
    lo, hi = slopes(fn, [-1e300, 0.0], [1e300, 1.0], "forward")
    assert lo[1] <= -9e9 and hi[1] >= 9e9
