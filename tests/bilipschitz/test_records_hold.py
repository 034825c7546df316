"""Records, inverses and constants that were wrong, each with its neighbours.

Judges are numpy in float64 or long double, from the attack's own core.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attacks import dual
from drawing import drawn
from jax.sharding import PartitionSpec

from monojax import BLNN, ConvBLNN, PartialBLNN
from monojax.conjugate import (
    Activation,
    ICNNPotential,
    ScaledICNN,
    Solver,
    as_activation,
    conjugate,
    softplus,
)
from monojax.conjugate.linear import factored_gradients, factored_solve, floored_solve
from monojax.layers import ICNN

RNG = np.random.default_rng(5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "dim, widths, beta",
    [
        (40, (6, 6), 50.0),
        pytest.param(30, (4,), 500.0, marks=pytest.mark.slow),
        pytest.param(9, (3,), 5.0, marks=pytest.mark.slow),
    ],
)
def test_wide_float64_input_on_float32_parameters(x64, dim, widths, beta):
    """Fewer units than inputs: the record is that of the full problem, in float64.

    Item 9: residual stated 1.2e-11, true 8e-6.
    """
    core = {k: v[0].astype(np.float32) for k, v in dual.draw_core(RNG, dim, widths, 1.0, 1).items()}
    net = BLNN(widths, 0.5, beta, softplus(10.0), train_sharpness=False)
    variables = {"params": {"core": jax.tree.map(jnp.asarray, core)}}
    x = jnp.asarray(RNG.normal(size=(4, dim)))
    run = jax.jit(
        lambda x: (net.apply(variables, x), net.apply(variables, x, method="diagnostics"))
    )
    out, info = run(x)
    y = np.asarray(out) - 0.5 * np.asarray(x)
    gradient, _ = dual.expand(core, 10.0, y, np.longdouble, 1.0, 1 / beta)
    true = dual.norm(np.asarray(x) - gradient).astype(float)
    assert out.dtype == jnp.float64 and info.converged.all()
    # 1e-14: the subtraction of alpha x rounds y by its last place.
    assert (true <= 1.1 * info.residual + 1e-14 * beta).all() and true.max() < 1e-8


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype):
    """Item 14: solved in float32, returned in the dtype of x, within the stated bound."""
    x = jnp.asarray(RNG.normal(size=(6, 3)), dtype)
    wide = x.astype(jnp.float32)
    net = BLNN((5,), 0.5, 4.0, softplus(3.0))
    variables = drawn(net, wide)

    @jax.jit
    def run(x):
        out = net.apply(variables, x)
        back = net.apply(variables, out, method="inverse")
        loss = net.apply(variables, x, out, method="fenchel_young")
        slope = jax.grad(lambda x: net.apply(variables, x).astype(jnp.float32).sum())(x)
        return out, back, loss, slope, net.apply(variables, x, method="diagnostics")

    out, back, loss, slope, info = run(x)
    for got in (out, back, loss, slope):
        assert got.dtype == x.dtype and np.isfinite(np.asarray(got, np.float32)).all()
    exact = run(wide)[0]
    gap = np.linalg.norm(np.asarray(out, np.float32) - exact, axis=1)
    assert info.converged.all() and (gap <= info.error_bound).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind, dtype", [("partial", "bfloat16"), ("conv", "float16")])
def test_half_precision_of_the_other_networks(kind, dtype):
    """Item 14's neighbours, with parameters of that dtype, too."""
    if kind == "conv":
        net, arrays = ConvBLNN((3,), 0.5, 4.0, activation=softplus(3.0)), [(4, 3, 3, 1)]
    else:
        net, arrays = PartialBLNN((5,), 0.5, 4.0, activation=softplus(3.0)), [(4, 2), (4, 3)]
    arrays = [jnp.asarray(RNG.normal(size=shape), dtype) for shape in arrays]
    wide = [a.astype(jnp.float32) for a in arrays]
    variables = jax.tree.map(lambda a: a.astype(dtype), drawn(net, *wide))

    @jax.jit
    def run(variables, *arrays):
        out = net.apply(variables, *arrays)
        back = net.apply(variables, *arrays[:-1], out, method="inverse")
        return out, back, net.apply(variables, *arrays, method="diagnostics")

    out, back, info = run(variables, *arrays)
    assert out.dtype == back.dtype == jnp.dtype(dtype) and info.converged.all()
    exact = run(jax.tree.map(lambda a: a.astype(jnp.float32), variables), *wide)[0]
    gap = np.linalg.norm((np.asarray(out, np.float32) - exact).reshape(4, -1), axis=1)
    assert (gap <= np.asarray(info.error_bound).ravel()).all()
    assert np.abs(np.asarray(back, np.float32) - wide[-1]).max() < 0.2


def test_half_precision_parameters_and_plain_conjugates():
    bowl = lambda p, y: 0.5 * y @ (p * y)
    got = jax.jit(lambda p, x: conjugate(bowl, p, x))(
        jnp.asarray([1.0, 4.0], jnp.bfloat16), jnp.asarray([1.0, 1.0], jnp.bfloat16)
    )
    assert got.argmax.dtype == jnp.bfloat16 and got.residual.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(got.argmax, np.float32), [1.0, 0.25], rtol=1e-2)


@pytest.mark.slow
def test_concrete_jax_scalars_are_options_inside_jit():
    """Item 15: constants of the module, of the call and of the solver."""
    x = jnp.ones((2, 3))
    alpha, beta, tolerance = jnp.float32(0.5), np.float32(4.0), jnp.float32(1e-3)
    net = BLNN((4,), alpha, beta, softplus(2.0), Solver(tolerance=tolerance))
    plain = BLNN((4,), 0.5, 4.0, softplus(2.0), Solver(tolerance=float(tolerance)))
    variables = drawn(plain, x)
    got, want = jax.jit(lambda x: (net.apply(variables, x, beta=beta), plain.apply(variables, x)))(
        x
    )
    np.testing.assert_array_equal(got, want)
    for bad in (jnp.float32(-1), np.float32(np.nan), jnp.inf):
        with pytest.raises(ValueError, match="alpha must be"):
            jax.jit(lambda x, bad=bad: plain.apply(variables, x, alpha=bad))(x)
    with pytest.raises(ValueError, match="tolerance must be > 0"):
        Solver(tolerance=jnp.float32(0.0))


@pytest.mark.slow
@pytest.mark.parametrize("dead", ["y_kernel_0", "y_kernel_1", "z_kernel_1"])
def test_constants_of_dead_units_have_gradients(dead):
    """Item 20: a row of zeros; in the certificate, and in the step size of "fixed"."""
    core = {
        k: jnp.asarray(v[0], jnp.float32) for k, v in dual.draw_core(RNG, 3, (5, 4), 1.0, 1).items()
    }
    core[dead] = core[dead].at[:, 1].set(0.0)
    maths = ICNN((5, 4), softplus(2.0)).maths
    grads = jax.jit(jax.grad(lambda core: sum(maths.bounds(core))))(core)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    solver = Solver("fixed", differentiation="unrolled", max_steps=3)
    params = {"core": core, "weight": jnp.ones(()), "curvature": jnp.asarray(0.5)}
    loss = lambda p: conjugate(ScaledICNN(maths), p, jnp.ones(3), solver, record=False).argmax.sum()
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(jax.jit(jax.grad(loss))(params)))


@pytest.mark.slow
def test_constants_of_unbounded_slopes_are_not_nan():
    """Item 32: squared_relu has no Lipschitz constant beyond one layer, and no NaN."""
    for name in ("squared_relu", "relu"):
        for dead in (False, True):
            core = {k: jnp.asarray(v[0]) for k, v in dual.draw_core(RNG, 3, (4,), 1.0, 1).items()}
            # Weights that are clamped to 0 would leave a linear function, whose constants are 0.
            core["z_kernel_1"] = jnp.abs(core["z_kernel_1"])
            if dead:
                core["y_kernel_0"] = core["y_kernel_0"].at[:, 0].set(0.0)
            maths = ICNNPotential(as_activation(name))
            for found in (*maths.bounds(core), *maths.product_bound(core)):
                assert not np.isnan(found)
            assert np.isinf(maths.bounds(core)[1])


@pytest.mark.slow
def test_gates_go_by_what_is_known():
    """Item 27: softplus - 2 with a name gave a slope of 11.30 where 10.5 is promised."""
    shifted = Activation(lambda a: jax.nn.softplus(a) - 2, 1.0, 0.25, name="shifted")
    assert shifted.lower_bound is None and Activation(jnp.exp, name="exp").lower_bound == 0.0
    assert softplus(7.0).lower_bound == 0.0 and as_activation("elu").lower_bound == -1.0
    c, y = (jnp.asarray(RNG.normal(size=(400, n)), jnp.float32) for n in (2, 1))
    for activation in (shifted, Activation(lambda a: jax.nn.elu(a) - 1, 1.0, 1.0, name="low")):
        net = PartialBLNN((6, 5), 0.5, 10.0, activation=activation)
        variables = drawn(net, c, y, size=1.0)
        one = lambda c, y, net=net, v=variables: net.apply(v, c, y)[0]
        slopes = jax.jit(jax.vmap(jax.grad(one, 1)))(c, y)
        assert slopes.min() >= 0.5 - 1e-3 and slopes.max() <= 10.5 + 1e-2


@pytest.mark.parametrize("ratio", [1e6, 1e8, 1e10])
def test_systems_keep_the_small_curvature(ratio):
    """Item 29: beside a curvature 1e6 times larger, in float32, to 0.1% of the inverse's norm."""
    factor = RNG.normal(size=(20, 6)) @ np.diag([1, 1, 0.5, 0, 0, 0]) @ RNG.normal(size=(6, 6))
    factor = factor.astype(np.float32)
    floor = np.float32(np.linalg.norm(factor.astype(float), 2) ** 2 / ratio)
    b = RNG.normal(size=6).astype(np.float32)
    matrix = factor.astype(float).T @ factor + floor * np.eye(6)
    want = np.linalg.solve(matrix, b.astype(float))
    size = np.linalg.norm(b) / floor
    by_qr = jax.jit(lambda f, c, b: factored_solve(f.T @ f, lambda f: f, f, c, b))(factor, floor, b)
    by_cg = jax.jit(
        lambda f, c, b: factored_gradients(lambda v: f @ v, lambda u: f.T @ u, c, b, 1e-6, 60)
    )(factor, floor, b)
    rounded = matrix.astype(np.float32)
    capped = jax.jit(floored_solve)(rounded, b, floor)
    for got in (by_qr, by_cg):
        assert np.linalg.norm(got - want) <= 2e-3 * size * max(1, ratio / 1e8) ** 0.5
    assert np.linalg.norm(capped) <= size * (1 + 1e-3)  # never above what is promised


@pytest.mark.slow
def test_inside_shard_map():
    """Item 22: value, gradient, record and inverse without check_vma=False."""
    mesh = jax.make_mesh((8,), ("b",), axis_types=(jax.sharding.AxisType.Auto,))
    x = jnp.asarray(RNG.normal(size=(8, 3)), jnp.float32)
    net = BLNN((4,), 0.5, 4.0, softplus(2.0))
    variables = drawn(net, x)
    whole, split = PartitionSpec(), PartitionSpec("b")

    def loss(v, x, mean=lambda a: a):
        return mean(jnp.mean(jnp.square(net.apply(v, x) - 2 * x)))

    over = functools.partial(loss, mean=lambda a: jax.lax.pmean(a, "b"))
    shard = lambda f, out: jax.jit(
        jax.shard_map(f, mesh=mesh, in_specs=(whole, split), out_specs=out)
    )
    got = shard(jax.grad(over), whole)(variables, x)
    want = jax.jit(jax.grad(loss))(variables, x)
    for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    call = lambda v, x: (
        net.apply(v, x, method="inverse"),
        net.apply(v, x, method="inverse_diagnostics"),
    )
    back, info = shard(call, split)(variables, x)
    assert back.shape == x.shape and info.converged.all()
    partial = PartialBLNN((4,), 0.5, 4.0, activation=softplus(2.0))
    variables = drawn(partial, x, x)
    both = lambda v, x: partial.apply(v, x, x)
    np.testing.assert_allclose(
        shard(both, split)(variables, x), jax.jit(both)(variables, x), atol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("promise", dual.PROMISES, ids=lambda p: f"{p.name} {p.dtype}")
def test_one_round_of_attack(promise):
    """Items 25, 26, 29, 32, 33: one round of each attack."""
    attempt = promise.attack(np.random.default_rng(11))
    assert attempt.tried > 0 and attempt.worst <= 1, attempt


@pytest.mark.slow
@pytest.mark.parametrize("core", ["picnn", "pairwise"])
def test_inverses_of_the_other_networks_state_their_error(core):
    """Item 26: PartialBLNN and ConvBLNN say how far their inverses are."""
    c, y = (jnp.asarray(RNG.normal(size=(5, n)), jnp.float32) for n in (2, 3))
    net = PartialBLNN((4,), 0.1, 10.0, core=core, activation=softplus(3.0))
    v = drawn(net, c, y)

    @jax.jit
    def run(c, y):
        out = net.apply(v, c, y)
        call = functools.partial(net.apply, v, c, out)
        return call(method="inverse"), call(method="inverse_diagnostics")

    back, info = run(c, y)
    # The output itself is off by at most error_bound of the call, 1e-3 (1 + |y|), over alpha.
    assert info.converged.all()
    assert (np.linalg.norm(back - y, axis=1) <= info.error_bound + 2e-3 * 10 / 0.1).all()
    with pytest.raises(TypeError, match="reduce"):
        ConvBLNN((2,), 0.5, 1.0, pool="mean")


def test_the_safer_solve_costs_nothing_where_it_is_not_needed():
    """XLA takes what does not depend on a loop's state out of it: no QR before the loop."""
    factor, b = jnp.ones((4, 20, 6)), jnp.ones((4, 6))
    one = lambda f, b: factored_solve(f.T @ f, lambda f: f, f, jnp.float32(0.1), b)
    matrix = jnp.broadcast_to(jnp.eye(6), (4, 6, 6))
    for fn, args, name in (
        (one, (factor, b), "geqrf"),
        (lambda m, b: floored_solve(m, b, jnp.float32(0.1)), (matrix, b), "syevd"),
    ):
        text = jax.jit(jax.vmap(fn)).lower(*args).compile().as_text()
        assert name in text.lower()
        assert name not in text[text.index("\nENTRY") :].lower()
