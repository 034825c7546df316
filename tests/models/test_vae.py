"""Autoencoders: their convolutions against jax.lax, their losses against closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from monojax.base.compat import enable_x64
from monojax.layers.strided import doubling_conv, halving_conv
from monojax.models.vae import (
    VAE,
    Comparator,
    Posterior,
    kl_to_prior,
    reconstruction_loss,
    sample,
    share_posteriors,
    traverse,
)

RNG = np.random.default_rng(0)
SMALL = VAE(latents=3, widths=(4, 6), hidden=8, size=8)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


@jax.jit
def compared(x, z, kernel, out_x, out_z):
    """Both convolutions, their derivatives, and a second derivative, ours and jax.lax's."""
    layout = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def down(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)), **layout)

    def up(z, kernel):
        turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
        border = ((2, 2), (2, 2))
        return jax.lax.conv_general_dilated(
            z, turned, (1, 1), border, lhs_dilation=(2, 2), **layout
        )

    def everything(down, up):
        first, back_first = jax.vjp(down, x, kernel)
        second, back_second = jax.vjp(up, z, kernel)
        twice = jax.grad(lambda z: (jax.grad(lambda k: (up(z, k) ** 3).sum())(kernel) ** 2).sum())
        return first, back_first(out_z), second, back_second(out_x), twice(z)

    return everything(halving_conv, doubling_conv), everything(down, up)


def test_convolutions_and_their_derivatives_are_those_of_lax():
    x, z, kernel = normal(2, 6, 8, 3), normal(2, 3, 4, 5), normal(4, 4, 3, 5)
    ours, lax = compared(x, z, kernel, normal(2, 6, 8, 3), normal(2, 3, 4, 5))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(lax), strict=True):
        # Sums of at most 10,000 float32 products in another order.
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.abs(b).max()))


@pytest.fixture(scope="module")
def trained():
    """Variables of the small model, and everything that it computes, in one program."""
    x = jnp.asarray(RNG.random((2, 5, 8, 8, 3)), jnp.float32)
    variables = jax.jit(SMALL.init)(jax.random.key(0), x)

    @jax.jit
    def every(variables, x, key):
        posterior = SMALL.apply(variables, x, method="encode")
        codes = SMALL.apply(variables, x, method="codes")
        decoded = SMALL.apply(variables, codes, method="decode")
        return posterior, codes, decoded, SMALL.apply(variables, x), SMALL.apply(variables, x, key)

    return x, variables, every(variables, x, jax.random.key(1))


def test_shapes_and_squashing(trained):
    x, _, (posterior, codes, decoded, plain, drawn) = trained
    assert posterior.mean.shape == codes.shape == (2, 5, 3) and decoded.shape == x.shape
    np.testing.assert_allclose(codes, 1 / (1 + np.exp(-posterior.mean)), rtol=1e-5)
    assert (codes > 0).all() and (codes < 1).all()
    np.testing.assert_allclose(plain[0], decoded, atol=1e-5)
    np.testing.assert_allclose(plain[1], codes, atol=1e-6)
    assert np.abs(drawn[1] - codes).max() > 1e-2
    free = SMALL.clone(squash=False)
    assert free.squashed(posterior.mean) is posterior.mean


def test_pictures_and_codes_of_other_shapes_are_refused(trained):
    x, variables, _ = trained
    with pytest.raises(ValueError, match=r"\[..., 8, 8, 3\], got \(2, 5, 8, 6, 3\)"):
        SMALL.apply(variables, x[..., :6, :], method="encode")
    with pytest.raises(ValueError, match=r"codes must have shape \[..., 3\], got \(2, 4\)"):
        SMALL.apply(variables, jnp.zeros((2, 4)), method="decode")
    with pytest.raises(ValueError, match="multiple of 4 for 2 halvings, got 6"):
        SMALL.clone(size=6).init(jax.random.key(0), jnp.zeros((1, 6, 6, 3)))
    with pytest.raises(ValueError, match=r"distances must have shape \[..., 6\]"):
        Comparator().init(jax.random.key(0), jnp.zeros((1, 5)))


def test_losses_are_their_formulas():
    mean, log_variance = RNG.normal(size=(2, 4)), RNG.normal(size=(2, 4))
    posterior = Posterior(jnp.asarray(mean), jnp.asarray(log_variance))
    want = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance)
    np.testing.assert_allclose(kl_to_prior(posterior), want, rtol=1e-5)
    # Near the prior the terms cancel: (v^2 / 2 + v^3 / 6 + ...) / 2, in float32 as well.
    near = np.array([-0.26, -0.24, -1e-3, 1e-5, 0.0, 1e-6, 3e-2, 0.24, 0.26], np.float32)
    v = near.astype(np.float64)
    want = sum(v**n / math.factorial(n) for n in range(2, 16)) / 2
    posterior = Posterior(jnp.zeros(9, jnp.float32), jnp.asarray(near))
    np.testing.assert_allclose(kl_to_prior(posterior), want, rtol=5e-6)
    slopes = jax.grad(lambda v: kl_to_prior(Posterior(posterior.mean, v)).sum())(jnp.asarray(near))
    np.testing.assert_allclose(slopes, np.expm1(v) / 2, rtol=5e-6)
    with enable_x64():  # the series ends below float64's rounding, too
        exact = kl_to_prior(Posterior(jnp.zeros(9), jnp.asarray(v)))
        np.testing.assert_allclose(exact, want, rtol=1e-14)
    logits, x = RNG.normal(size=(2, 4, 4, 3)), RNG.random((2, 4, 4, 3))
    p = 1 / (1 + np.exp(-logits))
    cross = -(x * np.log(p) + (1 - x) * np.log(1 - p)).sum((1, 2, 3))
    found = reconstruction_loss(jnp.asarray(logits), jnp.asarray(x))
    np.testing.assert_allclose(found, cross, rtol=1e-5)
    squared = ((p - x) ** 2).sum((1, 2, 3)) / 0.02
    found = reconstruction_loss(jnp.asarray(logits), jnp.asarray(x), "gaussian")
    np.testing.assert_allclose(found, squared, rtol=1e-4)
    with pytest.raises(ValueError, match="did you mean 'bernoulli'"):
        reconstruction_loss(jnp.asarray(logits), jnp.asarray(x), "bernouli")
    with pytest.raises(ValueError, match="differ in shape"):
        reconstruction_loss(jnp.asarray(logits), jnp.asarray(x[:1]))


def test_draws_have_the_posteriors_moments():
    posterior = Posterior(jnp.full(20_000, 2.0), jnp.full(20_000, np.log(0.25)))
    drawn = np.asarray(sample(jax.random.key(0), posterior))
    # Four standard errors of the mean and of the standard deviation.
    assert abs(drawn.mean() - 2) < 4 * 0.5 / 141 and abs(drawn.std() - 0.5) < 4 * 0.5 / 200


def test_pairs_share_all_but_the_changed_latent():
    a = Posterior(jnp.asarray([[0.0, 2.0, 4.0]]), jnp.log(jnp.asarray([[1.0, 2.0, 3.0]])))
    b = Posterior(jnp.asarray([[2.0, 2.0, 0.0]]), jnp.log(jnp.asarray([[3.0, 4.0, 5.0]])))
    first, second = share_posteriors(a, b, jnp.asarray([2]))
    np.testing.assert_allclose(first.mean, [[1, 2, 4]])
    np.testing.assert_allclose(second.mean, [[1, 2, 0]])
    np.testing.assert_allclose(jnp.exp(first.log_variance), [[2, 3, 3]], rtol=1e-6)
    np.testing.assert_allclose(jnp.exp(second.log_variance), [[2, 3, 5]], rtol=1e-6)


def test_pairs_that_differ_in_no_latent():
    pair = Posterior(jnp.ones((2, 3)), jnp.zeros((2, 3)))
    for changed, message in (
        ([0, 3], "from 0 to 2, got values from 0 to 3"),
        ([-1, 0], "from 0 to 2, got values from -1 to 0"),
        ([0], r"integers of shape \(2,\), got int\d+ of shape \(1,\)"),
        ([0.0, 1.0], "got float"),
    ):
        with pytest.raises(ValueError, match=message):
            share_posteriors(pair, pair, np.asarray(changed))
    alone = jnp.asarray([1, 1])  # concrete, also where it is closed over
    whole = jax.jit(lambda a: share_posteriors(a, pair, alone)[0].mean)(pair)
    np.testing.assert_array_equal(whole, share_posteriors(pair, pair, 1)[0].mean)
    for wrong in (-1, 3):  # traced, it cannot raise: that pair is NaN, the other is not
        first, second = jax.jit(share_posteriors)(pair, pair, jnp.asarray([1, wrong]))
        for mean in (np.asarray(first.mean), np.asarray(second.mean)):
            assert np.isfinite(mean[0]).all() and np.isnan(mean[1]).all()


def test_one_knob_at_a_time():
    z = np.arange(6.0).reshape(2, 3)
    turned = np.asarray(traverse(jnp.asarray(z), 1, jnp.asarray([0.0, 0.5])))
    assert turned.shape == (2, 2, 3)
    np.testing.assert_array_equal(turned[0], [[0, 0, 2], [0, 0.5, 2]])
    for index in (3, -1, 1.5, True):
        with pytest.raises(ValueError, match="latent from 0 to 2"):
            traverse(jnp.asarray(z), index, jnp.asarray([0.0]))
    with pytest.raises(ValueError, match=r"values must have shape \[n\]"):
        traverse(jnp.asarray(z), 0, jnp.zeros((1, 1)))
