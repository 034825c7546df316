"""Nearest neighbours of numbers of any size, against differences in float64 or exact fractions."""

from fractions import Fraction

import numpy as np
import pytest

from monojax.metrics import nearest

RNG = np.random.default_rng(0)


def exact(query, gallery, k, similarity):
    """Indices by exact rational arithmetic; of equal ones the first."""
    q, g = ([[Fraction(float(v)) for v in row] for row in rows] for rows in (query, gallery))
    dot = lambda a, b: sum(x * y for x, y in zip(a, b, strict=True))

    def score(a, b):
        if similarity == "euclidean":
            return -dot([x - y for x, y in zip(a, b, strict=True)], [
                x - y for x, y in zip(a, b, strict=True)
            ])  # fmt: skip
        if similarity == "dot":
            return dot(a, b)
        inner, square = dot(a, b), dot(b, b)
        return inner * abs(inner) / square if square else 0  # order of cosines

    return np.array([sorted(range(len(g)), key=lambda i, a=a: (-score(a, g[i]), i))[:k] for a in q])


def clusters(gap, spread, n=60, d=3):
    rng = np.random.default_rng(1)
    centres = gap * rng.normal(size=(3, d))
    return centres[rng.integers(0, 3, n)] + spread * rng.normal(size=(n, d))


CASES = {
    "clusters 1e9 apart": clusters(1e9, 1.0),
    "clusters 1e15 apart": clusters(1e15, 1e2),
    "features of scales 1 and 1e12": RNG.normal(size=(60, 3)) * [1.0, 1e6, 1e12],
    "rows of scales 1 to 1e12": RNG.normal(size=(60, 3)) * np.geomspace(1, 1e12, 60)[:, None],
    "rows of scales 1e-200 to 1e200": RNG.normal(size=(60, 3))
    * np.geomspace(1e-200, 1e200, 60)[:, None],
    "norms below 1e-12": 1e-14 * RNG.normal(size=(60, 3)),
    "norms below 1e-300": 1e-305 * RNG.normal(size=(60, 3)),
    "the ends of float32": (3e38 * RNG.uniform(-1, 1, (60, 3))).astype(np.float32),
    "the small end of float32": (1e-37 * RNG.normal(size=(60, 3))).astype(np.float32),
    "float16": (6e4 * RNG.uniform(-1, 1, (60, 3))).astype(np.float16),
    "a later block much larger": np.concatenate(
        [RNG.normal(size=(40, 3)), 1e30 * RNG.normal(size=(20, 3))]
    ),
}


@pytest.mark.parametrize("similarity", ["euclidean", "cosine", "dot"])
@pytest.mark.parametrize("name", CASES)
def test_against_exact_arithmetic(name, similarity):
    gallery = CASES[name]
    query = gallery[::7] * np.asarray(1.0625, gallery.dtype)
    found = nearest(query, gallery, 5, similarity=similarity, batch_size=20)
    want = exact(query, gallery, 5, similarity)
    # Equal to float64's rounding counts as equal: compare what was found, not its order.
    differ = found.indices != want
    if differ.any():
        rows = np.nonzero(differ)[0]
        wide = np.asarray(gallery, np.longdouble)
        for row in np.unique(rows):
            values = [_score(query[row], wide[i[row]], similarity) for i in (found.indices, want)]
            scale = np.abs(values).max() if similarity != "dot" else _sizes(query[row], wide)
            np.testing.assert_allclose(
                np.float64(values[0] / scale), np.float64(values[1] / scale), atol=1e-14
            )


def _score(point, rows, similarity):
    point = np.asarray(point, np.longdouble)
    if similarity == "euclidean":
        return -np.sqrt(np.square(rows - point).sum(axis=1))
    inner = rows @ point
    if similarity == "dot":
        return inner
    return inner / np.sqrt(np.square(rows).sum(axis=1)) / np.sqrt(np.square(point).sum())


def _sizes(point, rows):
    point = np.asarray(point, np.longdouble)
    return np.sqrt(np.square(rows).sum(axis=1)).max() * np.sqrt(np.square(point).sum())


def test_similarities_come_in_the_callers_units():
    gallery = np.array([[3e38, 0.0], [0.0, 4e37]], np.float32)
    found = nearest(np.zeros((1, 2), np.float32), gallery, 2)
    np.testing.assert_allclose(found.similarities, [[-4e37, -3e38]], rtol=1e-6)
    found = nearest(gallery, gallery, 1, similarity="dot")
    np.testing.assert_allclose(found.similarities[:, 0], [9e76, 1.6e75], rtol=1e-6)
    tiny = np.array([[1e-300, 0.0], [0.0, -2e-300]])
    found = nearest(tiny, tiny, 2, similarity="cosine")
    np.testing.assert_allclose(found.similarities, [[1, 0], [1, 0]], atol=1e-15)
    assert nearest(np.zeros((1, 2)), tiny, 1, similarity="cosine").similarities == 0


def test_many_equal_rows_beside_far_ones():
    """Equal rows are taken in their order, also by the search in float64."""
    gallery = np.concatenate([np.full((90, 2), 1e9), np.zeros((90, 2)), np.full((30, 2), 1.0)])
    found = nearest(np.array([[0.1, 0.1], [1e9, 1e9]]), gallery, 12, batch_size=50)
    np.testing.assert_array_equal(found.indices, [np.arange(90, 102), np.arange(12)])


def test_old_name_raises_with_the_new_one():
    with pytest.raises(TypeError, match="'block' is named 'batch_size' now"):
        nearest(np.ones((2, 2)), np.ones((2, 2)), 1, block=3)
