"""The rest of a network behind its last convolution, as the group penalty's gradient form wants it.

The maps behind norm and ReLU feed an average and one linear layer, so that the slopes there are the
layer's weights alone. At the convolution's own output the ReLU's mask makes them depend on the
input: Monteiro et al. (UAI 2022) enforce their penalty "at the last convolutional layer".
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from monojax.models import MNISTNet

EPSILON = 1e-5
"""Of the batch norms of both networks."""

Tail = Callable[[jax.Array], jax.Array]


def layers(model: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Paths of the last convolution and of the norm behind it.

    Args:
      model: MNISTNet, or a WideResNet with added maps: without them its last norm follows a sum.

    Returns:
      ``(convolution, norm)``.

    Raises:
      ValueError: for a WideResNet without added maps.
    """
    if isinstance(model, MNISTNet):
        return ("conv3",), ("bn3",)
    if not model.maps:
        raise ValueError(
            "a penalty at the convolution needs config.model.maps > 0 for wide_resnet: without the "
            "added convolution, the last norm follows a sum of two."
        )
    return ("extra", "conv"), ("extra", "bn")


def last_output(model: Any, variables: Any, x: jax.Array, **options: Any) -> tuple[Any, Any, Any]:
    """Maps, and what the last convolution gave for them.

    Args:
      model: see :func:`layers`.
      variables: of the network.
      x: prepared images `[b, h, w, c]`.
      **options: of ``apply`` in training, such as rngs.

    Returns:
      ``(maps, output, batch_stats)``, the first two `[b, h', w', W]`.
    """
    path, _ = layers(model)
    maps, updates = model.apply(
        variables,
        x,
        train=True,
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=lambda module, method: module.path == path,
        method="features",
        **options,
    )
    found = updates["intermediates"]
    for name in path:
        found = found[name]
    return maps, found["__call__"][0], {"batch_stats": updates["batch_stats"]}


def tail(model: Any, params: Any, output: jax.Array) -> Tail:
    """From one example's output of the last convolution to its logits.

    The batch's mean and variance are held with respect to this input: an example is not moved
    through the others' norm, and a shift of a whole map, which the norm would undo, counts. The
    network's parameters have derivatives through them.

    Args:
      model: see :func:`layers`.
      params: of the network.
      output: of the last convolution for the batch, `[b, h', w', W]`.

    Returns:
      Function from `[h', w', W]` to `[K]`.
    """
    _, path = layers(model)
    norm = params
    for name in path:
        norm = norm[name]
    axes = (0, 1, 2)
    gain = norm["scale"] * jax.lax.rsqrt(jnp.var(output, axes) + EPSILON)
    shift = norm["bias"] - gain * jnp.mean(output, axes)
    wide = lambda vector: vector.reshape(1, 1, -1)

    def logits(one):
        maps = jax.nn.relu(wide(gain) * one + wide(shift))
        return model.apply({"params": params}, maps, method="head")

    return logits
