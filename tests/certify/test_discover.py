"""Directions that are found: each label holds on the box, and says no more than is proved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import monojax as mj
from monojax.certify import discover_monotone


@pytest.fixture(scope="module")
def found():
    """One function with an input of every kind: one program for all assertions."""

    def fn(x):
        bent = jnp.square(x[2]) * x[0]  # rises in 0; in 2 it falls, then rises
        return bent + jnp.exp(x[0]) - 3 * x[1] + 0.0 * x[3] + jax.nn.relu(x[4] - 0.3)

    return discover_monotone(fn, [0.0, 0, -1, 0, 0], [1.0] * 5, budget=200, bound="interval")


def test_labels_of_every_kind(found):
    assert found.labels == ("rising", "falling", "mixed", "rising", "rising")
    np.testing.assert_array_equal(found.proved[[0, 1, 3, 4]], 1.0)
    assert 0 <= found.proved[2] <= 1


def test_a_cut_box_is_proved_piece_by_piece():
    """The slopes x1^2 - x1 + 0.35 > 0 and x0 (2 x1 - 1) - 1.5 < 0 need cuts to be seen so."""
    fn = lambda x: x[0] * (x[1] ** 2 - x[1] + 0.35) - 1.5 * x[1]
    out = discover_monotone(fn, [0.0, 0.0], [1.0, 1.0], budget=300, bound="interval")
    assert out.labels == ("rising", "falling")
    assert out.proved.tolist() == [1.0, 1.0]
    little = discover_monotone(fn, [0.0, 0.0], [1.0, 1.0], budget=9, bound="interval")
    assert little.labels[0] == "unknown" and 0 < little.proved[0] < 1


def test_one_hot_groups_have_no_direction_of_their_own():
    fn = lambda x: x[0] * (x[1] ** 2 + x[2] ** 2 - 0.75)  # negative between the corners alone
    box = ([0.0] * 3, [1.0] * 3)
    out = discover_monotone(fn, *box, budget=20, bound="interval", onehot=[(1, 2)])
    assert out.labels == ("rising", "unknown", "unknown")
    assert out.proved.tolist() == [1.0, 0.0, 0.0]


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="low must be <= high"):
        mj.discover_monotone(lambda x: x[0], [1.0], [0.0])
    with pytest.raises(mj.certify.CertifyError, match="jump"):
        mj.discover_monotone(lambda x: jnp.floor(x[0]), [0.0], [1.0])
