"""Batches whose order is a function of the seed and the position alone, so it can be resumed."""

from typing import Any, Protocol

import jax
import numpy as np


class Batches(Protocol):
    """What the loop asks of its data; grain's iterators have these methods, too."""

    def __next__(self) -> Any:
        """The next batch: a pytree of arrays."""

    def get_state(self) -> Any:
        """The position, as JSON-able data or bytes."""

    def set_state(self, state: Any) -> None:
        """Goes to a position that `get_state` returned."""


class ArrayBatches:
    """Shuffled batches of arrays in memory; every epoch sees each example at most once.

    Args:
      arrays: pytree of arrays with one common leading length n.
      batch_size: examples per batch, at most n; the rest of an epoch that does not fill a
        batch is left out (another rest every epoch).
      seed: decides the order of every epoch.
      keep_last: True adds what is left of an epoch as a shorter last batch (a second shape, so
        a second compilation of a step).

    Raises:
      ValueError: if lengths differ or the batch is larger than the data.
    """

    def __init__(self, arrays: Any, batch_size: int, *, seed: int = 0, keep_last: bool = False):
        """See the class."""
        lengths = {len(leaf) for leaf in jax.tree.leaves(arrays)}
        if len(lengths) != 1:
            raise ValueError(f"arrays must have one common length, got {sorted(lengths)}.")
        self._arrays, self._num = arrays, lengths.pop()
        if not 1 <= batch_size <= self._num:
            raise ValueError(
                f"batch_size must lie between 1 and the {self._num} examples, got {batch_size}."
            )
        self._batch_size, self._seed, self._step = batch_size, seed, 0
        self.batches_per_epoch = self._num // batch_size
        if keep_last and self._num % batch_size:
            self.batches_per_epoch += 1
        self._order: tuple[int, np.ndarray] | None = None

    def __iter__(self) -> "ArrayBatches":
        """Itself: it never ends."""
        return self

    def __next__(self) -> Any:
        """The batch at the current position, as a pytree of arrays `[batch_size, ...]`."""
        epoch, index = divmod(self._step, self.batches_per_epoch)
        if self._order is None or self._order[0] != epoch:
            rng = np.random.default_rng((self._seed, epoch))
            self._order = epoch, rng.permutation(self._num)
        rows = self._order[1][index * self._batch_size : (index + 1) * self._batch_size]
        self._step += 1
        return jax.tree.map(lambda leaf: leaf[rows], self._arrays)

    def get_state(self) -> dict[str, int]:
        """The number of batches drawn so far."""
        return {"step": self._step}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes to a position that :meth:`get_state` returned."""
        self._step = int(state["step"])
