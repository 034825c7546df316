"""How compact an embedding is, and what it is worth: spectra, correlations, similarity scores.

Definitions of MonoCon (Gokhale): principal components are centred, not scaled, and fitted on the
training embeddings; all linear algebra is float64. Nearest neighbours are in
:mod:`monojax.metrics.neighbours`, their scores in :mod:`monojax.metrics.retrieval`.
"""

from typing import Any, NamedTuple

import numpy as np

from monojax.metrics.neighbours import check_embedding, scaled_rows

_BLOCK = 65_536


class PrincipalAxes(NamedTuple):
    """A centred principal component analysis, float64."""

    mean: np.ndarray
    """`[d]`"""
    axes: np.ndarray
    """`[d, d]`: columns are unit vectors, the one of the largest variance first."""
    variances: np.ndarray
    """`[d]`: decreasing, not negative."""

    def dims(self, variance: float = 0.99) -> int:
        """Components that explain this share of the variance; 0 if nothing varies."""
        return _dims(self.variances, variance)

    def project(self, z: Any, dims: int) -> np.ndarray:
        """Scores on the first ``dims`` axes.

        Args:
          z: floats `[n, d]`.
          dims: between 1 and d.

        Returns:
          float64 `[n, dims]`.

        Raises:
          ValueError: if dims or the width of z is another.
        """
        z = _check_width(z, len(self.mean), "z")
        return (np.asarray(z, np.float64) - self.mean) @ self.axes[:, : self._check_dims(dims)]

    def error(self, z: Any, dims: int) -> float:
        """Root of the mean, over all n d numbers, of the squared part outside the first axes."""
        z, axes = _check_width(z, len(self.mean), "z"), self.axes[:, self._check_dims(dims) :]
        # The residual itself, not a difference of squares: it may be tiny.
        total = sum(np.square((rows - self.mean) @ axes).sum() for rows in _float64_blocks(z))
        return float(np.sqrt(total / z.size))

    def _check_dims(self, dims: int) -> int:
        if not 1 <= dims <= len(self.mean):
            raise ValueError(f"dims must lie between 1 and {len(self.mean)}, got {dims}.")
        return dims


class Reconstruction(NamedTuple):
    """Root mean squared error per number of an embedding cut to its first axes."""

    train: float
    test: float
    ratio: float
    """test / train: what is lost on new data beyond what the cut asks for; NaN for 0 / 0."""


def principal_axes(z: Any) -> PrincipalAxes:
    """Principal component analysis of the covariance, in blocks, so that z may be memory-mapped.

    Args:
      z: floats `[n, d]`.

    Returns:
      PrincipalAxes.

    Raises:
      ValueError: on another shape, NaN or infinite values.
    """
    z = check_embedding(z, "z")
    mean, covariance = _moments(z)
    variances, axes = np.linalg.eigh(covariance)
    return PrincipalAxes(mean, axes[:, ::-1], np.maximum(variances[::-1], 0))


def effective_dimension(z: Any, variance: float = 0.99) -> int:
    """How many principal components hold a share of the variance: d_eff.

    Args:
      z: embeddings, floats `[n, d]`; MonoCon takes the normalised ones of the training set. The
        number depends on n: state it.
      variance: the share, in (0, 1].

    Returns:
      The smallest such number of components; 0 if nothing varies.

    Raises:
      ValueError: on another shape, on NaN, or on a share outside (0, 1].

    Example:
      >>> effective_dimension(np.array([[1.0, 0], [-1, 0], [0, 0.01], [0, -0.01]]))
      1
    """
    _, covariance = _moments(check_embedding(z, "z"))
    return _dims(np.maximum(np.linalg.eigvalsh(covariance)[::-1], 0), variance)


def reconstruction_error(train: Any, test: Any, dims: int | None = None) -> Reconstruction:
    r"""What an embedding loses when it is cut to principal components fitted on training data.

    :math:`\sqrt{\frac{1}{Nd}\sum_n\|(I - U_kU_k^\top)(z_n - \mu)\|^2}`, with the mean and the axes
    of ``train``, on ``train`` and on ``test``.

    Args:
      train: floats `[n, d]`.
      test: floats `[m, d]`.
      dims: k; None takes the effective dimension of ``train``.

    Returns:
      Reconstruction.

    Raises:
      ValueError: on other shapes, NaN, or dims outside [1, d].
    """
    axes = principal_axes(train)
    k = max(axes.dims(), 1) if dims is None else dims
    on_train = axes.error(train, k)
    on_test = axes.error(check_embedding(test, "test"), k)
    return Reconstruction(on_train, on_test, on_test / on_train if on_train else float("nan"))


def feature_correlation(z: Any) -> np.ndarray:
    """Pearson correlation of the features; one that does not vary correlates with nothing.

    Args:
      z: floats `[n, d]`.

    Returns:
      float64 `[d, d]`, symmetric, 1 on the diagonal, 0 beside it for constant features.

    Raises:
      ValueError: on another shape or on NaN.
    """
    z = check_embedding(z, "z")
    mean, covariance = _moments(z)
    scale = np.sqrt(np.diag(covariance))
    # A constant column has a variance of rounding size, not of 0.
    dead = scale <= 1e-7 * np.maximum(np.abs(mean), np.finfo(np.float64).tiny)
    scale = np.where(dead, 1, scale)
    found = covariance / scale[:, None] / scale
    found[dead, :] = found[:, dead] = 0
    np.fill_diagonal(found, 1)
    return np.clip(found, -1, 1)


def rms_off_diagonal(correlation: Any) -> float:
    """Root mean square of the correlations between different features: 0 if uncorrelated.

    Args:
      correlation: `[d, d]`, d at least 2.

    Returns:
      A number in [0, 1].

    Raises:
      ValueError: if it is not square, or has one row.
    """
    correlation = _check_square(correlation)
    off = ~np.eye(len(correlation), dtype=bool)
    return float(np.sqrt(np.square(correlation[off]).mean()))


def clustermap_order(correlation: Any) -> np.ndarray:
    """The order of features in which a correlation matrix shows its blocks.

    Agglomerative clustering of the rows: average linkage, Euclidean distance. Draw
    ``correlation[order][:, order]``, with colours over [-1, 1].

    Args:
      correlation: `[d, d]`, d at least 2.

    Returns:
      A permutation, integers `[d]`.

    Raises:
      ValueError: if it is not square, or has one row.
    """
    from scipy.cluster import hierarchy  # not with monojax: SciPy's clustering takes 0.1 s

    correlation = _check_square(correlation)
    tree = hierarchy.linkage(correlation, method="average", metric="euclidean")
    return hierarchy.leaves_list(tree)


def sts_score(first: Any, second: Any, gold: Any) -> float:
    """Semantic textual similarity: 100 times Spearman's correlation of cosines and judgements.

    Args:
      first: embeddings of the first sentences, floats `[n, d]`.
      second: of the second ones, `[n, d]`.
      gold: human scores `[n]`.

    Returns:
      Between -100 and 100; equal values share their mean rank.

    Raises:
      ValueError: on other shapes, NaN, fewer than two pairs, or gold scores that are all equal.
    """
    first, second = check_embedding(first, "first"), check_embedding(second, "second")
    gold = np.asarray(gold, np.float64)
    if first.shape != second.shape or gold.shape != (len(first),) or len(first) < 2:
        raise ValueError(
            "sts_score needs first [n, d], second [n, d] and gold [n], n at least 2, got "
            f"{first.shape}, {second.shape} and {gold.shape}."
        )
    if not np.isfinite(gold).all() or gold.min() == gold.max():
        raise ValueError("gold must be finite and not all equal: there is no order to agree with.")
    a, b = scaled_rows(first), scaled_rows(second)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = (a * b).sum(axis=1) / np.where(norms > 0, norms, 1)
    return 100 * _pearson(_ranks(cosines), _ranks(gold))


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale else 0.0  # a constant embedding agrees with nothing


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, the mean of their places for equal values."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[place]


def _dims(variances: np.ndarray, variance: float) -> int:
    if not 0 < variance <= 1:
        raise ValueError(f"variance must be a share in (0, 1], got {variance}.")
    total = variances.sum()
    if total == 0:
        return 0
    # Shares that reach the threshold exactly reach it after rounding, too.
    enough = np.cumsum(variances) / total >= variance - 1e-12
    return int(np.argmax(enough)) + 1


def _moments(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean `[d]` and covariance `[d, d]` (divided by n), float64."""
    mean = sum(rows.sum(axis=0) for rows in _float64_blocks(z)) / len(z)
    covariance = np.zeros((z.shape[1], z.shape[1]))
    for rows in _float64_blocks(z):
        rows = rows - mean
        covariance += rows.T @ rows
    # What a constant column has is the rounding of its mean.
    dead = np.sqrt(np.diag(covariance) / len(z)) <= len(z) * np.finfo(np.float64).eps * abs(mean)
    covariance[dead] = covariance[:, dead] = 0
    return np.asarray(mean), covariance / len(z)


def _float64_blocks(z: np.ndarray):
    for start in range(0, len(z), _BLOCK):
        yield np.asarray(z[start : start + _BLOCK], np.float64)


def _check_width(z: Any, width: int, name: str) -> np.ndarray:
    z = check_embedding(z, name)
    if z.shape[1] != width:
        raise ValueError(
            f"{name} must have {width} dimensions like the training data, got {z.shape[1]}."
        )
    return z


def _check_square(matrix: Any) -> np.ndarray:
    matrix = np.asarray(matrix, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise ValueError(f"correlation must be [d, d] with d at least 2, got {matrix.shape}.")
    if not np.isfinite(matrix).all():
        raise ValueError("correlation has NaN; use feature_correlation, which has none.")
    return matrix
