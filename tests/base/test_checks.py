"""Checks of values that are known while a program is traced, and of what a cast makes of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from monojax.base.checks import (
    cast_finite,
    check_box,
    check_labels,
    check_number,
    check_points,
    check_positive,
    check_width,
    known,
    one_of,
)

SCALARS = [-1.0, np.float32(-1), np.float64(-1), jnp.float32(-1), np.int64(-1), jnp.bfloat16(-1)]


def test_known_values_are_read_inside_jit():
    outside = jnp.float32(3.0)

    @jax.jit
    def run(x):
        assert known(x) is None and known([1.0, x]) is None
        assert known(outside) == 3 and known([outside, 2]).tolist() == [3, 2]
        return x

    run(1.0)
    assert known(0.5) == 0.5 and known(None).dtype == object


@pytest.mark.parametrize("value", [*SCALARS, 0, np.nan, jnp.inf, np.float64(1e39), "1", 1j, True])
@pytest.mark.parametrize("jit", [False, True])
def test_positive_numbers_of_any_kind(value, jit):
    """Not checked at 97de41c: 1e39, which is inf in float32; inside jit, jax scalars crashed."""

    def run(x):
        check_positive(value, "beta")
        return x

    with pytest.raises(ValueError, match=r"beta must be .*finite and > 0, got"):
        (jax.jit(run) if jit else run)(1.0)


def test_ranges_and_traced_numbers():
    for good in (0, 0.0, np.float16(2), jnp.int32(3), np.array(1e-3)):
        check_number(good, "margin", least=0)
    with pytest.raises(ValueError, match="margin must be finite and >= 0, got -1e-09"):
        check_number(-1e-9, "margin", least=0)
    with pytest.raises(ValueError, match=r"one number, got shape \(2,\)"):
        check_number([1.0, 2.0], "margin")
    jax.jit(lambda m: check_number(m, "margin", least=0))(-1.0)


@pytest.mark.parametrize(
    "value, dtype",
    [(1e39, np.float64), (-3.5e38, np.float64), (7e4, np.float16), (1e300, np.float64)],
)
def test_points_are_finite_after_the_cast(value, dtype):
    points = np.zeros((3, 2), dtype)
    with np.errstate(over="ignore"):
        points[1, 1] = value
    overflow = np.isfinite(points).all()
    match = r"1 of 3 rows with values beyond the range of float32" if overflow else "1 of 3 rows"
    with pytest.raises(ValueError, match=match):
        check_points(points)
    with pytest.raises(ValueError, match=match):
        jax.jit(lambda: check_points(points))()


def test_points_beyond_float32_pass_in_float64(x64):
    assert check_points(np.array([[1e39]])).dtype == jnp.float64


def test_boxes_are_finite_after_the_cast():
    for low, high in ((0, 1e39), ([-1e40, 0], [1, 1]), (np.zeros(2), np.array([1, np.inf]))):
        with pytest.raises(ValueError, match="low and high must be finite"):
            check_box(low, high, 2)
    low, high = check_box(0, np.array([2**40, 2**33]), 2)  # as int32 these wrap to 0
    assert high.tolist() == [2.0**40, 2.0**33] and low.dtype == high.dtype == jnp.float32
    with pytest.raises(ValueError, match=r"empty region: low > high at input 1 \(2 > 1\)"):
        check_box([0, 2], 1.0, 2)
    with pytest.raises(ValueError, match=r"shape \(3,\), got \(2,\) and \(3,\)"):
        check_box([0, 2], 1.0, 3)


def test_boxes_keep_narrow_types_and_work_under_jit():
    low, high = check_box(jnp.zeros(3, jnp.bfloat16), 1.0, 3)
    assert low.dtype == high.dtype == jnp.bfloat16
    outside = jnp.float32(2.0)
    low, high = jax.jit(lambda x: check_box(x, outside, 2))(jnp.zeros(2))
    assert high.tolist() == [2, 2]
    with pytest.raises(ValueError, match="empty region"):
        jax.jit(lambda: check_box(outside, 1.0, 2))()


def test_casts():
    assert cast_finite([1, 2], np.float16, "x").dtype == np.float16
    assert cast_finite(3, jnp.bfloat16, "x") == 3
    with pytest.raises(ValueError, match=r"x has values beyond the range of float16 \(up to 6.55"):
        cast_finite(1e5, np.float16, "x")
    with pytest.raises(ValueError, match="x has NaN or infinite values"):
        cast_finite(jnp.bfloat16(np.nan), jnp.bfloat16, "x")


@pytest.mark.parametrize("width", [0, -3, 2.0, "4", None, True, np.bool_(True), jnp.int32(0)])
def test_widths(width):
    with pytest.raises(ValueError, match="integers >= 1, got"):
        check_width(width)


@pytest.mark.parametrize("width", [3, np.int64(3), jnp.int32(3)])
def test_widths_inside_jit(width):
    assert jax.jit(lambda x: x + check_width(width))(0) == 3


def test_labels_of_64_bits_do_not_wrap():
    with pytest.raises(ValueError, match=r"\[0, 2\]"):
        check_labels(np.array([0, 1 + 2**32]), 2, 3)
    assert check_labels(np.array([0, 2], np.uint64), 2, 3).tolist() == [0, 2]


def test_choices():
    assert one_of("mean", ("mean", "max"), "reduce") == "mean"
    with pytest.raises(ValueError, match=r"reduce must be one of 'mean', 'max', got 'maen'; did"):
        one_of("maen", ("mean", "max"), "reduce")
    with pytest.raises(ValueError, match="got 3"):
        one_of(3, ("mean", "max"), "reduce")


def test_boxes_are_finite_in_the_type_of_the_data():
    assert check_box(0, 1, 2, jnp.float16)[1].dtype == jnp.float16
    with pytest.raises(ValueError, match="beyond the range of float16"):
        check_box(0, 1e5, 2, jnp.float16)
