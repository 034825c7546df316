"""What is the same for every network whose value and inverse are solved for one array."""

from typing import Any

import jax

from monojax.bilipschitz.common import Constants, inverse_case
from monojax.bilipschitz.inner import forward, inverse
from monojax.bilipschitz.record import Diagnostics, sow_record, wants_record


class Solved(Constants):
    """f and its inverse on arrays shaped as the call's input.

    A network gives ``_prepare(x, name, alpha, beta)`` (checked input and constants),
    ``_inner(x)`` (the problem for that input) and ``_flat(x)`` `[..., d]`.
    """

    def diagnostics(self, x: jax.Array, *, alpha: Any = None, beta: Any = None) -> Diagnostics:
        """What the solver did for ``x``, shaped as in the call; fields have its batch's shape."""
        x, alpha, beta = self._prepare(x, "x", alpha, beta)
        return forward(self._inner(x), self._flat(x), alpha, beta, True)[1]

    def inverse(self, y: jax.Array, *, alpha: Any = None, beta: Any = None) -> jax.Array:
        r"""The x with f(x) = y, itself :math:`1/\alpha`-Lipschitz if alpha > 0.

        With alpha = 0 it is explicit, :math:`\nabla G(y)`. Otherwise a second problem is solved,
        see :func:`monojax.bilipschitz.inner.inverse`. Where that fails an iterate is returned, and
        :meth:`inverse_diagnostics` tells.

        Args:
          y: floating, shaped as the call's input.
          alpha: as in the call.
          beta: as in the call.

        Returns:
          x, shaped as y.

        Raises:
          ValueError: if alpha is 0 and the activation piecewise linear: f is not injective then.
        """
        return self._inverted(y, alpha, beta, wants_record(self))[0]

    def inverse_diagnostics(
        self, y: jax.Array, *, alpha: Any = None, beta: Any = None
    ) -> Diagnostics:
        """What the solver of :meth:`inverse` did for ``y``; fields have its batch's shape.

        ``residual`` is that of the second problem, and ``error_bound`` bounds the error of what
        :meth:`inverse` returns.
        """
        return self._inverted(y, alpha, beta, True)[1]

    def _inverted(self, y: Any, alpha: Any, beta: Any, wanted: bool):
        y, alpha, beta = self._prepare(y, "y", alpha, beta)
        case = inverse_case(alpha, self.activation)
        x, record = inverse(self._inner(y), self._flat(y), alpha, beta, case, wanted)
        sow_record(self, record)
        return x.reshape(y.shape), record

    def bounds(self) -> tuple[Any, Any]:
        """Certified ``(smallest, largest)`` slope, Euclidean norm: alpha and alpha + beta.

        Called as ``net.apply(params, method="bounds")``.
        """
        return self._alpha, self._alpha + self._beta
