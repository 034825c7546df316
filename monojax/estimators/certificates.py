"""What a fitted estimator promises: its function in the table's units, and a certificate of it."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.certify import Certificate, certify_monotone
from monojax.certify.program import function_hash
from monojax.estimators.columns import Columns
from monojax.estimators.losses import REGRESSION, Link
from monojax.estimators.networks import Net, slope_bounds
from monojax.estimators.training import outputs


def original_function(
    net: Net, params: Any, columns: Columns, link: Link
) -> Callable[[jax.Array], jax.Array]:
    """The whole composition as a function of ONE example: scaling, network, link.

    Args:
      net: with one output.
      params: of all members.
      columns: how the table is read.
      link: from outputs to predictions.

    Returns:
      Map from inputs `[d]` in the table's units (``columns.names``) to a prediction `[]`: the
      target of a regressor, the score of a classifier (log-odds, which the probability rises in).
    """
    centre, scale = columns.centre, columns.scale

    def fn(x: jax.Array) -> jax.Array:
        f = outputs(net, params, (x - centre) / scale)
        made = link.means(f, jnp) if link.loss in REGRESSION else link.scores(f)
        return made[0]

    return fn


def certificate_of(net: Net, params: Any, columns: Columns, link: Link, budget: int) -> Certificate:
    """A certificate on the box of the rows that were fitted, in the table's units.

    Args:
      net: the network.
      params: of all members.
      columns: how the table was read.
      link: from outputs to predictions.
      budget: boxes.

    Returns:
      Certificate. Stage "construction" where the network's form is the proof.

    Raises:
      ValueError: if no column has a direction, or the budget is not an integer >= 1.
    """
    if not any(net.directions):
        raise ValueError("no column has a direction: monotonic_cst asks for nothing to certify.")
    if isinstance(budget, bool) or not hasattr(budget, "__index__") or budget < 1:
        raise ValueError(f"budget must be an integer >= 1 (boxes), got {budget!r}.")
    fn = original_function(net, params, columns, link)
    task = (columns.low, columns.high, columns.directions)
    if not net.guaranteed:
        return certify_monotone(fn, *task, budget=budget, onehot=columns.groups)
    begin = time.monotonic()
    return Certificate(
        status="proved",
        stage="construction",
        counterexample=None,
        bounds=original_slopes(net, params, columns, link),
        volume_proved=1.0,
        boxes=0,
        directions=np.asarray(columns.directions, np.int32),
        low=columns.low,
        high=columns.high,
        onehot=columns.groups,
        program=function_hash(fn, len(columns.names)),
        options={"method": net.method},
        jax_version=jax.__version__,
        seconds=time.monotonic() - begin,
    )


def original_slopes(net: Net, params: Any, columns: Columns, link: Link) -> np.ndarray:
    """What a guaranteed network's form says of the slopes, in the table's units: `[d, 2]`."""
    count = jax.tree.leaves(params)[0].shape[0]
    one = lambda i: slope_bounds(net, jax.tree.map(lambda leaf: leaf[i], params["net"]))
    slopes = np.mean([one(i) for i in range(count)], axis=0)
    if link.loss in ("poisson", "gamma"):  # times the prediction, which is positive
        slopes = np.where(slopes > 0, np.inf, np.where(slopes < 0, -np.inf, 0.0))
    return np.asarray(slopes * (link.scale / columns.scale)[:, None])
