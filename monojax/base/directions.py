"""The one way to say which inputs are monotone, and which way."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import is_concrete


def check_directions(
    directions: Any, width: int, num_outputs: int | None = None
) -> np.ndarray | jax.Array:
    """Validates ``directions``: +1 non-decreasing, -1 non-increasing, 0 free.

    This is scikit-learn's ``monotonic_cst``. Values are checked when they are concrete, the
    shape always.

    Args:
      directions: integers of shape `[d]`, or `[c, d]` if ``num_outputs`` is given.
      width: d, the number of inputs.
      num_outputs: c, for one row of directions per output (``outputs="paired"``).

    Returns:
      The directions as int32 of the same shape: a numpy array when they are concrete, so that
      they are known under `jit` too, else a traced array.

    Raises:
      ValueError: on another length, or on a value other than -1, 0, +1.

    Example:
      >>> check_directions([1, 0, -1], width=3).tolist()
      [1, 0, -1]
    """
    want = (width,) if num_outputs is None else (num_outputs, width)
    if not isinstance(directions, jax.Array):
        directions = np.asarray(directions)
        if directions.dtype == object or directions.dtype.kind not in "iuf":
            raise ValueError(
                f"directions must be numbers in {{-1, 0, +1}}, got {directions.tolist()!r}."
            )
    if directions.shape != want:
        other = directions.ndim == len(want) and directions.shape[-1] != width
        counts = f"x has {width} inputs, directions name {directions.shape[-1]}: " if other else ""
        raise ValueError(
            f"{counts}directions must have shape {want}, one entry per input, "
            f"got {directions.shape}."
        )
    if is_concrete(directions):
        values = np.asarray(directions)
        bad = np.flatnonzero(~np.isin(values.ravel(), (-1, 0, 1)))
        if bad.size:
            i = int(bad[0])
            raise ValueError(
                f"directions must be -1, 0 or +1; entry {i} is {values.ravel()[i]!s}. "
                "Put the strength of a penalty in its weight or margin."
            )
        return values.astype(np.int32)
    if not jnp.issubdtype(directions.dtype, jnp.integer):
        raise ValueError(f"traced directions must be integers, got {directions.dtype}.")
    return directions.astype(jnp.int32)
