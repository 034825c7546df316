"""A classifier that says how familiar an input is: DUQ on bi-Lipschitz features."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import check_number, check_width, check_widths, one_of
from monojax.base.extras import require
from monojax.estimators import duq_training as training
from monojax.estimators.training import batches, padded
from monojax.uncertainty.certified import unfamiliarity_radius
from monojax.uncertainty.scores import check_coverage, threshold

_sklearn: Any = require("sklearn.base", "sklearn")
_validation: Any = require("sklearn.utils.validation", "sklearn")
_multiclass: Any = require("sklearn.utils.multiclass", "sklearn")
_utils: Any = require("sklearn.utils", "sklearn")
BaseEstimator: Any = _sklearn.BaseEstimator
ClassifierMixin: Any = _sklearn.ClassifierMixin

STEPS = 16
"""Least number of steps in an epoch: a table of 100 rows would have too few else."""
LIFT = 8
"""Least width of the features with "blnn": fewer columns are turned into so many."""
EMBEDDING = 10
"""Least width of the embedding of the linear head; as many as features where there are more, so
that its smallest singular value is not 0."""


class DUQClassifier(ClassifierMixin, BaseEstimator):
    """Classes with a certainty that falls away from the training data.

    A class has a kernel on features; the certainty of an input is its largest kernel, from one
    forward pass and without unfamiliar inputs in training. With "blnn" the features come from a
    bi-Lipschitz network: inputs at a distance r have features at least alpha r apart, so what is
    unlike the data cannot look like it (:meth:`unfamiliarity_radius`).

    Args:
      extractor: "blnn", or "mlp" with DUQ's own gradient penalty, which guarantees nothing.
      alpha: lower slope bound of the features, in units of the scaled table, >= 0.
      beta: gap to the upper slope bound, > 0.
      head: "linear" learns a map of the features per class; "identity" takes them as they are.
      length_scale: of the kernels.
      hidden: widths of the convex core, or of the perceptron.
      max_epochs: passes over the rows; small tables are gone through several times in each, so
        that it has 16 steps.
      batch_size: rows per step at most.
      learning_rate: Adam's at the start; it falls along a cosine.
      calibration_fraction: share of the rows of each class held out to calibrate
        :meth:`is_familiar`.
      random_state: seed.

    After :meth:`fit`: ``classes_``, ``n_features_in_``, ``loss_curve_``, ``absent_`` (for every
    class the number of epochs without an example of it), ``calibration_scores_`` (log-certainties
    of the held-out rows) and ``calibrated_on_``: "held-out rows", or "training rows" where there
    are too few to hold any out.

    Reference:
      van Amersfoort et al., ICML 2020, arXiv 2003.02037; Kinoshita and Toyoizumi, NeurIPS 2024,
      arXiv 2404.09821.
    """

    def __init__(
        self,
        extractor: str = "blnn",
        *,
        alpha: float = 1.0,
        beta: float = 3.0,
        head: str = "linear",
        length_scale: float = 0.1,
        hidden: Any = (32, 32),
        max_epochs: int = 50,
        batch_size: int = 64,
        learning_rate: float = 1e-2,
        calibration_fraction: float = 0.1,
        random_state: Any = None,
    ) -> None:
        """Keeps the options; they are checked by :meth:`fit`."""
        self.extractor = extractor
        self.alpha = alpha
        self.beta = beta
        self.head = head
        self.length_scale = length_scale
        self.hidden = hidden
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.calibration_fraction = calibration_fraction
        self.random_state = random_state

    def _check_options(self) -> None:
        one_of(self.extractor, training.EXTRACTORS, "extractor")
        one_of(self.head, ("linear", "identity"), "head")
        check_number(self.alpha, "alpha", least=0)
        check_number(self.beta, "beta", above=0)
        check_number(self.length_scale, "length_scale", above=0)
        check_widths(self.hidden, "hidden")
        check_width(self.max_epochs, "max_epochs")
        check_width(self.batch_size, "batch_size")
        check_number(self.learning_rate, "learning_rate", above=0)
        check_number(self.calibration_fraction, "calibration_fraction", least=0, most=0.9)

    def fit(self, X: Any, y: Any) -> "DUQClassifier":
        """Trains on a table of numbers.

        Args:
          X: array or frame `[n, columns]`, finite.
          y: classes `[n]`.

        Returns:
          The estimator.

        Raises:
          ValueError: on a wrong option, a single class, NaN or infinite values.
          FloatingPointError: if the loss stops being finite.
        """
        self._check_options()
        X, y = _validation.validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        _multiclass.check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y holds a single class, {self.classes_[0]!r}; 2 are needed.")
        seed = _utils.check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        rng = np.random.default_rng(seed)
        fitted, held = self._split(codes, rng)
        self._fit_scale(X[fitted])
        rows = self._scaled(X)
        self._net = self._chosen(rows.shape[1])
        self._train(rows[fitted], codes[fitted], seed)
        self.calibrated_on_ = "held-out rows" if len(held) else "training rows"
        judged = rows[held if len(held) else fitted]
        self.calibration_scores_ = self._log_kernels(judged).max(axis=1)
        return self

    def _split(self, codes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers (to fit on, to calibrate on); every class keeps two rows to fit on."""
        order = rng.permutation(len(codes))
        held: list[int] = []
        for label in range(len(self.classes_)):
            mine = order[codes[order] == label]
            count = min(round(self.calibration_fraction * len(mine)), max(len(mine) - 2, 0))
            held += mine[:count].tolist()
        rest = np.setdiff1d(np.arange(len(codes)), held)
        return rest, np.sort(np.asarray(held, int))

    def _fit_scale(self, rows: np.ndarray) -> None:
        """Centre of each column, and one unit per column: its standard deviation."""
        largest = np.maximum(np.abs(rows).max(axis=0), 1e-300)
        unit = rows / largest[None]  # squares stay in range
        spread = unit.std(axis=0)
        self.centre_ = unit.mean(axis=0) * largest
        self.scale_ = np.where(spread > 1e-12, spread * largest, 1.0)

    def _scaled(self, X: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            rows = ((X - self.centre_[None]) / self.scale_[None]).astype(np.float32)
        if not np.isfinite(rows).all():
            raise ValueError(
                "X has a value beyond the range of float32 after scaling by the columns' "
                "standard deviations."
            )
        return rows

    def _chosen(self, dim: int) -> training.Net:
        blnn = self.extractor == "blnn"
        hidden = tuple(int(w) for w in self.hidden)
        width = max(dim, LIFT) if blnn else hidden[-1]
        return training.Net(
            self.extractor,
            width,
            hidden,
            len(self.classes_),
            self.head,
            max(width, EMBEDDING),
            float(self.length_scale),
            0.9,
            0.0 if blnn else 1.0,
        )

    def _train(self, rows: np.ndarray, codes: np.ndarray, seed: int) -> None:
        # A small table is gone through several times in an epoch.
        again = -(-STEPS * int(self.batch_size) // len(rows))
        rows, codes = np.tile(rows, (again, 1)), np.tile(codes, again)
        steps, size = batches(len(rows), int(self.batch_size))
        part = padded(rows, codes, np.ones(len(rows)), steps * size)
        state = training.initial(self._net, rows.shape[1], jax.random.key(seed))
        # As fitted: what set_params changes later counts at the next fit.
        self._slopes = float(self.alpha), float(self.beta)
        alpha, beta = map(jnp.float32, self._slopes)
        losses = []
        epochs = int(self.max_epochs)
        absent = np.zeros(len(self.classes_), int)
        seen = np.zeros(len(self.classes_), int)
        for number in range(epochs):
            fall = 0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * number / epochs))
            rate = jnp.float32(self.learning_rate * fall)
            state, loss = training.epoch(self._net, steps, state, part, alpha, beta, rate)
            losses.append(float(loss))
            if not np.isfinite(losses[-1]):
                raise FloatingPointError(
                    f"the loss is not finite after epoch {number + 1}; lower learning_rate, or "
                    "look for extreme values in X."
                )
            now = np.asarray(state.centroids["examples"])
            absent, seen = absent + (now == seen), now
        self.absent_, self.loss_curve_ = absent, losses
        self.n_iter_ = epochs
        # The optimiser's memory and the key are not needed to predict.
        params, centroids = jax.tree.map(np.asarray, (state.params, state.centroids))
        self.state_ = training.State(params, centroids, None, None)

    def _log_kernels(self, rows: np.ndarray) -> np.ndarray:
        return training.scored(self._net, self.state_, rows, *self._slopes)

    def _kernels_of(self, X: Any) -> np.ndarray:
        _validation.check_is_fitted(self, "state_")
        X = _validation.validate_data(self, X, reset=False, dtype=np.float64)
        return self._log_kernels(self._scaled(X))

    def predict(self, X: Any) -> np.ndarray:
        """The class of the largest kernel.

        Args:
          X: table as in :meth:`fit`.

        Returns:
          Classes `[n]`.
        """
        found = self._kernels_of(X).argmax(axis=1)
        return np.asarray(self.classes_[found])

    def predict_proba(self, X: Any) -> np.ndarray:
        """Kernels divided by their sum. Far from the data they say nothing: see :meth:`certainty`.

        Args:
          X: table as in :meth:`fit`.

        Returns:
          float64 `[n, K]`, in the order of ``classes_``; rows sum to 1.
        """
        scores = self._kernels_of(X)
        most = scores.max(axis=1, keepdims=True)
        # So far that all kernels are 0: nothing is known of the class.
        powers = np.where(most > -np.inf, np.exp(scores - np.where(most > -np.inf, most, 0)), 1.0)
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    def certainty(self, X: Any) -> np.ndarray:
        """The largest kernel: near 1 at the training data, 0 far from it.

        Args:
          X: table as in :meth:`fit`.

        Returns:
          float64 `[n]` in [0, 1].

        Raises:
          NotFittedError: before :meth:`fit`.
        """
        return np.exp(self.log_certainty(X))

    def log_certainty(self, X: Any) -> np.ndarray:
        """Logarithm of :meth:`certainty`, float64 `[n]`, for scores: it keeps the order far away.

        Args:
          X: table as in :meth:`fit`.

        Returns:
          float64 `[n]`, <= 0.
        """
        return np.asarray(self._kernels_of(X).max(axis=1))

    def is_familiar(self, X: Any, coverage: float = 0.95) -> np.ndarray:
        """Whether inputs are as certain as a wished share of the held-out training rows.

        Args:
          X: table as in :meth:`fit`.
          coverage: share of inputs like the training data to accept, in (0, 1).

        Returns:
          bool `[n]`.

        Raises:
          ValueError: on a coverage outside (0, 1).
        """
        check_coverage(coverage)
        scores = self.log_certainty(X)
        return np.asarray(scores >= threshold(self.calibration_scores_, coverage))

    def unfamiliarity_radius(self, X: Any, certainty: float = 0.5) -> np.ndarray:
        """Distances from inputs outside of which the certainty must be below a level, guaranteed.

        An input further than ``radius[i]`` from ``X[i]``, for any one i, cannot have a certainty of
        ``certainty`` or more, whatever it is. Distances are Euclidean in the scaled table, whose
        columns are ``(x - centre_) / scale_``. The error of the inner solve is counted at its
        tolerance: an input whose solve has not met it, after 50 Newton steps, is not spoken of.

        Args:
          X: table as in :meth:`fit`, such as training rows.
          certainty: level in (0, 1].

        Returns:
          float64 `[n]`; infinite with the extractor "mlp", with alpha = 0, or where the head loses
          a direction.
        """
        _validation.check_is_fitted(self, "state_")
        X = _validation.validate_data(self, X, reset=False, dtype=np.float64)
        rows = self._scaled(X)
        if self._net.extractor != "blnn":
            check_number(certainty, "certainty", above=0, most=1)
            return np.full(len(rows), np.inf)
        (alpha, beta), net = self._slopes, self._net
        h = jax.jit(net.features)(self.state_.params["net"], rows, alpha, beta)
        centroids = self.state_.centroids
        # A solve has converged at a residual of 1e-4 (1 + |x|); sums, the scaling and the lift
        # round by some units in the last place of |x|.
        units = (64 + 4 * rows.shape[1]) * np.finfo(np.float32).eps * (1 + alpha + beta)
        slope = 1e-4 * beta + units
        radius = unfamiliarity_radius(
            alpha * (1 - 1e-5),  # the lift's matrix keeps distances up to its rounding
            h,
            centroids["sum"] / centroids["count"][:, None],
            net.length_scale,
            certainty,
            weight=self.state_.params["head"].get("kernel"),
            error=slope * (1 + np.linalg.norm(rows, axis=1)),
            error_slope=slope,
        )
        return np.asarray(radius, np.float64)
