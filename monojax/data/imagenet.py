"""Batches of images for training on many hosts: read by grain, in an order that can be resumed.

Row j of global batch k shows the image at place k * batch_size + j of an endless list: the
permutations of epoch 0, 1, ... one after the other, so an epoch shows every image once, whatever
the batch size. The permutation is a function of (seed, epoch), the crop of (seed, epoch, image).
Host p of n reads the p-th of n equal parts of every batch; a position is the number of batches,
the same on all hosts. Neither the number of hosts nor of threads or workers changes a batch.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from monojax.base.extras import require
from monojax.data.crops import BadImage, eval_crop, train_crop
from monojax.data.folders import int32_labels
from monojax.data.image_sources import Images

Batch = dict[str, np.ndarray]
_TRIES = 100  # unreadable images in a row that are passed over before giving up


@dataclasses.dataclass(frozen=True)
class Share:
    """A host's part of the work, and how it reads."""

    index: int = 0
    """Which host this is: `jax.process_index()`."""
    count: int = 1
    """Number of hosts: `jax.process_count()`."""
    threads: int = 2
    """Threads that decode, in this process or in every worker."""
    workers: int = 0
    """Processes that decode; 0 decodes in threads of this one."""

    def rows(self, batch_size: int) -> int:
        """Rows of a global batch that this host reads.

        Args:
          batch_size: rows of the global batch.

        Returns:
          batch_size / count.

        Raises:
          ValueError: if the batch does not divide by the hosts.
        """
        if batch_size < 1 or batch_size % self.count:
            near = max(1, round(batch_size / self.count)) * self.count
            raise ValueError(
                f"a batch of {batch_size} images does not divide by {self.count} hosts; "
                f"use for example {near}."
            )
        return batch_size // self.count


class TrainBatches:
    """This host's part of shuffled, augmented batches, without end.

    A batch is ``{"image": uint8 [rows, size, size, 3], "label": int32 [rows]}``. The place of an
    image that cannot be read is taken by the next readable one in the source's order, with the
    crop of that place; :attr:`skipped` counts them.

    Args:
      images: the source.
      batch_size: rows of the global batch.
      size: height and width of the crops.
      seed: of the order and the crops.
      share: this host's part.
      max_skipped: largest share of unreadable images; at least 10 images are let pass.

    Raises:
      ValueError: if the batch does not divide by the hosts.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        size: int,
        *,
        seed: int = 0,
        share: Share | None = None,
        max_skipped: float = 0.01,
    ):
        """See the class."""
        share = share or Share()
        self._share, self._rows = share, share.rows(batch_size)
        self._source = functools.partial(
            _TrainRows, images, batch_size, size, seed, share.index, self._rows
        )
        self.skipped = Skipped(images, max_skipped)
        self._step = 0
        self._iterator: Any = None

    def __iter__(self) -> "TrainBatches":
        """Itself: it never ends."""
        return self

    def __next__(self) -> Batch:
        """The batch at the current position."""
        if self._iterator is None:
            self._iterator = _read(self._source(self._step), self._rows, self._share)
        batch = next(self._iterator)
        self._step += 1
        self.skipped.add(batch.pop("bad"))
        return batch

    def get_state(self) -> dict[str, int]:
        """The number of batches drawn so far; the same on every host."""
        return {"step": self._step}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes to a position that :meth:`get_state` returned, on this host or another.

        Args:
          state: the position.
        """
        self.close()
        self._step = int(state["step"])

    def close(self) -> None:
        """Stops the threads that read ahead."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None


def eval_batches(
    images: Images,
    batch_size: int,
    size: int,
    *,
    share: Share | None = None,
    max_skipped: float = 0.01,
) -> Iterator[Batch]:
    """This host's part of all images, once, in the source's order.

    The last batch is filled up with blank images of mask 0, so that every host sees batches of
    one shape and equally many of them; unreadable images have mask 0, too.

    Args:
      images: the source.
      batch_size: rows of the global batch.
      size: height and width of the crops.
      share: this host's part.
      max_skipped: largest share of unreadable images; at least 10 images are let pass.

    Yields:
      ``{"image": uint8 [rows, size, size, 3], "label": int32 [rows], "mask": float32 [rows]}``.

    Raises:
      ValueError: if the batch does not divide by the hosts.
    """
    share = share or Share()
    rows = share.rows(batch_size)
    skipped = Skipped(images, max_skipped)
    source = _EvalRows(images, batch_size, size, share.index, rows)
    iterator = _read(source, rows, share)
    try:
        for batch in iterator:
            skipped.add(batch.pop("bad"))
            yield batch
    finally:
        iterator.close()


class Skipped:
    """Counts unreadable images and stops the run when there are too many.

    Args:
      images: the source, for names.
      max_share: largest share of the images seen; at least 10 are let pass.
    """

    def __init__(self, images: Images, max_share: float):
        """See the class."""
        if not 0 <= max_share <= 1:
            raise ValueError(f"max_skipped is a share between 0 and 1, got {max_share}.")
        self._images, self._max = images, max_share
        self.seen = 0
        """Images asked for, by this host since it started."""
        self.names: dict[str, int] = {}
        """Unreadable ones and how often they were met."""

    @property
    def count(self) -> int:
        """How often an unreadable image was passed over."""
        return sum(self.names.values())

    def add(self, bad: np.ndarray) -> None:
        """Notes a batch.

        Args:
          bad: int `[rows]`: index of the unreadable image met there, or -1.

        Raises:
          ValueError: when too many were unreadable.
        """
        self.seen += len(bad)
        for index in bad[bad >= 0]:
            name = self._images.name(int(index))
            self.names[name] = self.names.get(name, 0) + 1
        if self.count > self._max * max(self.seen, 10 / max(self._max, 1e-9)):
            first = ", ".join(list(self.names)[:3])
            raise ValueError(
                f"{self.count} of {self.seen} images could not be read, more than "
                f"{self._max:.1%} (max_skipped); the first: {first}. Get them again, or allow "
                "more."
            )


class _TrainRows:
    """This host's rows from a step on, one after the other, as grain asks for them by number."""

    def __init__(self, images, batch_size, size, seed, host, rows, first_step):
        self._images, self._batch_size, self._size = images, batch_size, size
        self._seed, self._host, self._rows = seed, host, rows
        self._first = first_step
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        """Without end, in the numbers that grain can count to."""
        return 2**40

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Image, label, and the index of an unreadable image that was met, or -1."""
        step, row = divmod(int(number), self._rows)
        place = (self._first + step) * self._batch_size + self._host * self._rows + row
        epoch, place = divmod(place, len(self._images))
        index, bad = int(self._order(epoch)[place]), -1
        for _ in range(_TRIES):
            rng = np.random.default_rng((self._seed, 1, epoch, index))
            try:
                image, label = self._images[index]
                pixels = train_crop(image, self._size, rng)
            except BadImage:
                bad = index if bad < 0 else bad
                index = (index + 1) % len(self._images)
                continue
            return {"image": pixels, "label": int32_labels(label)[()], "bad": np.int64(bad)}
        raise ValueError(
            f"{_TRIES} images in a row cannot be read, from {self._images.name(bad)} on."
        )

    def _order(self, epoch: int) -> np.ndarray:
        """The epoch's permutation; two are kept, since batches straddle the border."""
        if epoch not in self._orders:
            rng = np.random.default_rng((self._seed, 0, epoch))
            kept = {e: order for e, order in self._orders.copy().items() if e >= epoch - 1}
            self._orders = {**kept, epoch: rng.permutation(len(self._images)).astype(np.int32)}
        return self._orders[epoch]


class _EvalRows:
    """This host's rows of every batch, blank past the end."""

    def __init__(self, images, batch_size, size, host, rows):
        self._images, self._batch_size, self._size = images, batch_size, size
        self._host, self._rows = host, rows

    def __len__(self) -> int:
        return math.ceil(len(self._images) / self._batch_size) * self._rows

    def __getitem__(self, number: int) -> dict[str, Any]:
        step, row = divmod(int(number), self._rows)
        index = step * self._batch_size + self._host * self._rows + row
        blank = np.zeros((self._size, self._size, 3), np.uint8)
        if index >= len(self._images):
            return _eval_row(blank, 0, 0.0, -1)
        try:
            image, label = self._images[index]
            return _eval_row(eval_crop(image, self._size), label, 1.0, -1)
        except BadImage:
            return _eval_row(blank, 0, 0.0, index)


def _eval_row(pixels, label, mask, bad) -> dict[str, Any]:
    return {
        "image": pixels,
        "label": int32_labels(label)[()],
        "mask": np.float32(mask),
        "bad": np.int64(bad),
    }


def _read(source: Any, rows: int, share: Share) -> Any:
    """Grain's iterator over batches of ``rows`` rows: threads or processes read whole batches."""
    grain = require("grain.python", "data")
    ahead = max(2, share.threads)
    options = grain.ReadOptions(num_threads=share.threads, prefetch_buffer_size=ahead)
    batches = grain.MapDataset.source(source).batch(rows, drop_remainder=True)
    read = batches.to_iter_dataset(options)
    if share.workers:
        flags = require("absl.flags", "data").FLAGS  # grain reads its own there
        if not flags.is_parsed():
            flags.mark_as_parsed()
        read = read.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=share.workers, per_worker_buffer_size=2)
        )
    return iter(read)
