"""Batches of arrays: epochs, their order, the last short one."""

import numpy as np
import pytest

from monojax import training


def test_the_last_short_batch_may_be_kept():
    source = training.ArrayBatches(np.arange(10), 4, seed=0, keep_last=True)
    assert source.batches_per_epoch == 3
    parts = [next(source) for _ in range(6)]
    assert [len(part) for part in parts] == [4, 4, 2, 4, 4, 2]
    for epoch in (parts[:3], parts[3:]):
        assert sorted(np.concatenate(epoch)) == list(range(10))
    assert training.ArrayBatches(np.arange(8), 4, keep_last=True).batches_per_epoch == 2


def test_batches_repeat_and_cover():
    stream = training.ArrayBatches(np.arange(10), 3, seed=1)
    epochs = [np.concatenate([next(stream) for _ in range(3)]) for _ in range(2)]
    for epoch in epochs:
        assert len(set(epoch.tolist())) == 9
    assert (epochs[0] != epochs[1]).any()
    stream.set_state({"step": 2})
    np.testing.assert_array_equal(next(stream), epochs[0][6:])
    with pytest.raises(ValueError, match=r"between 1 and the 10 examples, got 11"):
        training.ArrayBatches(np.arange(10), 11)
    with pytest.raises(ValueError, match=r"one common length, got \[9, 10\]"):
        training.ArrayBatches({"a": np.arange(10), "b": np.arange(9)}, 2)
