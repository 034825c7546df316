"""How format1.zip was made, by monojax of commit 97de41c: python make_format1.py FOLDER, then zip.

It holds models in format 1, with NAME.npz beside folder NAME: inputs x0, x1, ... and prediction y.
"""

import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import monojax as mj
from monojax import layers
from monojax.conjugate import Solver, softplus
from monojax.models import MLP

rng = np.random.default_rng(0)
X = rng.standard_normal((5, 3)).astype(np.float32)
IMAGE = rng.standard_normal((2, 4, 4, 2)).astype(np.float32)
TWO = (X, X[:, :2])
MODELS = {
    "blnn": (mj.BLNN((4, 4), 0.5, 2.0), (X,)),
    "partial_blnn": (mj.PartialBLNN((4,), 0.5, 2.0), TWO),
    "conv_blnn": (mj.ConvBLNN((2,), 0.5, 1.0), (IMAGE,)),
    "icnn": (layers.ICNN((4,)), (X,)),
    "monotone_head": (layers.MonotoneHead(3), (X,)),
    "nonnegative_clip": (layers.NonNegativeDense(2, reparam="clip"), (X,)),
    "lmn": (layers.LMN((4, 4), 1.0, (1, 0, -1)), (X,)),
    "chain_blnn_rotation": (layers.Chain((mj.BLNN((4,), 0.5, 2.0), layers.Rotation())), (X,)),
    "mlp": (MLP((4,)), (X,)),
    "monotone_mlp_clip": (layers.MonotoneMLP((4, 1), (1, 0, -1), reparam="clip"), (X,)),
    "dc_convex_softplus": (
        layers.DCNetwork((4, 1), "convex", activation="softplus", reparam="softplus"),
        (X,),
    ),
    "dc_monotone_softplus": (
        layers.DCNetwork((4, 1), "monotone", activation="softplus", reparam="clip"),
        (X,),
    ),
    "partial_icnn": (layers.PartialICNN((4,)), TWO),
    "pairwise_icnn": (layers.PairwiseICNN((4,)), TWO),
    "conv_icnn": (layers.ConvICNN((2,)), (IMAGE,)),
    "sequential": (nn.Sequential((nn.Dense(3), nn.relu, MLP((4,)))), (X,)),
    "blnn_options": (
        mj.BLNN((4,), 0.5, 2.0, softplus(4.0), Solver("newton", tolerance=1e-5)),
        (X,),
    ),
}


def moved(leaf):
    """Away from the initial values, other than single numbers."""
    step = 0.1 * np.random.default_rng(2).standard_normal(leaf.shape)
    return leaf + jnp.asarray(step, leaf.dtype) if leaf.ndim else leaf


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True)
    for name, (model, inputs) in MODELS.items():
        variables = jax.tree.map(moved, model.init(jax.random.key(1), *inputs))
        y = jax.jit(model.apply)(variables, *inputs)
        mj.save(folder / name, model, variables)
        stored = {f"x{i}": x for i, x in enumerate(inputs)}
        np.savez(
            folder / f"{name}.npz", y=np.asarray(y[0] if isinstance(y, tuple) else y), **stored
        )
