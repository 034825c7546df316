"""What a slope does not tell is refused: false rules, jumps, decisions by what is no number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from certify_nets import gradients64, single_bounds, slopes

from monojax.certify import CertifyError, certify_monotone
from monojax.certify.search import posed


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


def joined(z, above, below):
    return jnp.where(z > 0.3, above(z), below(z))


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


def cut_at_minus_two(z):
    (z,) = z @ jnp.ones((1, 1), z.dtype)
    return jnp.where(z > -2, z + 2, 0.0)


def filled(value):
    return lambda x: jnp.take(x, np.asarray([0, 5]), mode="fill", fill_value=value).sum()


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
