"""The penalties for latent codes, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from monojax.penalties import latent_penalty, path_penalty

MATRIX = jnp.asarray([[2.0, -9.0], [1.0, -3.0]])
KEY = jax.random.key(0)


def test_only_the_own_slope_counts():
    """A linear head: its diagonal is asked to be positive, what lies beside it is free."""
    distances = jnp.asarray(np.random.default_rng(0).random((8, 2)), jnp.float32)

    @jax.jit
    def penalty(matrix, margin):
        return latent_penalty(KEY, lambda r: matrix @ r, distances, num=16, margin=margin)

    assert float(penalty(MATRIX, 0.0)) == pytest.approx(9)
    assert float(penalty(MATRIX, 3.0)) == pytest.approx(1 + 36)
    slopes = jax.grad(penalty)(MATRIX, 0.0)
    np.testing.assert_allclose(slopes, [[0, 0], [0, -6]], atol=1e-5)
    assert float(penalty(jnp.abs(MATRIX), 0.0)) == 0


def test_wrong_heads_and_distances_are_named():
    with pytest.raises(ValueError, match="distances must have shape"):
        latent_penalty(KEY, lambda r: r, jnp.ones(3))
    with pytest.raises(ValueError, match=r"directions must have shape \(2, 3\)"):
        jax.eval_shape(lambda d: latent_penalty(KEY, lambda r: r[:2], d), jnp.ones((4, 3)))


def test_paths_that_turn_back_are_punished():
    """A straight path costs nothing; one that overshoots costs where it comes back."""
    z, other = jnp.zeros((3, 1)), jnp.ones((3, 1))
    at = jnp.asarray([0.2, 0.5, 0.9])

    @jax.jit
    def both(at):
        straight = path_penalty(lambda z: z, z, other, z, other, at)
        # Goes to 1 and comes back: at t the picture is 4 t (1 - t).
        back = path_penalty(lambda z: 4 * z * (1 - z), z, other, z, other, at)
        return straight, back

    straight, back = both(at)
    assert float(straight) == 0
    t = np.float64(at)
    f, slope = 4 * t * (1 - t), 4 - 8 * t
    want = np.maximum(0, -2 * f * slope) ** 2 + np.maximum(0, 2 * (f - 1) * slope) ** 2
    assert float(back) == pytest.approx(want.mean(), rel=1e-4)
    with pytest.raises(ValueError, match=r"equally many, got \[3, 3, 3, 3, 2\]"):
        path_penalty(lambda z: z, z, other, z, other, at[:2])
