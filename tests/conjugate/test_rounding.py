"""What rounding may hide: stated against float64, and examples that it made unconverged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from monojax.base.compat import enable_x64
from monojax.conjugate import ICNNPotential, ScaledICNN, conjugate, softplus
from monojax.conjugate.rounding import rounding_of

RNG = np.random.default_rng(3)


def _steep(p, y):
    """A sharp edge at which large terms cancel, as in a network fitted to a jump."""
    return jax.nn.sigmoid(p["sharp"] * y + p["offset"])


FUNCTIONS = {
    "sums": (lambda p, y: p @ (p.T @ y), lambda d: RNG.normal(size=(d, 40))),
    "edge": (_steep, lambda d: {"sharp": np.full(d, 400.0), "offset": np.full(d, -380.0)}),
    "loop": (
        lambda p, y: jax.lax.scan(lambda y, a: (jnp.tanh(a @ y), None), y, p)[0],
        lambda d: RNG.normal(size=(3, d, d)),
    ),
    "jitted": (lambda p, y: jax.jit(jnp.exp)(-jnp.square(y) * p) - p, lambda d: RNG.normal(size=d)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dim", [1, 3, 20])
def test_rounding_is_of_the_size_of_the_error(name, dim):
    """Root mean squares over 50 points: no less than the error's, no more than 60 times it.

    The edge comes to 40 where XLA fuses the product and the sum, whose error is then none.
    """
    fn, draw = FUNCTIONS[name]
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), draw(dim))
    y = jnp.asarray(0.95 + 0.02 * RNG.normal(size=(50, dim)), jnp.float32)
    run = jax.jit(jax.vmap(lambda y: (fn(params, y), rounding_of(fn, params, y))))
    got, stated = jax.tree.map(np.asarray, run(y))
    with enable_x64():
        wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), params)
        exact = np.asarray(jax.vmap(lambda y: fn(wide, y))(jnp.asarray(np.asarray(y), jnp.float64)))
    error = np.sqrt(np.square(got - exact).sum(-1).mean())
    assert error / 1.5 <= np.sqrt(np.square(stated).mean()) <= 60 * error


@pytest.mark.slow
@pytest.mark.parametrize(
    "sharp, beta, slope", [(30.0, 9.0, 1.0), (60.0, 9.0, 1.0), (40.0, 49.0, 3.0)]
)
def test_sharp_edges_converge(sharp, beta, slope):
    """Cores as sharp as a fitted jump: their rounding was stated so large that 28% did not."""
    rng = np.random.default_rng(1)
    edges = rng.uniform(-1, 1, 16)
    core = {
        "y_kernel_0": np.full((1, 16), sharp),
        "bias_0": -sharp * edges,
        "y_kernel_1": np.zeros((1, 1)),
        "bias_1": np.zeros(1),
        "z_kernel_1": np.full((16, 1), slope / 16),
    }
    params = {"core": core, "weight": 1 / sharp, "curvature": 1 / beta}
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)
    potential = ScaledICNN(ICNNPotential(softplus(10.0)))
    x = jnp.linspace(-2, 2, 100)[:, None]
    found = jax.jit(jax.vmap(lambda x: conjugate(potential, params, x)))(x)
    assert found.converged.all()
