"""Monotone Lipschitz layers and BiLipNet: orthogonal layers between them, with an inverse."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from monojax.base.checks import check_positive, check_width, check_widths, choose, is_concrete
from monojax.layers.cayley import CayleyDense, scaled_cayley
from monojax.layers.guarantee import Guaranteed
from monojax.layers.lipschitz_common import SLOPE_RESTRICTED, along, prepare, weight
from monojax.layers.roots import (
    InverseDiagnostics,
    default_tolerance,
    diagnose,
    solve_monotone,
)

GLOROT = nn.initializers.glorot_normal()
GONE = "inverse_report is named inverse_diagnostics now; inverse returns the last iterate."


class Explicit(NamedTuple):
    r"""The layer as :math:`y = \mu x + \sqrt{\gamma/2} S^T z + b_y`, z in closed form by blocks.

    :math:`z = \sigma(V z + \sqrt{2\gamma} S x + b)`, n units in all, d inputs.
    """

    lower: jax.Array
    """`[]`: mu."""
    gap: jax.Array
    """`[]`: gamma = nu - mu."""
    s: jax.Array
    """`[n, d]`."""
    v: jax.Array
    """`[n, n]`, strictly lower block triangular; ``2I - V - V^T >= 2 S S^T`` is the certificate."""
    bias: jax.Array
    """`[n]`: b."""
    offset: jax.Array
    """`[d]`: b_y."""


def explicit_call(
    x: jax.Array, explicit: Explicit, units: Sequence[int], activation: str = "relu"
) -> jax.Array:
    """Evaluates the compact form, from S and V alone.

    Args:
      x: shape `[..., d]`.
      explicit: the layer's matrices.
      units: widths of the blocks, which sum to n.
      activation: a name of an elementwise activation with slopes in [0, 1].

    Returns:
      `[..., d]`.
    """
    act = choose("activation", activation, SLOPE_RESTRICTED)
    drive = jnp.sqrt(2 * explicit.gap) * (x @ explicit.s.T)
    drive = drive + along(explicit.bias, drive)
    z, start = drive[..., :0], 0
    for width in units:
        rows = slice(start, start + width)
        z = jnp.concatenate([z, act(drive[..., rows] + z @ explicit.v[rows, :start].T)], axis=-1)
        start += width
    out = explicit.lower * x + jnp.sqrt(explicit.gap / 2) * (z @ explicit.s)
    return out + along(explicit.offset, out)


class MonLipDense(Guaranteed):
    r"""Monotone and Lipschitz: strongly monotone by ``lower``, ``upper``-Lipschitz, in l2.

    With :math:`[A_k\ B_k]` of orthonormal rows and :math:`Q Q^T \preceq I` (both Cayley),
    :math:`S_k = A_kQ_k - B_kQ_{k-1}` and :math:`V_k = 2B_kA_{k-1}^T` satisfy
    :math:`2I - V - V^T \succeq 2SS^T`, which with slopes in [0, 1] gives
    :math:`\langle \Delta f - \mu\Delta x,\ \nu\Delta x - \Delta f\rangle \ge 0`. So
    :math:`\|J - \frac{\mu+\nu}{2} I\| \le \frac{\nu-\mu}{2}`, the symmetric part of J is at least
    :math:`\mu I` and :math:`\|J\| \le \nu`: by construction, up to rounding.

    Attributes:
      units: widths of the hidden blocks.
      lower: mu >= 0; the layer has an inverse if it is > 0.
      upper: nu > mu.
      activation: a name of an elementwise activation with slopes in [0, 1].
      dtype: of the output; by default that of x and the parameters together.
      param_dtype: of the parameters.

    Call with ``x`` `[..., d]`, returns `[..., d]`; raises ValueError on empty units, constants
    out of order or another width than at init.

    Reference:
      Wang, Dvijotham, Manchester, "Monotone, Bi-Lipschitz, and Polyak-Lojasiewicz networks",
      ICML 2024, https://arxiv.org/abs/2402.01344.
    """

    units: Sequence[int]
    lower: float | jax.Array
    upper: float | jax.Array
    activation: str = "relu"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __call__(self, x: jax.Array, *, form: str = "layers") -> jax.Array:
        """Maps `[..., d]` to `[..., d]`.

        Args:
          x: float, shape `[..., d]`.
          form: "layers" applies A, B and Q in turn (the bi-Lipschitz paper's baseline),
            "compact" forms S and V first (the original's); they agree up to rounding.
        """
        forms = {"layers": self._layers, "compact": self._compact}
        x, build = prepare(x, 1, self.dtype, self.param_dtype)
        return choose("form", form, forms)(x, *self._matrices(x.shape[-1], build))

    def explicit(self, width: int) -> Explicit:
        """The matrices of the compact form, for ``width`` inputs (`apply(..., method=)`)."""
        build = jnp.promote_types(self.param_dtype, jnp.float32)
        return self._explicit(*self._matrices(check_width(width, "width"), build))

    def bounds(self) -> tuple[Any, Any]:
        """Certified ``(smallest, largest)`` slope in l2: lower and upper.

        Called as ``net.apply(params, method="bounds")``.
        """
        check_bounds(self.lower, self.upper)
        return self.lower, self.upper

    def inverse(self, y: jax.Array, *, tolerance: float | None = None) -> jax.Array:
        """The x with f(x) = y, `[..., d]`: the last iterate; see :meth:`inverse_diagnostics`.

        Args:
          y: float, shape `[..., d]`.
          tolerance: a row stops at ||f(x) - y|| <= tolerance (1 + ||y||) / 10; 1e-4 in float32
            and 1e-9 in float64 unless given.

        Returns:
          x, differentiable in y and in the parameters where the layer is.

        Raises:
          ValueError: if ``lower`` is 0: the layer need not have an inverse.
        """
        return self._solve(y, tolerance)[0]

    def inverse_diagnostics(
        self, y: jax.Array, *, tolerance: float | None = None
    ) -> InverseDiagnostics:
        """How well :meth:`inverse` did for ``y`` `[..., d]`, measured at its x; fields `[...]`."""
        x, steps = self._solve(y, tolerance)
        forward = lambda x: self(x)
        target = jnp.asarray(y).astype(jnp.promote_types(x.dtype, jnp.float32))
        return diagnose(forward, x, target, steps, self.lower, self.upper, tolerance)

    def inverse_report(self, *args: Any, **options: Any) -> None:
        """Raises: it is :meth:`inverse_diagnostics` now."""
        raise TypeError(GONE)

    def _solve(self, y: jax.Array, tolerance: float | None) -> tuple[jax.Array, jax.Array]:
        check_bounds(self.lower, self.upper)
        if is_concrete(self.lower) and not np.asarray(self.lower) > 0:
            raise ValueError(
                f"no inverse is guaranteed with lower={self.lower}; build the layer with lower > 0."
            )
        y, build = prepare(y, 1, self.dtype, self.param_dtype)
        e = self._explicit(*self._matrices(y.shape[-1], build))
        units, activation = tuple(self.units), self.activation

        def forward(x: jax.Array) -> jax.Array:
            return explicit_call(x, e, units, activation)

        x, steps = solve_monotone(forward, y.astype(build), self.lower, self.upper, tolerance)
        return x.astype(y.dtype), steps

    @nn.compact
    def _matrices(self, width: int, build: Any) -> tuple[Any, ...]:
        units = check_widths(self.units, "units")
        check_bounds(self.lower, self.upper)
        q = scaled_cayley(self, GLOROT, (width, sum(units)), build, ("q_kernel", "q_scale")).T
        blocks, start, before = [], 0, 0
        for k, n in enumerate(units):
            names = (f"ab_kernel_{k}", f"ab_scale_{k}")
            ab = scaled_cayley(self, GLOROT, (n + before, n), build, names)
            bias = weight(self, f"bias_{k}", nn.initializers.zeros, (n,), build)
            previous = q[start - before : start]
            blocks.append((ab[:n].T, ab[n:].T, q[start : start + n], previous, bias))
            start, before = start + n, n
        offset = weight(self, "offset", nn.initializers.zeros, (width,), build)
        return blocks, offset

    def _bounds(self, dtype: Any) -> tuple[jax.Array, jax.Array]:
        lower = jnp.asarray(self.lower, dtype)
        return lower, jnp.asarray(self.upper, dtype) - lower

    def _layers(self, x: jax.Array, blocks: Any, offset: jax.Array) -> jax.Array:
        act = choose("activation", self.activation, SLOPE_RESTRICTED)
        lower, gap = self._bounds(x.dtype)
        y, z, a_before = lower * x + along(offset, x), x[..., :0], jnp.zeros((0, 0), x.dtype)
        for block in blocks:
            a, b, q, q_before, bias = (part.astype(x.dtype) for part in block)
            s_x = (x @ q.T) @ a.T - (x @ q_before.T) @ b.T
            drive = 2 * (z @ a_before) @ b.T + jnp.sqrt(2 * gap) * s_x
            z = act(drive + along(bias, drive))
            y = y + jnp.sqrt(gap / 2) * ((z @ a) @ q - (z @ b) @ q_before)
            a_before = a
        return y

    def _explicit(self, blocks: Any, offset: jax.Array) -> Explicit:
        total = sum(self.units)
        v = jnp.zeros((total, total), offset.dtype)
        s, start, a_before = [], 0, None
        for a, b, q, q_before, _ in blocks:
            s.append(a @ q - b @ q_before)
            rows = slice(start, start + a.shape[0])
            if a_before is not None:
                v = v.at[rows, start - b.shape[1] : start].set(2 * b @ a_before.T)
            start, a_before = rows.stop, a
        bias = jnp.concatenate([block[-1] for block in blocks])
        return Explicit(*self._bounds(offset.dtype), jnp.concatenate(s), v, bias, offset)

    def _compact(self, x: jax.Array, blocks: Any, offset: jax.Array) -> jax.Array:
        e = Explicit(*(part.astype(x.dtype) for part in self._explicit(blocks, offset)))
        return explicit_call(x, e, tuple(self.units), self.activation)


def check_bounds(lower: Any, upper: Any) -> None:
    """Raises ValueError unless 0 <= lower < upper, where they are concrete.

    Args:
      lower: a number or traced scalar.
      upper: a number or traced scalar.

    Raises:
      ValueError: on other values.
    """
    check_positive(upper, "upper")
    # numpy: under jit a comparison of jax values would be traced.
    if is_concrete(lower) and not (np.isfinite(np.asarray(lower)) and np.asarray(lower) >= 0):
        raise ValueError(f"lower must be finite and >= 0, got {lower}.")
    if is_concrete(lower) and is_concrete(upper) and not np.asarray(lower) < np.asarray(upper):
        raise ValueError(f"lower must be below upper, got lower={lower} and upper={upper}.")


class BiLipNet(Guaranteed):
    r"""``lower``-inverse-Lipschitz and ``upper``-Lipschitz in l2, by construction.

    depth monotone layers with the constants :math:`\mu^{1/D}, \nu^{1/D}` between orthogonal ones;
    the constants multiply. Unlike one :class:`MonLipDense` it need not be monotone.

    Attributes:
      units: hidden blocks of every monotone layer.
      lower: mu >= 0 (> 0 for an inverse).
      upper: nu > mu.
      depth: D >= 1.
      activation: a name of an elementwise activation with slopes in [0, 1].
      dtype: of the output; by default that of x and the parameters together.
      param_dtype: of the parameters.

    Call with ``x`` `[..., d]`, returns `[..., d]`; raises ValueError as :class:`MonLipDense`.

    Reference:
      Wang, Dvijotham, Manchester, ICML 2024, https://arxiv.org/abs/2402.01344.
    """

    units: Sequence[int]
    lower: float | jax.Array
    upper: float | jax.Array
    depth: int = 2
    activation: str = "relu"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def _parts(self, width: int) -> tuple[list[CayleyDense], list[MonLipDense]]:
        depth = check_width(self.depth, "depth")
        check_bounds(self.lower, self.upper)
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        root = 1.0 / depth
        turns = [CayleyDense(width, **options, name=f"turn_{i}") for i in range(depth + 1)]
        layers = [
            MonLipDense(
                self.units,
                self.lower**root,
                self.upper**root,
                self.activation,
                **options,
                name=f"monlip_{i}",
            )
            for i in range(depth)
        ]
        return turns, layers

    def __call__(self, x: jax.Array, *, form: str = "layers") -> jax.Array:
        """Maps `[..., d]` to `[..., d]`; ``form`` as in :class:`MonLipDense`."""
        turns, layers = self._parts(prepare(x, 1, self.dtype, self.param_dtype)[0].shape[-1])
        x = turns[0](x)
        for layer, turn in zip(layers, turns[1:], strict=True):
            x = turn(layer(x, form=form))
        return x

    def bounds(self) -> tuple[Any, Any]:
        """Certified ``(smallest, largest)`` slope in l2: lower and upper.

        Called as ``net.apply(params, method="bounds")``.
        """
        check_bounds(self.lower, self.upper)
        return self.lower, self.upper

    def inverse(self, y: jax.Array, *, tolerance: float | None = None) -> jax.Array:
        """The x with f(x) = y, `[..., d]`: the last iterate, as in :class:`MonLipDense`."""
        return self._solve(y, tolerance)[0]

    def inverse_diagnostics(
        self, y: jax.Array, *, tolerance: float | None = None
    ) -> InverseDiagnostics:
        """How well :meth:`inverse` did for ``y`` `[..., d]``, measured on the whole network.

        ``steps`` is the largest of the layers'. Fields `[...]`.
        """
        x, steps = self._solve(y, tolerance)
        target = jnp.asarray(y).astype(jnp.promote_types(x.dtype, jnp.float32))
        forward = lambda x: self(x)
        return diagnose(forward, x, target, steps, self.lower, self.upper, tolerance)

    def inverse_report(self, *args: Any, **options: Any) -> None:
        """Raises: it is :meth:`inverse_diagnostics` now."""
        raise TypeError(GONE)

    def _solve(self, y: jax.Array, tolerance: float | None) -> tuple[jax.Array, jax.Array]:
        check_bounds(self.lower, self.upper)
        y, build = prepare(y, 1, self.dtype, self.param_dtype)
        turns, layers = self._parts(y.shape[-1])
        if tolerance is None:
            tolerance = default_tolerance(build)
        # Residuals of the first layers are stretched by the later ones: solved far below.
        tolerance = 1e-2 * tolerance
        x = turns[-1].inverse(y.astype(build))
        every = []
        for layer, turn in zip(layers[::-1], turns[-2::-1], strict=True):
            x, steps = layer._solve(x, tolerance)
            x = turn.inverse(x)
            every.append(steps)
        return x.astype(y.dtype), jnp.stack(every).max(axis=0)
