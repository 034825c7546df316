"""Certificates: sound against sampling in float64, right on hand-made cases, honest in words."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from certify_nets import ACTIVATIONS, WIDTH, gradients64, network

from monojax.base.compat import enable_x64
from monojax.certify import Certificate, CertifyError, certify_monotone, gradient_bounds
from monojax.certify.bounds import bounds_of
from monojax.certify.compiled import compiled_bounds
from monojax.certify.interval import Interval
from monojax.certify.program import function_hash, gradient_program
from monojax.certify.search import posed
from monojax.certify.walk import Root, Walk

slow = pytest.mark.full
QUICK = ("leaky_relu", "tanh")


def quick_or_slow(names, quick):
    return [pytest.param(name, marks=[] if name in quick else slow) for name in names]


@pytest.mark.parametrize(
    ("name", "deep"),
    [(QUICK[0], False), pytest.param(QUICK[1], False, marks=pytest.mark.slow)]
    + [pytest.param(n, True, marks=slow) for n in ACTIVATIONS],
)
def test_every_bound_holds_the_gradients_of_a_box(name, deep):
    """Slack: float64 rounding of the judge, far below a float32 unit."""
    fn = network(name, 3, deep=deep)
    rng = np.random.default_rng(1)
    centers = rng.standard_normal((3, WIDTH)).astype(np.float32)
    radius = np.asarray([[0.01], [0.1], [0.5]], np.float32)
    low, high = centers - radius, centers + radius
    program = gradient_program(fn, jax.ShapeDtypeStruct((WIDTH,), jnp.float32))
    share = rng.random((3, 2000, WIDTH))
    share[:, :200] = share[:, :200].round()
    points = low[:, None] + share * (np.float64(high) - low)[:, None]
    slopes_there = gradients64(fn, points.reshape(-1, WIDTH)).reshape(points.shape)
    widths = {}
    for bound in ("interval", "forward", "backward"):
        box = compiled_bounds(program, bound)(low, high)
        for i in range(3):
            seen = slopes_there[i]
            slack = 1e-12 * (1 + np.abs(seen).max())
            assert (np.float64(box.lo[i]) <= seen.min(axis=0) + slack).all(), bound
            assert (np.float64(box.hi[i]) >= seen.max(axis=0) - slack).all(), bound
        widths[bound] = np.asarray(box.hi) - np.asarray(box.lo)
    assert (widths["backward"] <= widths["forward"] * (1 + 1e-5)).all()
    assert (widths["forward"] <= widths["interval"] * (1 + 1e-5)).all()


def slopes(fn, low, high, bound="interval", dtype=jnp.float64):
    """Bounds on a box in float64, as the search asks for them."""
    with enable_x64():
        ends = np.asarray(low, dtype), np.asarray(high, dtype)
        box = jax.jit(lambda a, b: gradient_bounds(fn, a, b, bound=bound))(*ends)
        return np.asarray(box.lo), np.asarray(box.hi)


TERMS = np.asarray([1.0, 2.0**-20, -1.0, -(2.0**-20), -(2.0**-30)], np.float32)


@pytest.mark.parametrize("bound", ["interval", pytest.param("backward", marks=slow)])
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


def test_constants_of_the_surrogate_are_enclosed():
    """Of the values that do not vary in the box, the backward bound sums up the rounding too."""
    t = [1, 1.5 * 2.0**-53, -1, -1.75 * 2.0**-53]

    def fn(x):
        p = jnp.split(x[1:], 4)
        return x[0] * (((p[0] * t[0] + p[1] * t[1]) + p[2] * t[2]) + p[3] * t[3])[0]

    lo, hi = slopes(fn, [0.0, 1, 1, 1, 1], np.ones(5), "backward")
    assert lo[0] <= -0.25 * 2.0**-53 <= hi[0]


@pytest.mark.parametrize(
    ("fn", "low", "directions", "status"),
    [
        (lambda x: x[0] ** 3, -1.0, [1], "proved"),
        (lambda x: x[0] ** 2, -1.0, [1], "refuted"),
        (lambda x: x[0] ** 2, 0.0, [1], "proved"),
        (lambda x: x[0] ** 2, -1.0, [0], "proved"),
        (lambda x: -jnp.exp(x[0]), -1.0, [-1], "proved"),
        (lambda x: jax.nn.relu(x[0] - 0.5), -1.0, [1], "proved"),  # a plateau of slope 0
        (lambda x: jnp.clip(x[0], -0.5, 0.5), -1.0, [1], "proved"),
        (lambda x: x[0] - 0.5 * jnp.sin(x[0]), -1.0, [1], "proved"),
    ],
)
def test_hand_made_cases(fn, low, directions, status):
    found = certify_monotone(fn, [low], [1.0], directions, budget=2000)
    assert found.status == status
    if status == "refuted":
        slope = gradients64(fn, found.counterexample[None])[0, 0] * directions[0]
        assert slope < 0


def test_a_narrow_dip_is_never_proved():
    """A dip of width 1e-3 in a rising function: refuted, or unknown, never proved."""
    dip = lambda x: x[0] - 2e-3 * jax.nn.sigmoid((x[0] - 0.3141) / 2e-4)
    found = certify_monotone(dip, [0.0], [1.0], [1], budget=3000)
    assert found.status == "refuted"
    assert gradients64(dip, found.counterexample[None])[0, 0] < 0


@pytest.mark.parametrize(
    "name",
    quick_or_slow(["relu", "tanh", "softplus", "sigmoid", "group_sort", "maxout"], ["relu"]),
)
def test_networks_of_non_negative_weights_are_proved_at_the_root(name):
    found = certify_monotone(
        network(name, 5, positive=True), [-1.0] * WIDTH, [1.0] * WIDTH, [1] * WIDTH, budget=1
    )
    assert (found.status, found.stage, found.boxes) == ("proved", "bound", 1)
    assert (found.bounds[:, 0] >= 0).all()


def liar(rule, body):
    """The function ``body`` with the derivative 1, by the rule of that kind."""
    if rule == "custom_jvp":
        made = jax.custom_jvp(body)
        made.defjvp(lambda primals, tangents: (body(*primals), tangents[0]))
    elif rule == "custom_vjp":
        made = jax.custom_vjp(body)
        made.defvjp(lambda x: (body(x), None), lambda kept, g: (g,))
    else:
        made = jax.custom_gradient(lambda x: (body(x), lambda g: (g,)))
    return made


def looped(body):
    return lambda v: jax.lax.scan(lambda c, _: (body(c), None), v, None, length=1)[0]


def stopped(v):
    return v - 2 * jax.lax.stop_gradient(v)


@pytest.mark.parametrize(
    "body",
    [
        liar("custom_jvp", lambda v: -v),
        liar("custom_jvp", jax.lax.neg),  # written by jax, and still a lie
        liar("custom_vjp", jax.lax.neg),
        liar("custom_gradient", jnp.negative),
        stopped,
        looped(stopped),
        looped(jax.jit(stopped)),
        looped(liar("custom_jvp", jax.lax.neg)),
        lambda v: jax.lax.cond(True, liar("custom_vjp", jax.lax.neg), lambda v: v, v),
        lambda v: jax.lax.switch(jnp.int32(1), [lambda v: v, stopped], v),
        liar("custom_jvp", lambda v: jax.nn.relu(v) - 2 * v),
    ],
)
def test_derivatives_are_the_functions_own(body):
    """A false rule and a stopped gradient cannot certify a falling function."""
    lo, hi = slopes(lambda x: body(x[0]), [0.5], [1.0])
    assert lo[0] == pytest.approx(-1) and hi[0] == pytest.approx(-1)


def test_what_holds_a_derivative_of_its_own_is_refused():
    solve = lambda b: jax.lax.custom_linear_solve(lambda v: 2 * v, b, lambda f, b: -b)
    loop = lambda v: jax.lax.while_loop(lambda c: c < 1, lambda c: c + 1, v)
    for body in (solve, loop):
        with pytest.raises(CertifyError, match="no bound"):
            slopes(lambda x, body=body: body(x[0]), [0.0], [1.0])


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
@pytest.mark.parametrize("bound", ["interval", pytest.param("backward", marks=slow)])
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


@slow
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


def test_a_maximum_by_another_axis_is_no_maximum():
    """Compared with the maxima of the other axis, no entry need be equal."""

    def fn(x):
        square = x[:4].reshape(2, 2)
        other = jax.lax.broadcast_in_dim(square.max(axis=0), (2, 2), (0,))
        return x[4] * (square == other).astype(x.dtype).sum()

    point = np.asarray([1.0, 4.0, 3.0, 2.0, 1.0])
    for wrong in (fn, lambda x: x[4] * (x[:4] == x[:3].max()).astype(x.dtype).sum() * 1.0):
        lo, _ = slopes(wrong, point - 1.5, point + 1.5)
        assert lo[4] == 0


def test_a_box_is_rounded_outward():
    """0.1 - 1e-10 is 0.1 in float32, where the slope is another one."""
    fn = lambda x: jax.nn.relu(np.float32(0.1) - x[0])
    box = gradient_bounds(fn, np.asarray([0.1 - 1e-10]), np.asarray([1.0]), bound="interval")
    assert box.lo[0] <= -1
    with pytest.raises(ValueError, match="low must be <= high"):
        gradient_bounds(fn, np.ones(1), np.zeros(1))


@pytest.mark.parametrize("bound", ["forward", pytest.param("backward", marks=pytest.mark.slow)])
def test_maximum_of_two_values_is_bounded_by_lines(bound):
    fn = lambda x: jnp.maximum(x[0], x[1]) * x[0]
    lo, hi = slopes(fn, [0.1, -1.0], [1.0, 1.0], bound)
    assert 0 < lo[0] <= 0.1 and 2 <= hi[0] < 3


def test_a_tie_refutes_nothing():
    """jax's slope at the kink is -1, the function rises on both sides."""
    fn = lambda x: 3 * jax.nn.relu(x[0]) - 3 * jax.nn.relu(-x[0]) - x[0]
    assert certify_monotone(fn, [0.0], [1.0], [1], 1, bound="interval").status != "refuted"


def test_numbers_that_the_hardware_reads_as_zero():
    fn = lambda x: -jax.nn.relu(x[0])
    found = certify_monotone(fn, [0.0], [1e-310], [1], budget=1, bound="interval")
    assert found.status != "proved" and found.high[0] > 1e-310
    for constant in (1e-310, np.inf, np.nan):
        with pytest.raises(CertifyError, match="constant"):
            slopes(lambda x, c=constant: x[0] * c, [0.0], [1.0])


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: jnp.floor(x[0]),
        lambda x: -jnp.where(x[0] > 0.3, 1.0, 0.0),
        lambda x: -(x[0] > 0.3).astype(float),
        lambda x: jnp.where(x[0] > x[1], 0.0, 1.0),
        lambda x: -jnp.sign(x[0]) + x[1],
        lambda x: jnp.asarray([1.0, 0.0])[jnp.argmax(x)],
        lambda x: jnp.asarray([3.0, 2.0, 1.0])[jnp.clip(x[0] * 3, 0, 2).astype(int)],
        lambda x: joined(x[0], lambda z: z - 1.0, lambda z: z),
        lambda x: joined(x[0], lambda z: z - 1e-10, lambda z: z),
        lambda x: 1e10 * joined(x[0], lambda z: 0.0, lambda z: 1e-10),
        lambda x: (lambda z: jnp.where((z + 1e16 + 0.3) - 1e16 > 0, 2 * z, z))(x[0]),
        lambda x: (lambda z: jnp.where(jnp.where(z > 0.1, z > 0.3, False), 0.0, 1.0))(x[0]),
        lambda x: -jnp.where((x > 0.3)[0], 1.0, 0.0),
        lambda x: -jnp.where(jax.lax.scan(lambda c, _: (c, c > 0.3), x[0], None, 1)[1][0], 1.0, 0),
        lambda x: jax.lax.scan(lambda c, s: (c - jnp.where(s, 1.0, 0.0), None), 0 * x[0], x > 0.3)[
            0
        ],
        lambda x: jax.lax.scan(
            lambda c, s: (c - jnp.where(x[0] > 0.3, s, 0.0), None), 0 * x[0], jnp.arange(2.0)
        )[0],
        lambda x: -jax.nn.relu(x[0] - 0.3).astype(bool).astype(float),
        lambda x: -jax.lax.bitcast_convert_type(x[0], jnp.int64).astype(float),
        lambda x: jnp.copysign(1.0, 0.3 - x[0]),
        lambda x: jax.lax.cond(x[0] > 0.3, lambda: 0.0, lambda: 1.0),
        lambda x: x[0].astype(jnp.float16).astype(float),
        lambda x: jax.lax.dot(x, x, preferred_element_type=jnp.bfloat16).astype(float),
        lambda x: (lambda z: jnp.where(z > 1e200, z * z, 2 * z * z))(x[0]),  # both overflow
    ],
)
def test_jumps_are_refused(fn):
    """Slopes say nothing of them: each of these falls somewhere though no slope is negative."""
    with pytest.raises(CertifyError, match="jump"):
        posed(fn, 2)


def joined(z, above, below):
    return jnp.where(z > 0.3, above(z), below(z))


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: jnp.where(jnp.isnan(jnp.sqrt(x[1])), -x[0], x[0]),
        lambda x: jnp.where(jnp.isfinite(1 / x[1]), x[0], -x[0]),
        lambda x: x[0] * (cut_at_minus_two(jnp.tanh(jnp.sqrt(x[1:]))) - 0.99),
        lambda x: jnp.power(jnp.zeros((), x.dtype), x[0]) + 1e-10 * x[0],  # 1 at 0, then 0
    ],
)
def test_what_is_no_number_decides_nothing(fn):
    """Below 0, each of the first three falls in x[0]; XLA's comparisons with NaN are false."""
    found = certify_monotone(fn, [0.0, -1.0], [1.0, 0.0], [1, 0], budget=1, bound="interval")
    assert found.status != "proved"


def cut_at_minus_two(z):
    (z,) = z @ jnp.ones((1, 1), z.dtype)
    return jnp.where(z > -2, z + 2, 0.0)


def single_bounds(fn, low, high, bound):
    """Bounds on the values of a program, as on a derivative's."""
    with enable_x64():
        ends = np.asarray(low, np.float64), np.asarray(high, np.float64)
        closed = jax.make_jaxpr(fn)(ends[0])
        box = jax.jit(lambda a, b: bounds_of(closed, a, b, bound=bound))(*ends)
        return float(box.lo[0]), float(box.hi[0])


def filled(value):
    return lambda x: jnp.take(x, np.asarray([0, 5]), mode="fill", fill_value=value).sum()


@pytest.mark.parametrize(
    ("fn", "low", "high", "true"),
    [
        # A stopped shift that is kept: the surrogate's own slope through it was lost.
        (lambda x: 2 * jax.lax.stop_gradient(x), [0.0], [1.0], (0.0, 2.0)),
        # What stands for an index outside is no coefficient.
        (lambda x: filled(-5.0)(x) * jnp.ones(2), [-4.0, 0.0], [4.0, 0.0], (-9.0, -1.0)),
    ],
)
def test_steps_of_the_surrogate(fn, low, high, true):
    lo, hi = single_bounds(fn, low, high, "backward")
    assert lo <= true[0] and true[1] <= hi


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: jnp.where(jnp.isfinite(jnp.tanh(jnp.sqrt(x[1]))), x[0], -x[0]),
        lambda x: x[0] * (cut_at_minus_two(jnp.tanh(filled(None)(x)[None])) - 0.99),
    ],
)
def test_no_number_that_is_bounded_decides_nothing(fn):
    """Of tanh(NaN) the enclosure is finite; jax's slope by x[0] is negative in both."""
    lo, _ = slopes(fn, [0.0, -1.0], [1.0, -0.5])
    assert lo[0] < 0


def test_numbers_that_are_defined_decide():
    """Only where a value may be NaN is nothing known."""
    fn = lambda x: jax.nn.relu(jnp.sqrt(x[1]) - 0.2) + x[0] + 0 * jax.nn.softplus(1 / (1 + x[1]))
    lo, _ = slopes(fn, [0.0, 0.0], [1.0, 1.0])
    assert lo[0] == 1


@pytest.mark.parametrize(
    "over", [lambda v, k: v * (1 / k), pytest.param(lambda v, k: v / k, marks=pytest.mark.slow)]
)
def test_chains_of_constants_are_not_folded(over):
    """XLA folds (x k) l to x (k l), and k l is 0 here: the slope by x[1] seemed to be 1."""
    fn = lambda x: x[1] * (over(over(x[0], 1e200), 1e200) * 1e110 + 1)
    lo, hi = slopes(fn, [-1e300, 0.0], [1e300, 1.0], "forward")
    assert lo[1] <= -9e9 and hi[1] >= 9e9


def test_masks_that_a_loop_keeps_are_bounded_by_lines():
    loop = lambda x: jax.lax.scan(lambda c, _: (jax.nn.relu(c / 2 + 0.1), None), x, None, length=2)
    lo, hi = slopes(lambda x: loop(x)[0].sum(), [-1.0, 0.0], [1.0, 1.0], "backward")
    assert lo == pytest.approx([0, 0.25]) and hi == pytest.approx([0.25, 0.25])
    assert lo[0] == 0


@pytest.mark.parametrize(
    "fn",
    [
        jax.nn.logsumexp,
        lambda x: jax.nn.logsumexp(jnp.concatenate([x, 2 * x])),
        lambda x: -jax.nn.log_softmax(x)[1] + x[1],
        lambda x: jnp.sort(jnp.stack([x[0], 2 * x[1], x[0] + x[1]]))[1],
        jnp.min,
    ],
)
def test_maxima_and_orders_that_change_nothing(fn):
    """Stopped shifts of logsumexp are no lie; a short sort is minima and maxima."""
    lo, hi = slopes(fn, [0.0, 0.0], [1.0, 1.0])
    assert (lo >= 0).all() and np.isfinite(hi).all()
    seen = gradients64(fn, np.random.default_rng(0).random((100, 2)))
    assert (lo <= seen.min(axis=0)).all() and (seen.max(axis=0) <= hi).all()


def test_a_stopped_gradient_that_matters_is_no_shift():
    """exp(a - m) + m depends on m; so does what subtracts m twice."""
    for fn in (
        lambda x: jnp.log(jnp.exp(x - jax.lax.stop_gradient(x[0])).sum()) + 2 * stopped(x[0]),
        lambda x: jnp.log(jnp.exp(x - jax.lax.stop_gradient(2 * x[0])).sum()),
        lambda x: jnp.exp(x - jax.lax.stop_gradient(x[0])).sum(),
    ):
        seen = [fn(np.asarray([0.3 + h, 0.5])) for h in (0.0, 1e-3)]
        lo, hi = slopes(fn, [0.3, 0.5], [0.301, 0.5])
        assert lo[0] - 0.02 <= (seen[1] - seen[0]) / 1e-3 <= hi[0] + 0.02


@pytest.mark.parametrize(
    "ends",
    [lambda z: (z, z, 9 + 0 * z), lambda z: (z, -9 + 0 * z, z), lambda z: (-9 + 0 * z, z, z)],
)
def test_ends_of_a_clamp_that_are_equal_all_along(ends):
    """Each is z = -x; the slopes that jax adds up are 0."""
    lo, hi = slopes(lambda x: jax.lax.clamp(*ends(-x[0])), [0.0], [1.0])
    assert lo[0] <= -1 <= hi[0]


def test_cases_that_meet_pass():
    """Leaky functions, and cases that were written to agree."""
    for fn in (
        lambda x: jax.nn.elu(x).sum(),
        lambda x: jax.nn.leaky_relu(x * 3 + 0.7).sum() + jax.nn.leaky_relu(x @ x + 0.1),
        lambda x: joined(x[0] + x[1], lambda z: z - 0.3, lambda z: 0 * z),
        lambda x: jax.nn.softmax(x)[0] + jnp.maximum(x[0], x[1]),
        lambda x: jax.lax.scan(lambda c, w: (jnp.tanh(c * w), None), x, jnp.arange(3.0))[0].sum(),
    ):
        posed(fn, 2)
    assert issubclass(CertifyError, ValueError)


def test_a_pole_is_never_proved():
    found = certify_monotone(lambda x: 1 / x[0], [-1.0], [1.0], [-1], budget=200, bound="interval")
    assert found.status == "unknown" and 0 < found.volume_proved < 1
    assert found.seconds > 0 and found.boxes <= 200


def test_one_hot_groups_are_corners():
    """Between the corners the slope is negative, at them it is not."""
    fn = lambda x: x[0] * (x[1] ** 2 + x[2] ** 2 - 0.75)
    box = ([0.0] * 3, [1.0] * 3, [1, 0, 0])
    assert certify_monotone(fn, *box, budget=1, bound="interval").status == "refuted"
    found = certify_monotone(fn, *box, budget=100, onehot=[(1, 2)], bound="interval")
    assert found.status == "proved" and found.stage == "search"
    with pytest.raises(ValueError, match="one-hot"):
        certify_monotone(fn, [0.0] * 3, [1.0] * 3, [1, 1, 0], onehot=[(1, 2)])
    with pytest.raises(ValueError, match="at least one"):
        certify_monotone(fn, *box, onehot=[()])


def test_groups_keep_to_the_budget():
    """A group of 10 does not fit into 3 boxes; one of 300 is more than a chunk."""
    for size, budget, status in ((10, 3, "unknown"), (300, 400, "proved")):
        fn = lambda x: x[0] * (jnp.square(x[1:]).sum() - 0.9)
        ends, group = np.ones(size + 1), [tuple(range(1, size + 1))]
        found = certify_monotone(
            fn, 0 * ends, ends, [1] + [0] * size, budget, onehot=group, bound="interval"
        )
        assert found.status == status and found.boxes <= budget


def test_a_certificate_is_filed_and_checked_later():
    fn = network("relu", 5, positive=True, deep=False)
    found = certify_monotone(
        fn, [-1.0] * WIDTH, [1.0] * WIDTH, [1] * WIDTH, budget=1, bound="interval"
    )
    again = Certificate.from_json(found.to_json())
    assert again.to_json() == found.to_json()
    assert again.verify(fn)
    assert not again.verify(network("relu", 6, positive=True, deep=False))
    with pytest.raises(TypeError, match="truth value"):
        bool(found)
    assert "certified" in str(found)
    assert not again.verify(lambda x: jnp.floor(x).sum())
    for field, value in (("stage", "search"), ("boxes", 0), ("volume_proved", 0.3)):
        assert not dataclasses.replace(again, **{field: value}).verify(fn), field
    assert not dataclasses.replace(again, bounds=again.bounds + 1).verify(fn)
    broken = json.loads(found.to_json()) | {"format": "x"}
    for text in ("no json", "{}", json.dumps(broken)):
        with pytest.raises(ValueError, match="no certificate"):
            Certificate.from_json(text)


def test_a_construction_that_falls_is_not_believed():
    """Its hash is right, its claim is not."""
    fn = lambda x: -(x[0] ** 3)
    found = certify_monotone(fn, [0.5], [1.0], [-1], budget=1, bound="interval")
    forged = dataclasses.replace(found, stage="construction", program=function_hash(fn, 1))
    assert forged.verify(fn)
    assert not dataclasses.replace(forged, directions=-found.directions).verify(fn)
    assert not forged.verify(lambda x: -(x[0] ** 5))


def test_a_counterexample_is_checked():
    fn = lambda x: jnp.square(x[0])
    key = jax.random.key(3)
    found = certify_monotone(fn, [-1.0], [1.0], [1], np.int64(4), key=key, bound="interval")
    found = Certificate.from_json(found.to_json())
    assert found.status == "refuted" and found.verify(fn)
    for point in (None, np.asarray([-2.0]), np.asarray([0.5])):
        assert not dataclasses.replace(found, counterexample=point).verify(fn)


def test_the_hash_sees_constants_wherever_they_stand():
    def looping(w):
        step = jax.jit(lambda c: jnp.tanh(c * jnp.asarray(w)))
        return lambda x: jax.lax.scan(lambda c, _: (step(c), None), x, None, length=2)[0].sum()

    def scaled(k):
        return lambda x: (x * k).sum()

    for make, one, two in ((looping, [1.0, 2.0], [1.0, -2.0]), (scaled, 0.1, 0.1 + 1e-16)):
        assert posed(make(one), 2).digest == posed(make(one), 2).digest
        assert posed(make(one), 2).digest != posed(make(two), 2).digest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(low=[1.0, 0.0]), "low must be <= high, got 1.0 > 0.5"),
        (dict(low=[0.0]), r"shape \[d\]"),
        (dict(high=[np.inf, 1.0]), "finite"),
        (dict(budget=0), "budget must be an integer >= 1"),
        (dict(budget=2.5), "budget must be an integer"),
        (dict(bound="tight"), "bound must be one of"),
        (dict(directions=[2, 0]), "directions must be"),
        (dict(directions=[1]), "directions must have shape"),
        (dict(onehot=[(0, 5)]), "onehot must hold"),
        (dict(fn=lambda x: x), "scalar"),
        (dict(fn=lambda x: jax.lax.lgamma(x[0] + 3)), "'lgamma'|'digamma'"),
    ],
)
def test_mistakes_are_told(options, message):
    call = dict(fn=lambda x: x.sum(), low=[0.0, 0.0], high=[0.5, 0.5], directions=[1, 0])
    call |= options
    with pytest.raises((ValueError, CertifyError), match=message):
        certify_monotone(**call)
