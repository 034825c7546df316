"""Pairs of scenes that differ in one known factor."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.data.shapes3d import FACTORS, factor_values, random_factors

VALUES = ("grid", "continuous")


def factors(key: jax.Array, num: int, values: str) -> jax.Array:
    """Scenes with independent factors.

    Args:
      key: PRNG key.
      num: number of scenes.
      values: "grid" for the published set's values, or "continuous".

    Returns:
      float32 `[num, 6]`.
    """
    if values == "continuous":
        return random_factors(key, num)
    keys = jax.random.split(key, len(FACTORS))
    columns = [
        jnp.asarray(grid)[jax.random.randint(k, (num,), 0, len(grid))]
        for k, grid in zip(keys, factor_values(), strict=True)
    ]
    return jnp.stack(columns, axis=1)


def pair_factors(key: jax.Array, num: int, values: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Pairs of scenes that differ in one factor.

    Args:
      key: PRNG key.
      num: number of pairs.
      values: as in :func:`factors`.

    Returns:
      ``(first [num, 6], second [num, 6], changed [num])``; the factor is drawn uniformly, its
      second value is another one.
    """
    key_first, key_second, key_which, key_step = jax.random.split(key, 4)
    first = factors(key_first, num, values)
    changed = jax.random.randint(key_which, (num,), 0, len(FACTORS))
    other = factors(key_second, num, values)
    columns = []
    for k, grid in enumerate(factor_values()):
        if values == "continuous" and FACTORS[k] != "shape":
            columns.append(other[:, k])  # never the same twice
        else:  # a step around the grid that never comes back to the start
            at = jnp.abs(first[:, k : k + 1] - jnp.asarray(grid)[None]).argmin(1)
            step = jax.random.randint(jax.random.fold_in(key_step, k), (num,), 1, len(grid))
            columns.append(jnp.asarray(grid)[(at + step) % len(grid)])
    other = jnp.stack(columns, axis=1)
    own = jnp.arange(len(FACTORS))[None] == changed[:, None]
    return first, jnp.where(own, other, first), changed


def grid_places(rows: np.ndarray) -> np.ndarray:
    """Each value's place in its factor's grid, integers `[n, 6]`.

    Args:
      rows: factors `[n, 6]`; a value between two places goes to the nearer one.

    Returns:
      `[n, 6]`.
    """
    return np.stack(
        [np.abs(rows[:, k, None] - grid).argmin(1) for k, grid in enumerate(factor_values())], 1
    )


def number(factor: str) -> int:
    """The place of a factor.

    Args:
      factor: one of `FACTORS`.

    Returns:
      Its number, which is its latent's in the supervised models.

    Raises:
      ValueError: on a factor that is not there.
    """
    if factor not in FACTORS:
        raise ValueError(f"factor must be one of {', '.join(FACTORS)}, got {factor!r}.")
    return FACTORS.index(factor)


def images_of(config: Any) -> Any:
    """How rows of factors become pictures: drawn, or the published ones.

    Args:
      config: source, data_dir.

    Returns:
      ``images(rows) -> [n, 64, 64, 3]``; traceable for "rendered" only.
    """
    from monojax.data.shapes3d import published, render

    return render if config.source == "rendered" else published(config.data_dir or None).render
