"""The penalty and its gradient against PyTorch's usual form, with equal weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import monojax as mj
from monojax.models import MLP

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch", reason="torch is an oracle: pip install torch (CPU)")

DIRECTIONS = np.array([1, -1, 0, 1])
MODEL = MLP((7, 6), activation=jnp.tanh)


def torch_penalty(params, x, reduce):
    """autograd.grad(create_graph=True) through the same tanh network, float64."""
    layers = [params["params"][f"_Linear_{i}"]["Dense_0"] for i in range(3)]
    weights = [
        torch.tensor(np.asarray(layer[name]), requires_grad=True)
        for layer in layers
        for name in ("kernel", "bias")
    ]
    points = torch.tensor(np.asarray(x), requires_grad=True)
    h = torch.tanh(points @ weights[0] + weights[1])
    h = torch.tanh(h @ weights[2] + weights[3])
    values = (h @ weights[4] + weights[5])[:, 0]
    (slopes,) = torch.autograd.grad(values.sum(), points, create_graph=True)
    violation = torch.clamp(0.2 - slopes * torch.tensor(DIRECTIONS), min=0) ** 2
    violation = violation * torch.tensor(DIRECTIONS != 0)
    penalty = violation.sum(dim=1).mean() if reduce == "mean" else violation.max()
    penalty.backward()
    return penalty.item(), [w.grad.numpy() for w in weights[:4]]


@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_value_and_gradient_agree(x64, reduce):
    x = jax.random.uniform(jax.random.key(0), (12, 4), jnp.float64)
    params = jax.tree.map(jnp.float64, MODEL.init(jax.random.key(1), x))

    def ours(params):
        fn = functools.partial(MODEL.apply, params)
        return mj.monotonicity_penalty(fn, x, DIRECTIONS, reduce=reduce, margin=0.2)

    value, grads = jax.value_and_grad(ours)(params)
    want, want_grads = torch_penalty(params, x, reduce)
    # Both in float64: sums of a few hundred terms in another order.
    np.testing.assert_allclose(value, want, rtol=1e-12)
    got = [
        grads["params"][f"_Linear_{i}"]["Dense_0"][name]
        for i in range(2)
        for name in ("kernel", "bias")
    ]
    for a, b in zip(got, want_grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13)
