r"""The proof-of-concept regression: a partially monotone sum, with a shifted test set.

Points lie near a subspace: :math:`X = X'A` with :math:`X'` of :math:`\lfloor 0.3 D\rfloor`
columns. The test set has another :math:`A`, so a property enforced around the training data is
tested away from them.

Reference:
  Monteiro, Ahmed, Hajimirsadeghi, Mori, "Monotonicity Regularization: Improved Penalties and
  Novel Applications to Disentangled Representation Learning and Robust Classification", UAI 2022,
  https://arxiv.org/abs/2205.08247. Function lists and ``shift="code"`` follow the authors' code.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from monojax.base.choices import one_of

Shift = Literal["code", "paper"]
Function = Callable[[np.ndarray], np.ndarray]

MONOTONE: tuple[Function, ...] = (
    lambda x: x / 10,
    lambda x: (x + 5) / 10,
    lambda x: (x - 5) / 10,
    lambda x: x**3 / 1e3,
    lambda x: (x + 5) ** 3 / 1e3,
    lambda x: (x - 5) ** 3 / 1e3,
)
"""The g_i, all increasing; column j uses entry j mod 6."""

FREE: tuple[Function, ...] = (
    lambda x: x**2 / 1e2,
    lambda x: (x + 5) ** 2 / 1e2,
    lambda x: (x - 5) ** 2 / 1e2,
    lambda x: x**4 / 1e4,
    lambda x: (x + 5) ** 4 / 1e4,
    lambda x: (x - 5) ** 4 / 1e4,
    np.sin,
    np.cos,
    lambda x: x * np.sin(x) / 10,
    lambda x: x * np.cos(x) / 10,
)
"""The h_j, not monotone; column j uses entry j mod 10."""


class SyntheticData(NamedTuple):
    """A generated data set; features and targets are min-max scaled, see `additive_monotone`.

    Attributes:
      x_train, x_valid, x_test: float32, shape `[n, D]`; train and validation in [0, 1], the
        shifted test set not clipped.
      y_train, y_valid, y_test: float32, shape `[n]`, scaled likewise.
      directions: int32, shape `[D]`: +1 for the first |M| columns, 0 for the others.
      low, high: the box [0, 1]^D, float32, shape `[D]`.
      feature_low, feature_high: raw range of train and validation, float64, shape `[D]`.
      target_scale: (low, high) of the raw train and validation targets.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_valid: np.ndarray
    y_valid: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    directions: np.ndarray
    low: np.ndarray
    high: np.ndarray
    feature_low: np.ndarray
    feature_high: np.ndarray
    target_scale: tuple[float, float]


def additive_target(x: np.ndarray, num_monotone: int) -> np.ndarray:
    r"""The noiseless target: increasing in the first columns, free in the others.

    :math:`f(x) = \sum_{j<|M|} g_{j \bmod 6}(x_j) + \sum_{j\ge|M|} h_{j \bmod 10}(x_j)`.

    Args:
      x: raw (unscaled) points, shape `[n, D]`.
      num_monotone: |M|, the number of leading monotone columns, 0..D.

    Returns:
      float64, shape `[n]`; non-decreasing in each of the first |M| columns.

    Raises:
      ValueError: if ``x`` is not `[n, D]` or ``num_monotone`` not in 0..D.
    """
    x = np.asarray(x, np.float64)
    if x.ndim != 2:
        raise ValueError(f"x must have shape [n, D], got {x.shape}.")
    _check_monotone(num_monotone, x.shape[1])
    total = np.zeros(len(x))
    for j in range(x.shape[1]):
        # Both lists are cycled by the column's own index, so h starts at |M| mod 10.
        fn = MONOTONE[j % len(MONOTONE)] if j < num_monotone else FREE[j % len(FREE)]
        total += fn(x[:, j])
    return total


def shifted_mixing(
    mixing: np.ndarray, other: np.ndarray, *, shift: Shift = "code", alpha: float = 0.8
) -> np.ndarray:
    r"""The test set's matrix, between the training matrix A and an independent A'.

    ``"paper"``: :math:`\alpha A' + (1-\alpha) A`, so that
    :math:`\|A_{test} - A\|_F = \alpha\,\|A' - A\|_F`. ``"code"``: :math:`\alpha A' + 0.7 A`, as
    the authors' code does: it reuses the 0.3 of the number of latent columns where the paper has
    :math:`\alpha`. That stretches the test set, and is very likely what made the paper's tables.

    Args:
      mixing: A, shape `[d, D]`.
      other: A', shape `[d, D]`.
      shift: ``"code"`` or ``"paper"``.
      alpha: weight of A', in [0, 1].

    Returns:
      A_test, shape `[d, D]`.

    Raises:
      ValueError: on an unknown shift or an ``alpha`` outside [0, 1].
    """
    one_of(shift, ("code", "paper"), "shift")
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}.")
    kept = 1.0 - (0.3 if shift == "code" else alpha)
    return alpha * other + kept * mixing


def additive_monotone(
    seed: int,
    num_inputs: int,
    num_monotone: int,
    *,
    shift: Shift = "code",
    num_trainval: int = 10_000,
    num_test: int = 2_000,
    alpha: float = 0.8,
    validation: float = 0.2,
) -> SyntheticData:
    """Generates the data set of the paper's Tables 1 and 2.

    1. Latent X', `[n, d]` with d = floor(0.3 D), Uniform[-10, 10]. 2. A and A', `[d, D]`,
    Uniform[0, 1]; X = X'A. 3. Targets by `additive_target` on the raw X, no noise. 4. Test
    points with `shifted_mixing`. 5. Features and targets min-max scaled with the statistics of
    train and validation together; the test set is not clipped (under ``"code"`` about 1 % of its
    entries lie outside [0, 1]). The last rows of train+validation, drawn like the others, are
    the validation part. The paper's sizes: |M|/D in 20/100, 40/200, 80/400, 100/500. Under
    ``"paper"`` the test error shows no gap to validation, unlike the published tables: compare
    with them under ``"code"``.

    Computed in float64 on the host with numpy's generator; the result is float32.

    Args:
      seed: non-negative integer; same seed, same data.
      num_inputs: D >= 4.
      num_monotone: |M|, 0..D; the first columns.
      shift: ``"code"`` or ``"paper"``.
      num_trainval: rows of train and validation together.
      num_test: rows of the test set.
      alpha: how far the test set's matrix is shifted, in [0, 1].
      validation: share of ``num_trainval``, in (0, 1), rounded to whole rows.

    Returns:
      The data, `SyntheticData`.

    Raises:
      ValueError: on arguments out of range.
    """
    num_valid = _check_sizes(seed, num_inputs, num_trainval, num_test, validation)
    _check_monotone(num_monotone, num_inputs)
    rng = np.random.default_rng(seed)
    latent = 3 * num_inputs // 10
    z = rng.uniform(-10, 10, (num_trainval, latent))
    z_test = rng.uniform(-10, 10, (num_test, latent))
    mixing = rng.uniform(0, 1, (latent, num_inputs))
    other = rng.uniform(0, 1, (latent, num_inputs))
    x = z @ mixing
    x_test = z_test @ shifted_mixing(mixing, other, shift=shift, alpha=alpha)
    y, y_test = additive_target(x, num_monotone), additive_target(x_test, num_monotone)

    x_low, x_high, y_low, y_high = x.min(axis=0), x.max(axis=0), y.min(), y.max()
    scale_x = lambda v: ((v - x_low) / (x_high - x_low)).astype(np.float32)
    scale_y = lambda v: ((v - y_low) / (y_high - y_low)).astype(np.float32)
    x, y = scale_x(x), scale_y(y)
    cut = num_trainval - num_valid
    return SyntheticData(
        x_train=x[:cut],
        y_train=y[:cut],
        x_valid=x[cut:],
        y_valid=y[cut:],
        x_test=scale_x(x_test),
        y_test=scale_y(y_test),
        directions=(np.arange(num_inputs) < num_monotone).astype(np.int32),
        low=np.zeros(num_inputs, np.float32),
        high=np.ones(num_inputs, np.float32),
        feature_low=x_low,
        feature_high=x_high,
        target_scale=(float(y_low), float(y_high)),
    )


def _check_sizes(
    seed: int, num_inputs: int, num_trainval: int, num_test: int, validation: float
) -> int:
    """Checks the sizes; returns the number of validation rows."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed must be a non-negative integer, got {seed!r}.")
    if num_inputs < 4:
        raise ValueError(
            f"num_inputs must be at least 4, so that floor(0.3 D) >= 1, got {num_inputs}."
        )
    if num_test < 1:
        raise ValueError(f"num_test must be at least 1, got {num_test}.")
    if not 0.0 < validation < 1.0:
        raise ValueError(f"validation must be a share in (0, 1), got {validation}.")
    num_valid = round(validation * num_trainval)
    if not 0 < num_valid < num_trainval:
        raise ValueError(
            f"num_trainval={num_trainval} with validation={validation} leaves a part empty; "
            "use more rows."
        )
    return num_valid


def _check_monotone(num_monotone: int, num_inputs: int) -> None:
    if not 0 <= num_monotone <= num_inputs:
        raise ValueError(
            f"num_monotone must lie in 0..{num_inputs} (the number of inputs), got {num_monotone}."
        )
