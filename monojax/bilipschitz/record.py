"""What the inner solves of a network did: one entry per example, or one count per training step.

Networks with an inner solve (`BLNN`, `PartialBLNN`, `ConvBLNN`) write a count into the linen
collection ``"diagnostics"`` whenever the caller makes it mutable. It comes from the forward solve
itself, so it costs a sum; without ``mutable`` nothing is computed.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

COLLECTION = "diagnostics"
"""Name of the linen collection."""


class Diagnostics(NamedTuple):
    """What the inner solves did, one entry per example, each `[...]`."""

    steps: jax.Array
    """int: steps of the inner loop."""
    residual: jax.Array
    """Norm of what the inner equation misses at the solution, and what rounding may hide of it."""
    converged: jax.Array
    """bool: the residual met the solver's tolerance."""
    curvature: jax.Array
    """Smallest secant curvature of the inner problem met; below its promised strong convexity
    (1 / beta in the call) the core is not convex."""
    error_bound: jax.Array
    """Bounds the error of what the network returns, in the Euclidean norm: beta * residual in the
    call, as told there for an inverse, and the rounding of the last sum."""
    jacobian_error: jax.Array
    """Share of the inner problem's largest slope (beta in the call) by which rounding may change
    the Jacobian. Where it is above 1e-3, use float64 for derivatives."""


def wants_record(module: nn.Module) -> bool:
    """Whether the caller made the collection mutable."""
    return not module.is_initializing() and module.is_mutable_collection(COLLECTION)


def sow_record(module: nn.Module, result: Diagnostics | None) -> None:
    """Adds a batch of solves to ``module``'s part of the collection, if that is mutable."""
    if result is None or not wants_record(module):
        return
    count = jnp.sum(~result.converged, dtype=jnp.int32)
    worst = jnp.max(result.residual, initial=0.0)  # NaN stays NaN
    module.sow(COLLECTION, "unconverged", count, jnp.add, init_fn=lambda: jnp.zeros((), jnp.int32))
    module.sow(
        COLLECTION, "worst_residual", worst, jnp.maximum, init_fn=lambda: jnp.zeros_like(worst)
    )


def unconverged(collection: Any, *, axis_name: str | None = None) -> jax.Array:
    """Number of inner solves that missed their tolerance, over all layers and examples.

    For the metrics of a training step: 0 is what one wants to see in every line of the log.

    Args:
      collection: what ``net.apply(variables, x, mutable=["diagnostics"])`` returns second, at any
        depth. Do not give it back to ``apply`` as a variable: it would add up over the steps.
      axis_name: the `pmap` axis to sum over, or None.

    Returns:
      int32 `[]`. An example that fails in two layers counts twice; NaN input counts.

    Raises:
      ValueError: if nothing was recorded (no ``mutable=["diagnostics"]``, or a lifted transform
        such as `nn.vmap` without that collection in ``variable_axes``).

    Example:
      >>> def loss_fn(params, model_state, batch, key, axis_name):
      ...     variables = {"params": params}
      ...     out, record = net.apply(variables, batch["x"], mutable=["diagnostics"])
      ...     metrics = {"unconverged": unconverged(record, axis_name=axis_name)}
      ...     return jnp.mean(jnp.square(out - batch["y"])), (model_state, metrics)
    """
    leaves = _entries(collection, "unconverged")
    total = jnp.sum(jnp.stack([jnp.sum(leaf) for leaf in leaves]))
    return total if axis_name is None else jax.lax.psum(total, axis_name)


def worst_residual(collection: Any, *, axis_name: str | None = None) -> jax.Array:
    """Largest residual norm of all inner solves; NaN if one of them is.

    Args:
      collection: as in :func:`unconverged`.
      axis_name: the `pmap` axis to take the largest over, or None.

    Returns:
      float `[]`, in the units of the solve's input.

    Raises:
      ValueError: as :func:`unconverged`.
    """
    leaves = _entries(collection, "worst_residual")
    worst = jnp.max(jnp.stack([jnp.max(leaf) for leaf in leaves]))
    return worst if axis_name is None else jax.lax.pmax(worst, axis_name)


def _entries(collection: Any, name: str) -> list[jax.Array]:
    """All leaves called ``name`` in a tree of collections."""
    leaves = jax.tree_util.tree_leaves_with_path(collection)
    found = [leaf for path, leaf in leaves if getattr(path[-1], "key", None) == name]
    if not found:
        raise ValueError(
            f"no {name!r} in the collection: call apply(..., mutable=['diagnostics']) on a network "
            "with inner solves, and pass what it returns second."
        )
    return found
