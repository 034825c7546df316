"""What went wrong in a batch of solves, as Python numbers for logs and warnings."""

from typing import Any, NamedTuple

import numpy as np


class SolveReport(NamedTuple):
    """Python numbers over a batch of results: see :func:`solve_report`."""

    examples: int
    """Number of examples."""
    unsolved: int
    """Examples that did not meet the tolerance: step limit, stalled, unbounded, or NaN."""
    not_finite: int
    """Examples whose residual is NaN or infinite."""
    not_convex: int
    """Examples that met a curvature below the promised strong convexity, or <= 0."""
    worst_residual: float
    """Largest finite residual; NaN if there is none."""
    most_steps: int
    """Largest number of steps."""

    @property
    def ok(self) -> bool:
        """Whether every example converged and none refuted strong convexity."""
        return self.unsolved == 0 and self.not_convex == 0


def solve_report(result: Any, strong_convexity: float | None = None) -> SolveReport:
    """Counts what went wrong in a batch of results; for logs and warnings, outside `jit`.

    Args:
      result: anything with concrete ``residual``, ``steps``, ``converged`` and ``curvature`` of
        one shape, such as a vmapped :class:`Conjugate` or ``BLNN.diagnostics``.
      strong_convexity: the constant promised for the potential; None asks for > 0 only.

    Returns:
      SolveReport. Curvature is measured on the steps taken, and what rounding can explain is
      allowed for: it refutes convexity, never proves it.
    """
    residual, steps, converged, curvature = (
        np.asarray(getattr(result, name)).ravel()
        for name in ("residual", "steps", "converged", "curvature")
    )
    finite = np.isfinite(residual)
    low = curvature <= 0
    if strong_convexity is not None:
        low = curvature < 0.98 * float(np.asarray(strong_convexity))
    return SolveReport(
        examples=residual.size,
        unsolved=int((~converged).sum()),
        not_finite=int((~finite).sum()),
        not_convex=int(low.sum()),
        worst_residual=float(residual[finite].max()) if finite.any() else float("nan"),
        most_steps=int(steps.max()) if steps.size else 0,
    )
