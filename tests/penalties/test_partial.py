"""The perturbed function is the plain one, derivatives included, and is cheaper."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import monojax as mj
from monojax.models import MLP, TwoBranch
from monojax.penalties.columns import perturbed

D = 7
W = jax.random.normal(jax.random.key(0), (D, 5))
V = jax.random.normal(jax.random.key(1), (5, D))


class Cast(nn.Module):
    """A dense layer that casts its input, as mixed precision does."""

    @nn.compact
    def __call__(self, x):
        """[..., d] to [...]."""
        x = nn.Dense(6, dtype=jnp.float32, param_dtype=jnp.float32)(x)
        return jnp.tanh(x).sum(axis=-1) * 1.0


def model(module):
    params = module.init(jax.random.key(3), jnp.ones(D))
    return lambda x: module.apply(params, x)


FUNCTIONS = {
    "left product": lambda x: jnp.tanh(x @ W).sum(),
    "right product": lambda x: jnp.tanh(V @ x).sum(),
    "product with itself": lambda x: x @ x,
    "product under jit": jax.jit(lambda x: jnp.sin(x @ W).sum()),
    "einsum": lambda x: jnp.einsum("d,dk->k", x, jnp.sin(W)).prod(),
    "elementwise": lambda x: (x**3).sum(),
    "product and elementwise": lambda x: jnp.sin(x @ W).sum() * x[0] + x[2] ** 2,
    "weights that depend on x": lambda x: x @ jnp.outer(x, x) @ x,
    "identity": lambda x: x,
    "a constant": lambda x: jnp.float32(3.0),
    "remat": jax.checkpoint(lambda x: jnp.sin(x @ W).sum()),
    "scan": lambda x: jax.lax.scan(lambda c, w: (jnp.sin(c * w.sum()), None), x, W)[0].sum(),
    "conditional": lambda x: jax.lax.cond(x[0] > 0, lambda x: (x @ W).sum(), jnp.sum, x),
    "mlp": model(MLP((6, 5))),
    "two branches": model(TwoBranch((1, 4), hidden=6)),
    "cast": model(Cast()),
}


@pytest.mark.parametrize(
    "columns",
    [
        (1, 4, 6),
        pytest.param((0, 1, 2), marks=pytest.mark.slow),  # consecutive: a slice, no gather
        pytest.param((5,), marks=pytest.mark.slow),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_gradients_and_hessians(name, columns):
    fn, columns = FUNCTIONS[name], np.array(columns)
    x = jax.random.normal(jax.random.key(2), (D,))
    e = 0.1 * jax.random.normal(jax.random.key(4), (len(columns),))
    cheap = perturbed(fn, x, columns)
    plain = lambda x, e: fn(x.at[columns].add(e))
    total = lambda f: lambda x, e: jnp.sum(jnp.sin(f(x, e)))

    def everything(f):
        f = total(f)
        return f(x, e), jax.grad(f, (0, 1))(x, e), jax.hessian(f, 1)(x, e)

    got, want = jax.jit(lambda: everything(cheap))(), jax.jit(lambda: everything(plain))()
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        # float32 sums in another order, of terms up to about 10
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_it_is_cheaper_and_gives_the_same_penalty():
    """D = 500, |M| = 20: FLOPs of the step at most 1.6 times the plain ones (2.3 uncut)."""
    x = jax.random.normal(jax.random.key(0), (64, 500))
    module, directions = MLP((256, 256)), np.where(np.arange(500) < 20, 1, 0)
    params = module.init(jax.random.key(1), x)

    def loss(params, directions):
        fn = functools.partial(module.apply, params)
        if directions is None:
            return jnp.mean(jnp.square(fn(x)))
        values, omega = mj.value_and_penalty(fn, x, directions)
        return jnp.mean(jnp.square(values)) + omega

    def flops(directions):
        program = jax.jit(jax.grad(loss), static_argnums=1 if directions is None else ())
        if directions is not None:
            program = jax.jit(jax.grad(lambda p: loss(p, directions)))
            return program.lower(params).compile().cost_analysis()["flops"]
        return program.lower(params, None).compile().cost_analysis()["flops"]

    assert flops(directions) < 1.6 * flops(None)
    # Traced directions cannot be cut: the same function by the other road.
    traced = jax.jit(jax.grad(loss))(params, jnp.asarray(directions))
    cut = jax.jit(jax.grad(lambda p: loss(p, directions)))(params)
    for a, b in zip(jax.tree.leaves(cut), jax.tree.leaves(traced), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_mixed_precision_casts_stay_cut():
    """A cast before the first layer (bfloat16 compute) keeps the perturbation apart."""
    weights = jax.random.normal(jax.random.key(0), (500, 64), jnp.bfloat16)
    fn = lambda x: jnp.tanh(x.astype(jnp.bfloat16) @ weights).sum()
    cheap = perturbed(fn, jnp.ones(500), np.arange(3))
    text = str(jax.make_jaxpr(cheap)(jnp.ones(500), jnp.zeros(3)))
    assert "bf16[3,64]" in text and "scatter" not in text
