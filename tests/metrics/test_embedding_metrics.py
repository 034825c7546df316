"""Embedding metrics: against scikit-learn, SciPy, known spectra and examples built by hand."""

import numpy as np
import pytest

from monojax import metrics
from monojax.metrics.retrieval import vote


def orthogonal(rng, d):
    return np.linalg.qr(rng.normal(size=(d, d)))[0]


def with_spectrum(rng, variances, n=400):
    """Data `[n, d]` whose covariance has exactly these eigenvalues, around a mean far from 0."""
    d = len(variances)
    z = rng.normal(size=(n, d))
    z -= z.mean(axis=0)
    white = z @ np.linalg.inv(np.linalg.cholesky(z.T @ z / n)).T
    return white * np.sqrt(variances) @ orthogonal(rng, d).T + 3.0


# --- neighbours ---------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nearest_is_scikit_learns(metric, dtype):
    neighbors = pytest.importorskip("sklearn.neighbors", reason="the oracle is scikit-learn")
    rng = np.random.default_rng(0)
    gallery, query = (rng.normal(2.0, 1, (n, 7)).astype(dtype) for n in (150, 40))
    # Blocks of 64: whole ones and a last one that is padded.
    found = metrics.nearest(query, gallery, 6, similarity=metric, batch_size=64)
    oracle = neighbors.NearestNeighbors(n_neighbors=6, metric=metric, algorithm="brute")
    distance, indices = oracle.fit(gallery.astype(np.float64)).kneighbors(query.astype(np.float64))
    np.testing.assert_array_equal(found.indices, indices)
    want = -distance if metric == "euclidean" else 1 - distance
    # float64 on both sides; scikit-learn's distances come from a difference of squares.
    np.testing.assert_allclose(found.similarities, want, atol=1e-7)


def test_nearest_by_inner_product_against_a_sort():
    rng = np.random.default_rng(1)
    gallery, query = rng.normal(size=(90, 5)), rng.normal(size=(11, 5))
    found = metrics.nearest(query, gallery, 90, similarity="dot", batch_size=32)
    scores = query @ gallery.T
    np.testing.assert_array_equal(found.indices, np.argsort(-scores, axis=1))
    np.testing.assert_allclose(found.similarities, -np.sort(-scores, axis=1), rtol=1e-12)


def test_close_neighbours_far_from_the_origin_come_in_order():
    """Distances 1e-4 apart at a norm of 1000: float32 of |a|^2 - 2ab + |b|^2 cannot tell them."""
    offsets = np.random.default_rng(2).permutation(12) * 1e-4
    gallery = 1000.0 + offsets[:, None] * np.array([[1.0, 0.0, 0.0]])
    found = metrics.nearest(np.full((1, 3), 1000.0), gallery, 12, batch_size=5)
    np.testing.assert_array_equal(found.indices[0], np.argsort(offsets))


@pytest.mark.parametrize("similarity", ["euclidean", "dot", "cosine"])
def test_tight_clusters_are_searched_in_float64(similarity):
    """80 rows within 1e-5 of each other: float32 keeps some 21 of them, not the nearest ones."""
    rng = np.random.default_rng(5)
    centres = rng.normal(size=(10, 64))
    gallery = centres[np.arange(800) % 10] + 1e-5 * rng.normal(size=(800, 64))
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    query = gallery[:50] + 1e-6 * rng.normal(size=(50, 64))
    found = metrics.nearest(query, gallery, 5, similarity=similarity, batch_size=300)
    if similarity == "euclidean":
        scores = -np.linalg.norm(query[:, None] - gallery, axis=2)
    else:
        norms = np.linalg.norm(query, axis=1, keepdims=True) if similarity == "cosine" else 1.0
        scores = query / norms @ gallery.T
    best = -np.sort(-scores, axis=1)[:, :5]
    # The scores themselves: by inner product many differ by less than float64 resolves.
    np.testing.assert_allclose(found.similarities, best, rtol=0, atol=1e-14)


def test_equal_neighbours_the_first_row_wins():
    gallery = np.array([[1.0, 0], [0, 1], [1, 0], [0, 1], [1, 0]])
    found = metrics.nearest(np.array([[1.0, 0]]), gallery, 3, batch_size=2)
    assert found.indices.tolist() == [[0, 2, 4]]


def test_gallery_may_be_memory_mapped(tmp_path):
    rng = np.random.default_rng(3)
    z = rng.normal(size=(70, 4)).astype(np.float32)
    np.save(tmp_path / "z.npy", z)
    mapped = np.load(tmp_path / "z.npy", mmap_mode="r")
    for similarity in ("euclidean", "dot"):
        ours = metrics.nearest(z[:9], mapped, 4, similarity=similarity, batch_size=32)
        plain = metrics.nearest(z[:9], z, 4, similarity=similarity)
        np.testing.assert_array_equal(ours.indices, plain.indices)


def test_votes_and_ties():
    labels = np.array([[3, 1, 3, 1], [2, 2, 5, 5], [7, 0, 1, 7], [9, 8, 7, 6]])
    assert vote(labels).tolist() == [1, 2, 7, 6]


def test_knn_accuracy_is_scikit_learns_and_recall_1_is_1nn():
    neighbors = pytest.importorskip("sklearn.neighbors", reason="the oracle is scikit-learn")
    rng = np.random.default_rng(4)
    gallery, query = rng.normal(size=(120, 3)), rng.normal(size=(60, 3))
    gallery_labels = rng.integers(0, 4, 120) * 10  # labels need not be 0, 1, 2, ...
    query_labels = rng.integers(0, 4, 60) * 10
    data = query, query_labels, gallery, gallery_labels
    for k in (1, 4, 5):
        oracle = neighbors.KNeighborsClassifier(k, algorithm="brute")
        want = oracle.fit(gallery, gallery_labels).score(query, query_labels)
        assert metrics.knn_accuracy(*data, k) == pytest.approx(want, abs=1e-12)
    one = metrics.recall_at_k(*data, 1, similarity="euclidean")
    assert one == metrics.knn_accuracy(*data, 1)
    curve = metrics.recall_at_k(*data, range(1, 21))
    assert curve.shape == (20,) and (np.diff(curve) >= 0).all() and curve[-1] > curve[0]
    by_hand = (
        query
        / np.linalg.norm(query, axis=1)[:, None]
        @ (gallery / np.linalg.norm(gallery, axis=1)[:, None]).T
    )
    top = gallery_labels[np.argsort(-by_hand, axis=1)[:, :3]]
    assert curve[2] == pytest.approx((top == query_labels[:, None]).any(axis=1).mean())


def test_dot_cosine_and_euclidean_differ_where_norms_do():
    """A long vector at 60 degrees wins by inner product, a near one by the other two."""
    query, labels = np.array([[1.0, 0.0]]), np.array([0])
    gallery = np.array([[1.0, 0.1], [5.0, 8.0], [0.2, 0.0]])
    classes = np.array([0, 1, 2])
    found = {
        s: metrics.nearest(query, gallery, 1, similarity=s).indices.item()
        for s in ("dot", "cosine", "euclidean")
    }
    assert found == {"dot": 1, "cosine": 2, "euclidean": 0}
    recall = lambda s: metrics.recall_at_k(query, labels, gallery, classes, 1, similarity=s)
    assert (recall("dot"), recall("cosine"), recall("euclidean")) == (0.0, 0.0, 1.0)


# --- spectra ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variances", "share", "want"),
    [
        ([98.0, 1.0, 0.6, 0.4], 0.99, 2),  # exactly 0.99 after two
        ([98.0, 0.99, 0.61, 0.4], 0.99, 3),
        ([1.0, 1.0, 1.0, 1.0], 0.99, 4),
        ([1.0, 1.0, 1.0, 1.0], 0.75, 3),
        ([5.0, 0.0, 0.0, 0.0], 0.99, 1),
        ([5.0, 5.0, 0.0, 0.0], 1.0, 2),
    ],
)
def test_effective_dimension_of_a_known_spectrum(variances, share, want):
    z = with_spectrum(np.random.default_rng(5), np.array(variances))
    assert metrics.effective_dimension(z, share) == want
    found = metrics.principal_axes(z)
    np.testing.assert_allclose(found.variances, variances, atol=1e-12 * max(variances))
    assert found.dims(share) == want


def test_a_constant_embedding_has_no_dimension():
    assert metrics.effective_dimension(np.ones((5, 3))) == 0
    assert metrics.effective_dimension(np.full((1000, 16), 0.1)) == 0  # no binary fraction
    assert np.isnan(metrics.reconstruction_error(np.ones((5, 3)), np.ones((2, 3))).ratio)


def test_reconstruction_error_is_the_tail_of_the_spectrum():
    """On the training data the squared error per number is the sum of the lost variances / d."""
    rng = np.random.default_rng(6)
    variances = np.array([4.0, 2.0, 1.0, 0.5, 0.25])
    z = with_spectrum(rng, variances)
    for k in (1, 3):
        error = metrics.reconstruction_error(z, z, k)
        assert error.train == pytest.approx(np.sqrt(variances[k:].sum() / 5), rel=1e-10)
        assert error.ratio == pytest.approx(1)
    test = rng.normal(size=(30, 5))
    axes = metrics.principal_axes(z)
    u = axes.axes[:, :2]
    rest = (test - axes.mean) @ (np.eye(5) - u @ u.T)
    want = np.sqrt(np.square(rest).mean())
    assert metrics.reconstruction_error(z, test, 2).test == pytest.approx(want, rel=1e-10)
    np.testing.assert_allclose(axes.project(test, 2), (test - axes.mean) @ u, atol=1e-12)


def test_reconstruction_error_in_the_subspace_is_zero():
    rng = np.random.default_rng(7)
    basis = orthogonal(rng, 6)[:, :2]
    train, test = (rng.normal(size=(n, 2)) @ basis.T + 1 for n in (50, 20))
    error = metrics.reconstruction_error(train, test, 2)
    assert error.train < 1e-14 and error.test < 1e-14  # float64 rounding of numbers near 1


def test_train_error_of_unit_vectors_obeys_the_bound():
    """At d_eff at most 1% of the variance is lost, and the variance is 1 - |mean|^2."""
    z = np.random.default_rng(8).normal(size=(500, 16)) * np.geomspace(1, 0.05, 16) + 0.2
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    bound = np.sqrt(0.01 * (1 - np.square(z.mean(axis=0)).sum()) / 16)
    assert 0 < metrics.reconstruction_error(z, z).train <= bound


# --- correlation and similarity scores ----------------------------------------------------


def test_correlation_has_no_nan_for_dead_features():
    rng = np.random.default_rng(9)
    z = rng.normal(size=(200, 5))
    z[:, 1] = 0.0
    z[:, 3] = 0.1  # constant, but its variance is not exactly 0 in floating point
    z[:, 4] = -2 * z[:, 0] + 7
    found = metrics.feature_correlation(z)
    alive = [0, 2, 4]
    np.testing.assert_allclose(found[np.ix_(alive, alive)], np.corrcoef(z[:, alive].T), atol=1e-12)
    np.testing.assert_array_equal(found[[1, 3]], np.eye(5)[[1, 3]])
    off = found[~np.eye(5, dtype=bool)]
    assert metrics.rms_off_diagonal(found) == pytest.approx(np.sqrt((off**2).mean()))


def test_clustermap_order_puts_blocks_together():
    rng = np.random.default_rng(10)
    group = rng.permutation(np.repeat([0, 1, 2], 4))
    z = rng.normal(size=(300, 3))[:, group] + 0.1 * rng.normal(size=(300, 12))
    order = metrics.clustermap_order(metrics.feature_correlation(z))
    assert sorted(order) == list(range(12))
    assert (np.diff(group[order]) != 0).sum() == 2  # three unbroken runs


def test_sts_score_is_spearman_of_cosines_with_ties():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(11)
    a, b = rng.normal(size=(2, 80, 6))
    b[40:] = a[40:] * 3  # cosines of 1, apart from rounding
    b[:5], a[:5] = [1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]  # cosines of exactly 0
    gold = rng.integers(0, 6, 80) / 5.0
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    want = stats.spearmanr(cosine, gold).statistic
    assert metrics.sts_score(a, b, gold) == pytest.approx(100 * want, abs=0.2)
    a, b, gold, cosine = a[:40], b[:40], gold[:40], cosine[:40]  # without cosines of about 1
    want = stats.spearmanr(cosine, gold).statistic
    assert metrics.sts_score(a, b, gold) == pytest.approx(100 * want, abs=1e-9)
    assert metrics.sts_score(a, b, cosine**3) == pytest.approx(100)
    assert metrics.sts_score(np.ones((4, 2)), np.ones((4, 2)), [1, 2, 3, 4]) == 0


# --- bad input ----------------------------------------------------------------------------


def test_bad_input_is_named():
    z, labels = np.eye(4), np.arange(4)
    bad = z.copy()
    bad[1, 2] = np.nan
    cases = {
        r"k must lie between 1 and the gallery's 4 rows, got 5": lambda: metrics.nearest(z, z, 5),
        r"query_labels must be one integer per row, shape \(4,\)": lambda: metrics.knn_accuracy(
            z, labels[:3], z, labels, 1
        ),
        r"gallery_labels must be one integer per row": lambda: metrics.recall_at_k(
            z, labels, z, labels.astype(float), 1
        ),
        r"query has NaN or infinite values in 1 of the 4": lambda: metrics.nearest(bad, z, 1),
        r"gallery has NaN or infinite values in 1 of the 4": lambda: metrics.nearest(z, bad, 1),
        r"z has NaN": lambda: metrics.effective_dimension(bad),
        r"query has 4 dimensions and gallery 3": lambda: metrics.nearest(z, z[:, :3], 1),
        r"similarity must be one of 'dot', 'cosine', 'euclidean', got 'l1'": lambda: (
            metrics.nearest(z, z, 1, similarity="l1")
        ),
        r"floats of shape \[n, d\]": lambda: metrics.nearest(labels, z, 1),
        r"at least 1 row": lambda: metrics.nearest(z, z, 1, batch_size=0),
        r"share in \(0, 1\]": lambda: metrics.effective_dimension(z, 99),
        r"dims must lie between 1 and 4": lambda: metrics.reconstruction_error(z, z, 5),
        r"test must have|z must have 4 dimensions": lambda: metrics.reconstruction_error(
            z, z[:, :3], 2
        ),
        r"sts_score needs first": lambda: metrics.sts_score(z, z, [1, 2]),
        r"not all equal": lambda: metrics.sts_score(z, z, [1, 1, 1, 1]),
        r"\[d, d\] with d at least 2": lambda: metrics.clustermap_order(np.ones((2, 3))),
        r"has NaN; use feature_correlation": lambda: metrics.rms_off_diagonal(bad),
        r"one number of at least 1, or several": lambda: metrics.recall_at_k(
            z, labels, z, labels, []
        ),
    }
    for message, call in cases.items():
        with pytest.raises(ValueError, match=message):
            call()
