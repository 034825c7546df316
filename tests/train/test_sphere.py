"""Balls in n dimensions: sampled, integrated and closed forms of P(norm > r)."""

import csv

import jax
import numpy as np
import pytest
from scipy.integrate import quad

pytest.importorskip("ml_collections", reason="the experiments need the extra train")
pytest.importorskip("matplotlib", reason="the experiments need the extra train")

from train.configs.sphere import get_config
from train.penalties.sphere import (
    mixup_ball,
    prob_outside_mixup,
    prob_outside_mixup_published,
    prob_outside_uniform,
    run,
    total_steps,
    uniform_ball,
)

DIMS = [1, 2, 3, 10, 100]
INSIDE = np.linspace(0.001, 0.999, 499)
CLOSED = [prob_outside_uniform, prob_outside_mixup, prob_outside_mixup_published]


@pytest.mark.parametrize("n", DIMS)
@pytest.mark.parametrize(
    ("draw", "prob"), [(uniform_ball, prob_outside_uniform), (mixup_ball, prob_outside_mixup)]
)
def test_samples_agree_with_the_exact_probability(draw, prob, n):
    """Within 5 standard errors at 7 radii: a false alarm once in 25,000 runs of all 70."""
    num, radii = 20_000, np.linspace(0.2, 0.95, 7)
    norms = np.linalg.norm(draw(jax.random.key(n), num, n), axis=1)
    assert norms.max() <= 1 + 1e-6  # float32 rounding of the norm
    want = prob(radii, n)
    error = np.sqrt(want * (1 - want) / num) + 0.2 / num  # the last: shares are whole counts
    assert (np.abs((norms[:, None] > radii).mean(axis=0) - want) < 5 * error).all()


def test_samples_refute_the_printed_formula_in_the_plane():
    norms = np.linalg.norm(mixup_ball(jax.random.key(0), 20_000, 2), axis=1)
    share = (norms > 0.5).mean()
    # 0.375 printed, 0.25 exact; the standard error is 0.003, the gap 40 times that.
    assert abs(share - 0.25) < 0.015 < 0.11 < 0.375 - share
    assert prob_outside_mixup(0.5, 2) == pytest.approx(0.25, abs=1e-15)
    assert prob_outside_mixup_published(0.5, 2) == pytest.approx(0.375, abs=1e-15)


@pytest.mark.parametrize("n", [2, 3])
def test_directions_of_uniform_draws_have_no_preference(n):
    points = np.asarray(uniform_ball(jax.random.key(1), 20_000, n), np.float64)
    # E x x' = I / (n + 2); products are at most 1, so 5 standard errors are below 5 / sqrt(num).
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=5 / 20_000**0.5)
    np.testing.assert_allclose(
        points.T @ points / 20_000, np.eye(n) / (n + 2), atol=5 / 20_000**0.5
    )


@pytest.mark.parametrize("n", DIMS)
@pytest.mark.parametrize("r", [0.01, 0.3, 0.7, 0.99])
def test_mixup_form_is_the_integral_over_the_factor(n, r):
    """P = integral of P(||y|| > r / lambda) over lambda in [r, 1]."""
    want, _ = quad(lambda lam: 1 - (r / lam) ** n, r, 1, epsabs=1e-13, epsrel=1e-13)
    # quad's tolerance; for n = 100 the integrand bends sharply at r, hence a factor 100.
    assert prob_outside_mixup(r, n) == pytest.approx(want, abs=1e-11)


@pytest.mark.parametrize("n", DIMS)
@pytest.mark.parametrize("s", [0.05, 0.4, 0.9])
def test_slope_of_the_mixup_form_is_the_density_of_the_norm(n, s):
    """||x|| = lambda ||y|| has density: integral of n (s/lambda)^(n-1) / lambda over [s, 1]."""
    want, _ = quad(lambda lam: n * (s / lam) ** (n - 1) / lam, s, 1, epsabs=1e-12)
    step = 1e-5
    below, above = prob_outside_mixup([s - step, s + step], n)
    # Central difference: step^2 times the third derivative, at most n^2 / s^2 = 1e4, over 6.
    assert (below - above) / (2 * step) == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("n", DIMS)
def test_areas_under_the_exact_curves_are_the_mean_norms(n):
    """E||y|| = n / (n + 1), and half of it for mixtures, as lambda is independent of y."""
    for prob, mean in (
        (prob_outside_uniform, n / (n + 1)),
        (prob_outside_mixup, n / (n + 1) / 2),
    ):
        area, _ = quad(lambda r, prob=prob: float(prob(r, n)), 0, 1, epsabs=1e-12)
        assert area == pytest.approx(mean, abs=1e-10)  # quad's tolerance with room


@pytest.mark.parametrize("n", DIMS)
def test_published_form_is_a_strict_upper_bound_inside(n):
    exact, published = prob_outside_mixup(INSIDE, n), prob_outside_mixup_published(INSIDE, n)
    assert (published > exact).all()
    for form in CLOSED:
        # Nothing lies outside the ball, and everything but its centre outside the centre.
        np.testing.assert_allclose(form([0.0, 1.0], n), [1, 0], atol=1e-15)
        assert (np.diff(form(INSIDE, n)) <= 0).all()


def test_limits_in_high_dimension():
    n = 10**6
    np.testing.assert_allclose(prob_outside_uniform(INSIDE, n), 1, atol=1e-15)
    # The distance to 1 - r is at most r / (n - 1).
    for form in (prob_outside_mixup, prob_outside_mixup_published):
        np.testing.assert_allclose(form(INSIDE, n), 1 - INSIDE, rtol=0, atol=2 / n)


@pytest.mark.parametrize("form", CLOSED)
def test_bad_arguments_of_the_closed_forms(form):
    for r in (-0.1, 1.1, [0.5, np.nan]):
        with pytest.raises(ValueError, match=r"r must lie in \[0, 1\]"):
            form(r, 3)
    for n in (0, -2, 2.5, True):
        with pytest.raises(ValueError, match="n must be an integer"):
            form(0.5, n)


@pytest.mark.parametrize("draw", [uniform_ball, mixup_ball])
def test_bad_arguments_of_the_draws(draw):
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="n must be an integer of at least 1, got 0"):
        draw(key, 5, 0)
    with pytest.raises(ValueError, match="num must be an integer of at least 1, got 0"):
        draw(key, 0, 2)


def test_draws_follow_the_key():
    first, again, other = (uniform_ball(jax.random.key(k), 4, 3) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


class Bar:
    """A progress bar that counts."""

    count = 0

    def update(self, units):
        self.count += units


@pytest.mark.slow
def test_quick_run_writes_figures_and_a_table_that_agrees_with_the_formulas(tmp_path):
    config, bar = get_config("quick"), Bar()
    norms = run(config, tmp_path, bar)
    assert bar.count == total_steps(config) == len(config.dims)
    assert {n: [len(v) for v in both] for n, both in norms.items()} == {
        2: [1000] * 2,
        10: [1000] * 2,
    }
    for name in ("figure1.png", "figure2.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert "mode quick" in (tmp_path / "sphere.md").read_text()
    rows = list(csv.reader((tmp_path / "sphere.csv").read_text().splitlines()))[1:]
    assert len(rows) == len(config.dims) * len(config.radii)
    for n, r, uniform, exact, mixup, mixup_exact, published in rows:
        n, r = int(n), float(r)
        shown = [float(text.split()[0]) for text in (exact, mixup_exact, published)]
        np.testing.assert_allclose(shown, [form(r, n) for form in CLOSED], atol=5e-5)  # 4 digits
        # 1,000 points: a standard error of at most 0.016, and five of them.
        assert abs(float(uniform.split()[0]) - shown[0]) < 0.08
        assert abs(float(mixup.split()[0]) - shown[1]) < 0.08


def test_unknown_mode_is_named():
    with pytest.raises(ValueError, match="unknown mode 'fast'"):
        get_config("fast")
