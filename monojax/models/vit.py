"""A small vision transformer: patches as tokens, pre-norm blocks, a class token."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from monojax.base.checks import one_of
from monojax.base.renamed import renamed
from monojax.base.tags import tag

ACTIVATIONS = {"gelu": lambda x: nn.gelu(x, approximate=False), "relu": nn.relu}


class ViTBlock(nn.Module):
    """Attention and an MLP, each behind its layer norm and beside a residual connection."""

    heads: int
    """Number of attention heads; divides the width."""
    hidden: int
    """Width of the MLP's hidden layer."""
    activation: str = "gelu"
    """"gelu" (exact) or "relu"."""
    dtype: Any = None
    """Of the computation."""

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """`[b, t, d]` and `[b, 1, 1, t]` to `[b, t, d]`."""
        y = nn.LayerNorm(dtype=self.dtype, name="norm1")(x)
        y = nn.MultiHeadDotProductAttention(self.heads, dtype=self.dtype, name="attention")(
            y, mask=mask
        )
        x = x + y
        y = nn.LayerNorm(dtype=self.dtype, name="norm2")(x)
        y = ACTIVATIONS[self.activation](nn.Dense(self.hidden, dtype=self.dtype, name="up")(y))
        return x + nn.Dense(x.shape[-1], dtype=self.dtype, name="down")(y)


@renamed(pool="reduce")
class ViT(nn.Module):
    """Vision transformer of Dosovitskiy et al. (2021), arXiv 2010.11929, in small.

    Args:
      num_classes: number of logits.
      patch: side of a patch; divides the image's sides.
      width: of a token.
      depth: number of blocks.
      heads: attention heads per block.
      hidden: width of the MLPs' hidden layers; None for twice the width.
      activation: "gelu" or "relu".
      reduce: "cls", a class token in front, whose last state is read, or "mean" over all tokens.
      dtype: of the computation; None follows the input and parameters.
    """

    num_classes: int = 10
    patch: int = 4
    width: int = 64
    depth: int = 3
    heads: int = 4
    hidden: int | None = None
    activation: str = "gelu"
    reduce: str = "cls"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, keep: jax.Array | None = None) -> jax.Array:
        """`[b, h, w, c]` to logits `[b, num_classes]`.

        Places for maps: "tokens_0" behind the position embedding, "tokens_i" in front of block i.

        Args:
          x: images.
          keep: patches that take part, bool `[b, h/patch * w/patch]`, row by row; None for all.
            The others are hidden from attention and from pooling, as if they were not there.

        Returns:
          Logits.

        Raises:
          ValueError: if an option is unknown or the patch does not divide the image.
        """
        self._check(x)
        size = (self.patch, self.patch)
        x = nn.Conv(self.width, size, size, "VALID", dtype=self.dtype, name="embed")(x)
        x = x.reshape(x.shape[0], -1, self.width)
        if self.reduce == "cls":
            cls = self.param("cls", nn.initializers.normal(0.02), (1, 1, self.width), x.dtype)
            x = jnp.concatenate([jnp.broadcast_to(cls, (x.shape[0], 1, self.width)), x], axis=1)
            if keep is not None:
                keep = jnp.concatenate([jnp.ones_like(keep[:, :1]), keep], axis=1)
        x = x + self.param("position", nn.initializers.normal(0.02), (1, *x.shape[1:]), x.dtype)
        mask = None if keep is None else keep[:, None, None, :]
        for i in range(self.depth):
            block = ViTBlock(
                self.heads,
                self.hidden or 2 * self.width,
                self.activation,
                self.dtype,
                name=f"block_{i}",
            )
            x = block(tag(x, f"tokens_{i}"), mask)
        x = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
        if self.reduce == "cls":
            x = x[:, 0]
        elif keep is None:
            x = x.mean(axis=1)
        else:
            share = keep / jnp.maximum(keep.sum(axis=1, keepdims=True), 1)
            x = (x * share[..., None].astype(x.dtype)).sum(axis=1)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x)

    def _check(self, x: jax.Array) -> None:
        one_of(self.reduce, ("cls", "mean"), "reduce")
        one_of(self.activation, ACTIVATIONS, "activation")
        if x.ndim != 4 or x.shape[1] % self.patch or x.shape[2] % self.patch:
            raise ValueError(
                f"x must be [b, h, w, c] with sides divisible by patch {self.patch}, got {x.shape}."
            )
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by {self.heads} heads.")
