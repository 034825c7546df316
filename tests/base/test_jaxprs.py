"""Reading equations: calls, rules, loops and branches, whatever jax calls their parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from monojax.base import compat
from monojax.base.jaxprs import (
    Call,
    Cond,
    CustomRule,
    Scan,
    While,
    evaluate,
    needed,
    structure_of,
    variables,
)

X = np.arange(3.0, dtype=np.float32)


def only(fn, primitive, *args):
    """The one equation of that name in fn's jaxpr."""
    closed = jax.make_jaxpr(fn)(*args)
    (eqn,) = [eqn for eqn in closed.jaxpr.eqns if eqn.primitive.name == primitive]
    return eqn


def bind(eqn, values):
    return compat.bind(eqn, *values)


@pytest.mark.parametrize(
    "fn, parts, reverse",
    [
        (lambda x: jax.lax.scan(lambda c, a: (c * x.sum(), a), x, jnp.ones((4, 2))), (1, 1, 1), 0),
        (lambda x: jax.lax.scan(lambda c, a: (c + a, ()), 0.0, x), (0, 1, 1), 0),
        (lambda x: jax.lax.scan(lambda c, a: (c[::-1], c), (x, x * 2), None, 3), (0, 2, 0), 0),
        (lambda x: jax.lax.scan(lambda c, a: ((), a * x), (), x, reverse=True), (1, 0, 1), 1),
        (lambda x: jax.lax.fori_loop(0, 3, lambda i, c: c * x, x), (1, 2, 0), 0),
    ],
)
def test_parts_of_a_scan(fn, parts, reverse):
    eqn = only(fn, "scan", X)
    loop = structure_of(eqn)
    assert isinstance(loop, Scan) and loop.reverse == bool(reverse)
    assert tuple(map(len, loop.parts(eqn.invars))) == parts
    assert len(loop.body.jaxpr.invars) == sum(parts)
    assert loop.length in (3, 4)


def test_parts_of_the_others():
    loop = structure_of(
        eqn := only(
            lambda x: jax.lax.while_loop(
                lambda c: c[0] < x[0], lambda c: (c[0] + x.sum(), c[1] * x), (0.0, x)
            ),
            "while",
            X,
        )
    )
    assert isinstance(loop, While)
    assert [len(part) for part in loop.parts(eqn.invars)][2] == 2
    choice = structure_of(
        only(lambda x, i: jax.lax.switch(i, [jnp.sin, jnp.cos, jnp.abs], x), "cond", X, 1)
    )
    assert isinstance(choice, Cond) and len(choice.branches) == 3
    assert isinstance(structure_of(only(jax.checkpoint(jnp.sin), "remat2", X)), Call) or isinstance(
        structure_of(only(jax.checkpoint(jnp.sin), "checkpoint", X)), Call
    )
    assert structure_of(only(lambda x: x + 1, "add", X)) is None


def test_a_rule_is_followed_by_bind_and_not_by_the_body():
    @jax.custom_vjp
    def rounded(h):
        return jnp.round(4 * h) / 4

    rounded.defvjp(lambda h: (rounded(h), None), lambda _, g: (g,))
    for fn, kind in ((rounded, "custom_vjp"), (jax.nn.relu, "custom_jvp")):
        closed = jax.make_jaxpr(fn)(X)
        while isinstance(rule := structure_of(closed.jaxpr.eqns[0]), Call):
            closed = rule.body
        assert isinstance(rule, CustomRule) and rule.kind == kind
        own = lambda x, c=closed: evaluate(c, [x], bind)[0].sum()
        np.testing.assert_array_equal(jax.grad(own)(X + 0.1), 1.0)
        values = evaluate(rule.body, [X + 0.1], bind)[0]
        np.testing.assert_allclose(values, fn(X + 0.1))


def test_some_results_cost_only_what_they_need():
    def fn(x):
        y = jnp.sin(x)
        return y + 1, jnp.cos(x), x

    closed, met = jax.make_jaxpr(fn)(X), []

    def apply(eqn, values):
        met.append(eqn.primitive.name)
        return compat.bind(eqn, *values)

    second, third = evaluate(closed, [X], apply, outs={1, 2})
    np.testing.assert_allclose(second, np.cos(X), rtol=1e-6)
    np.testing.assert_array_equal(third, X)
    assert met == ["cos"]
    assert len(needed(closed.jaxpr, closed.jaxpr.outvars[:1])) == 3
    assert variables(closed.jaxpr.eqns[1].invars) == [closed.jaxpr.eqns[0].outvars[0]]
