"""Scores on features and logits: against numpy, scipy and scikit-learn's closed forms."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from monojax.groups import group_penalty
from monojax.uncertainty import (
    DeepEnsemble,
    GaussianDensity,
    Mahalanobis,
    RandomFeatureGP,
    energy,
    kernel_loss,
    max_softmax,
    negative_entropy,
    threshold,
)

RNG = np.random.default_rng(1)
Y = np.arange(60) % 3
H = (RNG.normal(size=(60, 4)) @ RNG.normal(size=(4, 4)) + Y[:, None]).astype(np.float32)
NEW = np.concatenate([H[:5], H[:5] + 8]).astype(np.float32)


fit_density = jax.jit(GaussianDensity.fit, static_argnums=2)


def log_normal(x, mean, covariance):
    gap = x - mean
    squares = np.einsum("np,pq,nq->n", gap, np.linalg.inv(covariance), gap)
    return -0.5 * (squares + np.linalg.slogdet(2 * np.pi * covariance)[1])


def test_gaussian_density_in_closed_form():
    model = fit_density(H, Y, 3)
    h, new = H.astype(np.float64), NEW.astype(np.float64)
    parts = [
        log_normal(new, h[c == Y].mean(0), np.cov(h[c == Y].T, bias=True)) + np.log(1 / 3)
        for c in range(3)
    ]
    want = np.logaddexp.reduce(parts, axis=0)
    # The ridge of 1e-6 of the mean variance, times a condition number of about 100.
    got = np.asarray(jax.jit(lambda m, x: m.score(x))(model, NEW))
    np.testing.assert_allclose(got, want, rtol=2e-3)
    assert got[:5].min() > got[5:].max()


def test_mahalanobis_in_closed_form():
    model = jax.jit(Mahalanobis.fit, static_argnums=2)(H, Y, 3)
    h, new = H.astype(np.float64), NEW.astype(np.float64)
    means = np.stack([h[c == Y].mean(0) for c in range(3)])
    within = np.cov((h - means[Y]).T, bias=True)
    gaps = new[:, None] - means[None]
    want = -np.einsum("ncp,pq,ncq->nc", gaps, np.linalg.inv(within), gaps).min(axis=1)
    np.testing.assert_allclose(model.score(NEW), want, rtol=2e-3)


@pytest.mark.slow
def test_a_singular_covariance_is_regularised():
    flat = np.concatenate([H, H[:, :2]], axis=1)  # two columns twice, rank 4 of 6
    for model in (GaussianDensity.fit(flat, Y, 3), Mahalanobis.fit(flat, Y, 3, ridge=0.0)):
        assert np.isfinite(model.score(flat)).all()
    few = GaussianDensity.fit(H[:6], Y[:6], 3)  # two examples per class in four dimensions
    assert np.isfinite(few.score(H)).all()


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20, 1e30])
def test_densities_of_features_whose_squares_leave_the_range(size):
    """Features times s: the distances stay, the log-density of p dimensions moves by -p log s."""
    h, new = (np.float32(size) * a for a in (H, NEW))
    model = jax.jit(Mahalanobis.fit, static_argnums=2)
    np.testing.assert_allclose(model(h, Y, 3).score(new), model(H, Y, 3).score(NEW), rtol=1e-3)
    moved = fit_density(H, Y, 3).score(NEW) - 4 * np.log(size)
    np.testing.assert_allclose(fit_density(h, Y, 3).score(new), moved, rtol=1e-3)


@pytest.mark.slow
def test_densities_keep_a_small_class_beside_a_large_one():
    """Each class has its own range; a row far away spoils no other class, a far origin nothing."""
    wide = H * np.where(Y == 0, 1e15, 1e-6)[:, None].astype(np.float32)
    alone = fit_density(wide[Y > 0], Y[Y > 0] - 1, 2).score(wide[Y > 0])
    together = fit_density(wide, Y, 3).score(wide[Y > 0])
    np.testing.assert_allclose(together, alone + np.log(2 / 3), rtol=1e-4)
    for far in (1e19, 1e25):
        spoilt = H.copy()
        spoilt[0] = far
        model, clean = fit_density(spoilt, Y, 3), fit_density(H, Y, 3)
        rest = model.log_densities(NEW)[:, 1:], clean.log_densities(NEW)[:, 1:]
        np.testing.assert_allclose(*rest, rtol=1e-5)
    shifted = np.concatenate([H, np.full((60, 1), 1e20, np.float32)], axis=1)
    plain = np.concatenate([H, np.zeros((60, 1), np.float32)], axis=1)
    np.testing.assert_allclose(
        fit_density(shifted, Y, 3).score(shifted), fit_density(plain, Y, 3).score(plain), rtol=1e-5
    )


@pytest.mark.slow
def test_a_traced_label_that_is_no_class_gives_nan():
    """It cannot raise under jit; -1 would pick the last class."""
    log_k = -np.abs(RNG.normal(size=(3, 4))).astype(np.float32)
    both = DeepEnsemble(nn.Dense(4), members=2)
    variables = both.init(jax.random.key(0), log_k)
    maps = np.abs(log_k)

    @jax.jit
    def losses(labels, weights):
        return (
            both.loss(variables, log_k, labels),
            kernel_loss(log_k, labels),
            group_penalty(maps, labels, 4, 1.0, form="activation"),
            Mahalanobis.fit(jnp.repeat(maps, 8, 0), jnp.repeat(labels, 8), 2).score(maps).sum(),
            kernel_loss(log_k, labels, weights=weights),
        )

    ones = np.ones(3, np.float32)
    assert np.isfinite(losses(np.array([0, 1, 1]), ones)).all()
    for wrong in (-1, 4):
        labels = np.array([0, wrong, 1])
        assert np.isnan(losses(labels, ones)).all()
        # What only fills a batch may be named anything.
        assert np.isfinite(losses(labels, np.array([1, 0, 1], np.float32))[4])


@jax.jit
def all_scores(logits):
    slope = jax.grad(lambda z: negative_entropy(z).sum())(logits)
    hot = energy(logits, temperature=2.0)
    return max_softmax(logits), negative_entropy(logits), energy(logits), hot, slope


def test_scores_of_logits():
    logits = RNG.normal(size=(7, 3)) * 3
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    largest, entropy, free, hot, _ = all_scores(logits.astype(np.float32))
    np.testing.assert_allclose(largest, p.max(1), rtol=1e-5)
    np.testing.assert_allclose(entropy, (p * np.log(p)).sum(1), atol=1e-6)
    np.testing.assert_allclose(free, np.log(np.exp(logits).sum(1)), rtol=1e-5)
    np.testing.assert_allclose(hot, 2 * np.log(np.exp(logits / 2).sum(1)), rtol=1e-5)
    # Logarithms of probabilities are logits, too.
    again = all_scores(np.log(p).astype(np.float32))[1]
    np.testing.assert_allclose(again, (p * np.log(p)).sum(1), atol=1e-6)
    certain = np.float32([[1000, 0, -np.inf]] * 7)
    found = all_scores(certain)
    assert (found[1] == 0).all() and np.isfinite(found[4][:, :2]).all()
    assert energy(jnp.ones((2, 3), jnp.bfloat16)).dtype == jnp.float32


def test_threshold_accepts_at_least_the_wished_share():
    scores = RNG.permutation(20) / 20
    for coverage in (0.05, 0.5, 0.951, 0.95):
        t = threshold(scores, coverage)
        accepted = np.mean(scores >= t)
        assert coverage - 1e-9 <= accepted < coverage + 1 / 20
    assert threshold(np.ones(4), 0.5) == 1
    fresh = RNG.random((400, 99)), RNG.random((400, 200))
    new = [np.mean(b >= threshold(a, 0.9)) for a, b in zip(*fresh, strict=True)]
    assert np.mean(new) > 0.9 - 0.01  # k / (n + 1) = 0.9, standard error 0.002


@pytest.mark.slow
def test_random_features_are_a_gaussian_process():
    """Kernel of the features, and the posterior variance in closed form."""
    head = RandomFeatureGP(3, num_features=400, length_scale=2.0, ridge=0.5)
    variables = head.init(jax.random.key(0), H)
    phi = np.asarray(head.apply(variables, H[:10], method="random_features"), np.float64)
    squares = np.square(H[:10, None] - H[None, :10]).sum(-1)
    # 400 random features: standard error 0.05 of each entry.
    np.testing.assert_allclose(phi @ phi.T, np.exp(-squares / 8), atol=0.2)
    with pytest.raises(ValueError, match="before training"):
        head.apply(variables, H, method="variance")
    update = jax.jit(lambda v, h: head.apply(v, h, method="update", mutable=["precision"]))
    seen, found = update(variables, H[:10])
    variables = {**variables, **found}
    p = np.asarray(jax.nn.softmax(head.apply(variables, H[:10]))).max(1)
    precision = 0.5 * np.eye(400) + phi.T @ (phi * (p * (1 - p))[:, None])
    want = np.einsum("nd,de,ne->n", phi, np.linalg.inv(precision), phi)
    got = jax.jit(lambda v, h: head.apply(v, h, method="variance"))(variables, H[:10])
    np.testing.assert_allclose(got, want, rtol=1e-3)
    far = head.apply(variables, H[:10] + 50, method="variance")
    assert seen == 10 and got.max() < far.min()
    shrunk = head.apply(variables, H[:10], method="mean_field")
    want = np.asarray(head.apply(variables, H[:10])) / np.sqrt(1 + np.pi / 8 * want)[:, None]
    np.testing.assert_allclose(shrunk, want, rtol=1e-3, atol=1e-5)
    assert int(head.reset(variables)["precision"]["examples"]) == 0


@pytest.mark.slow
def test_members_are_trained_apart():
    both = DeepEnsemble(nn.Dense(3), members=2)
    variables = both.init(jax.random.key(0), H)
    one = jax.tree.map(lambda leaf: leaf[1], variables)
    logits = both.logits(variables, H)
    np.testing.assert_allclose(logits[1], nn.Dense(3).apply(one, H), rtol=1e-5)
    p = np.asarray(jax.nn.softmax(logits)).mean(0)
    np.testing.assert_allclose(np.exp(both.log_probabilities(variables, H)), p, rtol=1e-5)

    def alone(v):
        log_p = jax.nn.log_softmax(nn.Dense(3).apply(v, H))
        return -jnp.mean(log_p[jnp.arange(60), Y])

    want, got = jax.grad(alone)(one), jax.grad(both.loss)(variables, H, Y)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, atol=1e-6), got, want)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: GaussianDensity.fit(H, Y, 4), r"classes \[3\] have fewer than 2"),
        (lambda: Mahalanobis.fit(H, Y, 2), "labels must lie in"),
        (lambda: GaussianDensity.fit(H[0], Y, 3), r"\[n, d\]"),
        (lambda: Mahalanobis.fit(H * np.nan, Y, 3), "NaN"),
        (lambda: fit_density(H, Y, 3).score(H[:, :2]), r"shape \[n, 4\]"),
        (lambda: threshold(np.ones(3), 1.0), r"coverage must lie in \(0, 1\)"),
        (lambda: threshold(np.ones(3), 0.0), r"coverage must lie in \(0, 1\)"),
        (lambda: threshold(np.ones(0), 0.5), "n >= 1"),
        (lambda: threshold([np.nan], 0.5), "NaN"),
        (lambda: energy(np.ones(3, np.float32), temperature=0.0), "temperature"),
        (lambda: max_softmax(np.float32(1.0)), "logits must have shape"),
        (lambda: DeepEnsemble(nn.Dense(3), members=0), "members"),
        (lambda: RandomFeatureGP(3, length_scale=-1.0).init(jax.random.key(0), H), "length_scale"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_what_is_not_finite_is_passed_on():
    """A diverged network must not look familiar."""
    bad = jnp.array([[jnp.nan, 1.0, 2.0], [jnp.inf, 0.0, 0.0], [-jnp.inf] * 3])
    assert np.isnan(negative_entropy(bad)).all() and np.isnan(max_softmax(bad)).all()
    assert negative_entropy(jnp.array([[0.0, -jnp.inf]])) == 0


def test_a_threshold_of_a_float32_coverage():
    assert threshold(np.arange(5.0), np.float32(0.6)) == 2.0
