"""The one check of `directions`, reached from every entry point."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import monojax as mj


@pytest.mark.parametrize("good", [[1, 0, -1], (1.0, 0.0, -1.0), np.array([1, 0, -1], np.int8)])
def test_accepts_numbers_of_any_kind(good):
    got = mj.check_directions(good, 3)
    assert got.dtype == jnp.int32 and got.tolist() == [1, 0, -1]


def test_accepts_rows_per_output():
    assert mj.check_directions([[1, 0], [0, -1]], 2, num_outputs=2).shape == (2, 2)


@pytest.mark.parametrize("bad", [[1, 0], [[1, 0, 1]], 1, []])
def test_rejects_another_length(bad):
    with pytest.raises(ValueError, match=r"shape \(3,\).*got"):
        mj.check_directions(bad, 3)


@pytest.mark.parametrize("name", ["MonotoneMLP", "LMN", "SmoothMinMax"])
@pytest.mark.parametrize("width", [2, 4])
def test_an_input_of_another_width_is_counted(name, width):
    """What the user gave wrong may be x: both numbers are said."""
    net = {
        "MonotoneMLP": mj.layers.MonotoneMLP((4, 1), directions=(1, 0, -1)),
        "LMN": mj.layers.LMN((4, 1), 1.0, (1, 0, -1)),
        "SmoothMinMax": mj.layers.SmoothMinMax(2, 2, (1, 0, -1)),
    }[name]
    with pytest.raises(ValueError, match=f"x has {width} inputs, directions name 3: "):
        jax.eval_shape(net.init, jax.random.key(0), jnp.ones((5, width)))


@pytest.mark.parametrize(
    "bad, found", [([2, 0, 1], "2"), ([0, 0.5, 1], "0.5"), ([0, 1, np.nan], "nan")]
)
def test_rejects_other_values(bad, found):
    with pytest.raises(ValueError, match=f"is {found}"):
        mj.check_directions(bad, 3)


def test_rejects_names():
    with pytest.raises(ValueError, match="numbers"):
        mj.check_directions(["up", "down", "free"], 3)


def test_checks_the_shape_under_jit():
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        jax.jit(lambda d: mj.check_directions(d, 3))(jnp.ones(2, jnp.int32))


def test_traced_floats_are_refused():
    with pytest.raises(ValueError, match="must be integers, got float32"):
        jax.jit(lambda d: mj.check_directions(d, 2))(jnp.array([0.9, -1.0]))


@pytest.mark.parametrize("bad", [[True, False], [1j, 0]])
def test_rejects_other_kinds(bad):
    with pytest.raises(ValueError, match="numbers"):
        mj.check_directions(bad, 2)


def test_traced_values_pass():
    assert jax.jit(lambda d: mj.check_directions(d, 2))(jnp.array([1, -1])).tolist() == [1, -1]


@pytest.mark.parametrize(
    "entry",
    [
        lambda d: mj.monotonicity_penalty(lambda x: x.sum(), jnp.ones((2, 3)), d),
        lambda d: mj.value_and_penalty(lambda x: x.sum(), jnp.ones((2, 3)), d),
        lambda d: mj.metrics.violation_rate(lambda x: x.sum(), jnp.ones((2, 3)), d),
        lambda d: mj.metrics.monotonicity_report(lambda x: x.sum(), jnp.ones((2, 3)), d),
    ],
)
def test_every_entry_point_uses_it(entry):
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        entry([1, 1])
    with pytest.raises(ValueError, match="-1, 0 or \\+1"):
        entry([1, 1, 3])


@pytest.mark.parametrize("given", [jnp.array([1, 0]), jnp.array([1.0, 0.0]), [jnp.int32(1), 0]])
def test_known_directions_stay_known_inside_jit(given):
    """Arrays from outside are checked there, and can decide what is computed."""

    @jax.jit
    def run(x):
        found = mj.check_directions(given, 2)
        return x[np.flatnonzero(found)]

    assert run(jnp.array([3.0, 4.0])).tolist() == [3.0]
    twice = jnp.array([2, 0])
    with pytest.raises(ValueError, match="entry 0 is 2"):
        jax.jit(lambda: mj.check_directions(twice, 2))()
