"""Spectral normalisation with a norm that is exact or bounded from above, not only estimated."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from monojax.base.checks import check_width, choose
from monojax.layers.guarantee import Guaranteed
from monojax.layers.lipschitz_common import along, magnitude, prepare, weight

GRAM_STEPS = 8  # p = 512: at most 0.9% above the norm for rank 100


def gram_bound(matrix: jax.Array, steps: int = GRAM_STEPS) -> jax.Array:
    r"""An upper bound of the spectral norm: the Schatten norm of order :math:`p = 2^{k+1}`.

    :math:`\sigma_1 \le (\sum_i \sigma_i^p)^{1/p} \le r^{1/p}\,\sigma_1` for rank r, computed by
    squaring the Gram matrix k times and taking its Frobenius norm. Unlike power iteration it
    errs on the safe side from the first step; the only slack is rounding.

    Args:
      matrix: real, shape `[m, n]`.
      steps: k >= 1, matrix products of size min(m, n).

    Returns:
      `[]`, at least the spectral norm; 0 for a zero matrix.

    Reference:
      Delattre et al., "Efficient bound of Lipschitz constant for convolutional layers by Gram
      iteration", ICML 2023, https://arxiv.org/abs/2305.16173.
    """
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    nonzero = jnp.any(matrix != 0)
    matrix = jnp.where(nonzero, matrix, 1.0)  # keeps the gradient of a zero matrix finite
    # Scale at every squaring: sigma^512 leaves the range of floats otherwise.
    size = magnitude(matrix)
    power, log_scale = matrix / size, jnp.zeros((), matrix.dtype)
    for _ in range(steps):
        power = jnp.matmul(power.T, power, precision="highest")
        norm = jnp.sqrt(jnp.sum(power * power))
        power, log_scale = power / norm, 2 * log_scale + jnp.log(norm)
    return jnp.where(nonzero, jnp.exp(log_scale / 2**steps) * size.reshape(()), 0.0)


def power_estimate(
    matrix: jax.Array, vector: jax.Array, steps: int = 1
) -> tuple[jax.Array, jax.Array]:
    """Power iteration: an estimate of the spectral norm from BELOW, and the next vector.

    Args:
      matrix: shape `[m, n]`.
      vector: start, shape `[n]`.
      steps: iterations.

    Returns:
      ``(estimate [], vector [n])``; the estimate never exceeds the norm, so dividing by it
      gives a matrix of norm at least 1.
    """
    tiny = jnp.finfo(matrix.dtype).tiny
    fixed = jax.lax.stop_gradient(matrix)
    fixed = fixed / (jnp.max(jnp.abs(fixed)) + tiny)  # squares of tiny weights underflow
    v = vector
    for _ in range(steps):
        v = fixed.T @ (fixed @ v)
        v = v / (jnp.linalg.norm(v) + tiny)
    v = jax.lax.stop_gradient(v)
    u = fixed @ v
    u = u / (jnp.linalg.norm(u) + tiny)
    return u @ matrix @ v, v


@jax.custom_jvp
def spectral_norm(matrix: jax.Array) -> jax.Array:
    """The largest singular value, with derivatives that are finite where several are equal.

    The first derivative is that of one of the largest singular values; the second leaves out the
    turning of its vectors towards those of equal values, where there is no second derivative.

    Args:
      matrix: real, shape `[m, n]`.

    Returns:
      `[]`.
    """
    return jnp.linalg.svd(matrix, compute_uv=False)[0]


@jax.custom_jvp
def _leading(matrix: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """It `[]` with its left and right vector, `[m]` and `[n]`."""
    u, s, vt = jnp.linalg.svd(matrix, full_matrices=False)
    return s[0], u[:, 0], vt[0]


@spectral_norm.defjvp
def _spectral_norm_jvp(primals, tangents):
    # The value out of the same decomposition as the vectors: a second one costs as much again.
    (matrix,), (change,) = primals, tangents
    first, u, v = _leading(matrix)
    return first, u @ change @ v


@_leading.defjvp
def _leading_jvp(primals, tangents):
    (matrix,), (change,) = primals, tangents
    u, s, vt = jnp.linalg.svd(matrix, full_matrices=False)
    first, left, right = s[0], u[:, 0], vt[0]
    to_left, to_right = change @ right, change.T @ left
    gap = (first - s) * (first + s)
    apart = gap > 10 * jnp.finfo(s.dtype).eps * first**2
    inverse = jnp.where(apart, 1 / jnp.where(apart, gap, 1.0), 0.0)
    a, b = u.T @ to_left, vt @ to_right
    turned_left = u @ (inverse * (first * a + s * b))
    turned_right = vt.T @ (inverse * (first * b + s * a))
    # Out of the span of the vectors, where the matrix is not square.
    safe = jnp.where(first > 0, first, 1.0)
    turned_left += jnp.where(first > 0, (to_left - u @ a) / safe, 0.0)
    turned_right += jnp.where(first > 0, (to_right - vt.T @ b) / safe, 0.0)
    return (first, left, right), (left @ to_left, turned_left, turned_right)


NORMS: dict[str, Callable[[jax.Array], jax.Array] | None] = {
    "exact": spectral_norm,
    "bound": gram_bound,
    "power": None,  # needs a state; SpectralDense handles it
}


class SpectralDense(Guaranteed):
    r"""Dense layer with weights divided by their spectral norm, :math:`y = W x/\sigma + b`.

    What holds in l2: ``norm="exact"`` (singular values) and ``"bound"`` (Gram iteration, an
    upper bound) are 1-Lipschitz by construction, up to rounding. ``"power"`` is the published
    layer: one power iteration per call on a vector kept in the collection ``spectral``; it
    estimates from below, so the layer is 1-Lipschitz only in the limit. Pass
    ``mutable=["spectral"]`` in training for the vector to move.

    Attributes:
      features: output width.
      norm: "exact", "bound" or "power".
      power_steps: iterations per call for "power".
      use_bias: whether to add a bias.
      kernel_init: initialiser of the raw kernel `[d, features]`.
      dtype: of the output; by default that of x and the parameters together.
      param_dtype: of the parameters.

    Call with ``x`` `[..., d]`, returns `[..., features]`; raises ValueError on another width
    than at init.

    Reference:
      Miyato et al., "Spectral normalization for generative adversarial networks", ICLR 2018.
    """

    features: int
    norm: str = "exact"
    power_steps: int = 1
    use_bias: bool = True
    kernel_init: Callable[..., jax.Array] = nn.initializers.lecun_normal()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., d]` to `[..., features]`."""
        features = check_width(self.features)
        norm = choose("norm", self.norm, NORMS)
        x, build = prepare(x, 1, self.dtype, self.param_dtype)
        kernel = weight(self, "kernel", self.kernel_init, (x.shape[-1], features), build)
        kernel = kernel / magnitude(kernel)  # singular values of tiny weights lose digits
        sigma = self._power(kernel) if norm is None else norm(kernel)
        kernel = kernel / jnp.where(sigma > 0, sigma, 1.0)
        y = x @ kernel.astype(x.dtype)
        if self.use_bias:
            bias = weight(self, "bias", nn.initializers.zeros, (features,), build)
            y = y + along(bias, y)
        return y

    def bounds(self) -> tuple[float, float]:
        """Certified ``(smallest, largest)`` slope in l2: ``(0, 1)``.

        Called as ``net.apply(params, method="bounds")``.

        Raises:
          ValueError: for ``norm="power"``, which guarantees none.
        """
        if self.norm == "power":
            raise ValueError(
                "norm='power' estimates the norm from below and certifies no bound; take norm="
                "'exact' or 'bound'."
            )
        return 0.0, 1.0

    def _power(self, kernel: jax.Array) -> jax.Array:
        def start() -> jax.Array:
            key = self.make_rng("params")
            return jax.random.normal(key, (self.features,), self.param_dtype)

        state = self.variable("spectral", "vector", start)
        sigma, vector = power_estimate(kernel, state.value.astype(kernel.dtype), self.power_steps)
        if self.is_mutable_collection("spectral"):
            state.value = vector.astype(self.param_dtype)
        return sigma
