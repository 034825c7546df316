"""Augmentations, operation by operation: against the formulas in float64, and against Pillow."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from monojax.data.augment import (
    OPERATIONS,
    STRENGTHS,
    apply_operations,
    random_erasing,
    trivial_augment_wide,
)
from monojax.data.crops import normalise
from monojax.models.efficientnet import efficientnet_input
from monojax.models.squeezenet import squeezenet_input

SIDE, BINS = 32, (0, 1, 7, 15, 20, 30)
GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")


def pictures(num, seed=0):
    """Random blotches at random contrast, so that no image uses all levels."""
    rng = np.random.default_rng(seed)
    rough = rng.uniform(0, 1, (num, 8, 8, 3)).repeat(4, axis=1).repeat(4, axis=2)
    fine = rng.uniform(0, 0.3, (num, SIDE, SIDE, 3))
    low, high = rng.uniform(0, 80, (num, 1, 1, 3)), rng.uniform(150, 255, (num, 1, 1, 3))
    return np.clip(low + (high - low) * (rough + fine) / 1.3, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def applied():
    """{operation: (images, strengths, results)} at several strengths of both signs; one program."""
    cases = []
    for number in range(len(OPERATIONS)):
        for k in BINS:
            for sign in (1, -1) if 1 <= number <= 9 else (1, 1):
                cases.append((number, sign * STRENGTHS[number, k]))
    images = pictures(len(cases))
    numbers, strengths = (np.asarray(column) for column in zip(*cases, strict=True))
    results = np.asarray(jax.jit(apply_operations)(images, numbers, strengths.astype(np.float32)))
    chosen = lambda name: numbers == OPERATIONS.index(name)
    return {
        name: (images[chosen(name)], strengths[chosen(name)], results[chosen(name)])
        for name in OPERATIONS
    }


def moved(name, image, strength):
    """The source of each pixel's centre, by loops, float64."""
    out = np.zeros_like(image)
    turn = math.radians(strength)
    for y in range(SIDE):
        for x in range(SIDE):
            px, py = x + 0.5, y + 0.5
            if name == "ShearX":
                px += strength * py
            elif name == "ShearY":
                py += strength * px
            elif name == "TranslateX":
                px -= int(strength)
            elif name == "TranslateY":
                py -= int(strength)
            else:
                dx, dy = px - SIDE / 2, py - SIDE / 2
                px = SIDE / 2 + math.cos(turn) * dx - math.sin(turn) * dy
                py = SIDE / 2 + math.sin(turn) * dx + math.cos(turn) * dy
            sx, sy = math.floor(px), math.floor(py)
            if 0 <= sx < SIDE and 0 <= sy < SIDE:
                out[y, x] = image[sy, sx]
    return out


@pytest.mark.parametrize("name", GEOMETRIC)
def test_shears_shifts_and_rotations_by_the_formula(applied, name):
    for image, strength, found in zip(*applied[name], strict=True):
        wrong = (found != moved(name, image, strength)).any(axis=-1)
        # At 135 degrees sources of the diagonal lie on edges of pixels: either side is right.
        assert wrong.sum() <= (SIDE if abs(strength) == 135 else 0), strength


@pytest.mark.parametrize("name", GEOMETRIC)
def test_shears_shifts_and_rotations_are_pillows(applied, name):
    pil = pytest.importorskip("PIL.Image", reason="the oracle is Pillow")
    for image, strength, found in zip(*applied[name], strict=True):
        picture = pil.fromarray(image)
        if name == "Rotate":
            want = picture.rotate(strength, pil.NEAREST)
        else:
            s, t = strength, int(strength)
            matrix = {
                "ShearX": (1, s, 0, 0, 1, 0),
                "ShearY": (1, 0, 0, s, 1, 0),
                "TranslateX": (1, 0, -t, 0, 1, 0),
                "TranslateY": (1, 0, 0, 0, 1, -t),
            }[name]
            want = picture.transform(picture.size, pil.AFFINE, matrix, pil.NEAREST)
        wrong = (found != np.asarray(want)).any(axis=-1).sum()
        # Pillow adds up steps in fixed point with 16 bits: pixels on an edge may differ.
        assert wrong <= (SIDE if abs(strength) == 135 else 4), strength


@pytest.mark.parametrize("name", ["Brightness", "Color", "Contrast", "Sharpness"])
def test_blends_are_pillows(applied, name):
    pil = pytest.importorskip("PIL.Image", reason="the oracle is Pillow")
    enhance = pytest.importorskip("PIL.ImageEnhance")
    for image, strength, found in zip(*applied[name], strict=True):
        want = np.asarray(getattr(enhance, name)(pil.fromarray(image)).enhance(1 + strength))
        off = np.abs(found.astype(int) - want.astype(int))
        # Cut to whole numbers: products that are whole fall on either side in float32.
        assert off.max() <= 1 and (off > 0).mean() < 0.03, strength


@pytest.mark.parametrize("name", ["Posterize", "Solarize", "AutoContrast", "Equalize"])
def test_tables_are_pillows(applied, name):
    pil = pytest.importorskip("PIL.Image", reason="the oracle is Pillow")
    ops = pytest.importorskip("PIL.ImageOps")
    functions = {
        "Posterize": lambda image, s: ops.posterize(image, int(s)),
        "Solarize": lambda image, s: ops.solarize(image, s),
        "AutoContrast": lambda image, s: ops.autocontrast(image),
        "Equalize": lambda image, s: ops.equalize(image),
    }
    for image, strength, found in zip(*applied[name], strict=True):
        want = np.asarray(functions[name](pil.fromarray(image), strength)).astype(int)
        # Ours divides integers; Pillow's stretching rounds 255 / (high - low) first.
        assert np.abs(found - want).max() <= (1 if name == "AutoContrast" else 0), strength


def test_blends_and_tables_by_the_formula(applied):
    for image, strength, found in zip(*applied["Brightness"], strict=True):
        want = np.clip(np.float64(image) * (1 + strength), 0, 255)
        assert np.abs(found - np.floor(want)).max() <= 1
        assert (found == np.floor(want)).mean() > 0.97  # whole products, as above
    for image, strength, found in zip(*applied["Solarize"], strict=True):
        np.testing.assert_array_equal(found, np.where(image < strength, image, 255 - image))
    for image, bits, found in zip(*applied["Posterize"], strict=True):
        step = 2 ** (8 - int(bits))
        np.testing.assert_array_equal(found, image // step * step)
    for image, _, found in zip(*applied["AutoContrast"], strict=True):
        low, high = (f(image, axis=(0, 1)).astype(int) for f in (np.min, np.max))
        np.testing.assert_array_equal(found, (image - low) * 255 // (high - low))
    for image, _, found in zip(*applied["Identity"], strict=True):
        np.testing.assert_array_equal(found, image)


def test_one_level_alone_stays():
    flat = np.full((3, 8, 8, 1), 77, np.uint8)
    names = ("AutoContrast", "Equalize", "Color")
    numbers = np.array([OPERATIONS.index(name) for name in names])
    found = jax.jit(apply_operations)(flat, numbers, np.full(3, 0.5, np.float32))
    np.testing.assert_array_equal(found, flat)


def test_strengths_are_the_published_ones():
    of = lambda name: STRENGTHS[OPERATIONS.index(name)]
    assert of("ShearX")[[0, -1]].tolist() == [0, 0.99] and of("Rotate")[-1] == 135
    assert of("Posterize").tolist() == [8 - round(i / 5) for i in range(31)]
    assert of("Solarize")[[0, -1]].tolist() == [255, 0] and of("TranslateY")[-1] == 32
    assert not of("Equalize").any() and len(OPERATIONS) == 14


def test_every_image_draws_its_own_operation():
    images = pictures(140, seed=1)
    augment = jax.jit(trivial_augment_wide)
    first = np.asarray(augment(jax.random.key(0), images))
    again = np.asarray(augment(jax.random.key(0), images))
    other = np.asarray(augment(jax.random.key(1), images))
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.uint8 and first.shape == images.shape
    changed = (first != images).any(axis=(1, 2, 3))
    # Identity (1/14) and strengths of 0 change nothing: about 10% of the images.
    assert 0.75 < changed.mean() < 0.99
    assert (first != other).any(axis=(1, 2, 3)).mean() > 0.75


def test_random_erasing_draws_rectangles_of_the_asked_size():
    images = np.ones((2000, 24, 32, 1), np.float32)
    out = np.asarray(jax.jit(random_erasing)(jax.random.key(0), images))
    erased = out[..., 0] == 0
    hit = erased.any(axis=(1, 2))
    # Standard error of a share of 0.25 over 2,000 images: 0.0097.
    assert abs(hit.mean() - 0.25) < 0.04
    heights, widths = erased[hit].any(axis=2).sum(axis=1), erased[hit].any(axis=1).sum(axis=1)
    assert (erased[hit].sum(axis=(1, 2)) == heights * widths).all()  # full rectangles
    # Rounded sides: half a pixel each.
    low, high = 0.02 * 24 * 32, 0.2 * 24 * 32
    assert ((heights + 0.5) * (widths + 0.5) >= low).all()
    assert ((heights - 0.5) * (widths - 0.5) <= high).all()
    assert ((heights + 0.5) / (widths - 0.5) >= 0.3).all()
    assert ((heights - 0.5) / (widths + 0.5) <= 3.3).all()
    log_aspect = np.log(heights / widths)
    assert abs(log_aspect.mean()) < 0.12 and log_aspect.std() > 0.5  # uniform on +-1.2
    area = heights * widths / (24 * 32)
    assert abs(area.mean() - 0.11) < 0.015  # uniform on 0.02 to 0.2


def test_random_erasing_of_all_and_none():
    images = jnp.ones((16, 8, 8, 3), jnp.uint8)
    key = jax.random.key(0)
    erase = jax.jit(
        random_erasing, static_argnames=("probability", "area", "aspect", "value", "tries")
    )
    none = erase(key, images, probability=0.0)
    np.testing.assert_array_equal(none, images)
    every = erase(key, images, probability=1.0, value=9)
    assert every.dtype == jnp.uint8
    assert ((every == 9).any(axis=(1, 2, 3))).all() and ((every == 1).any(axis=(1, 2, 3))).all()
    # A rectangle that never fits leaves the image alone.
    same = erase(key, images, probability=1.0, area=(1.5, 2.0), aspect=(1.0, 1.0))
    np.testing.assert_array_equal(same, images)


def test_bad_input_is_named():
    images, key = np.zeros((2, 8, 8, 3), np.uint8), jax.random.key(0)
    cases = {
        r"uint8 of shape \[b, h, w, 3\].*got float32": lambda: trivial_augment_wide(
            key, images.astype(np.float32)
        ),
        r"got uint8 of shape \(8, 8, 3\)": lambda: trivial_augment_wide(key, images[0]),
        r"shape \[b, h, w, c\]": lambda: random_erasing(key, images[0]),
        r"probability must lie in \[0, 1\]": lambda: random_erasing(key, images, probability=2.0),
        r"ranges \(low, high\)": lambda: random_erasing(key, images, area=(0.3, 0.2)),
    }
    for message, call in cases.items():
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.slow
def test_options_of_random_erasing_may_be_jax_scalars_inside_jit():
    images = np.full((4, 8, 8, 3), 9, np.uint8)
    key, options = jax.random.key(0), {"area": (jnp.float32(0.1), jnp.float32(0.2))}
    options |= {"aspect": (jnp.float32(0.5), 2.0), "probability": jnp.float32(1.0)}
    inside = jax.jit(lambda key: random_erasing(key, images, **options))(key)
    plain = {"area": (0.1, 0.2), "aspect": (0.5, 2.0), "probability": 1.0}
    np.testing.assert_array_equal(inside, random_erasing(key, images, **plain))
    assert (np.asarray(inside) == 0).any()
    wrong = jnp.float32(1.5)
    with pytest.raises(ValueError, match="probability must lie"):
        jax.jit(lambda key: random_erasing(key, images, probability=wrong))(key)
    traced = jax.jit(lambda key, p: random_erasing(key, images, probability=p))
    np.testing.assert_array_equal(traced(key, 0.0), images)


@pytest.mark.slow
def test_no_rank_is_promoted_silently():
    images = np.random.default_rng(0).integers(0, 256, (6, 9, 8, 3), np.uint8)
    with jax.numpy_rank_promotion("raise"):
        for given in (images, images[..., :1]):
            augment = jax.jit(lambda key, x: random_erasing(key, trivial_augment_wide(key, x)))
            assert augment(jax.random.key(0), given).shape == given.shape
        for prepare in (normalise, squeezenet_input, efficientnet_input):
            assert prepare(images).shape == images.shape
