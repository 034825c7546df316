"""Rendered scenes against float64 geometry of their own: rays marched point by point in numpy."""

import colorsys
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from monojax.data import MissingDataError, shapes3d
from monojax.data.shapes3d import FACTORS, Scene

NUM = 24
SHARP = Scene(light_radius=1e-3)


@pytest.fixture(scope="module")
def drawn():
    """Programs for 24 scenes of 64 pixels, compiled once."""
    pictures = jax.jit(lambda f: (shapes3d.render(f), shapes3d.object_mask(f)))
    return lambda rows: tuple(map(np.asarray, pictures(np.asarray(rows, np.float32))))


def scenes(**columns):
    """24 scenes that differ in the named factors only."""
    rows = np.tile(np.array([0.1, 0.45, 0.8, 1.0, 0.0, 12.0]), (NUM, 1))
    for name, values in columns.items():
        rows[:, FACTORS.index(name.replace("_", " "))] = values
    return rows


def hue(pixel):
    return colorsys.rgb_to_hsv(*map(float, pixel))[0]


def test_colours_have_their_hues(drawn):
    """Bottom left is floor, the upper middle wall, the middle object, at every orientation."""
    rng = np.random.default_rng(0)
    rows = scenes(shape=np.arange(NUM) % 4, orientation=np.linspace(-30, 30, NUM))
    rows[:, :3] = rng.random((NUM, 3))
    rows[:, 3] = 1 + 0.2 * rng.random(NUM)
    images, _ = drawn(rows)
    assert images.dtype == np.float32 and images.min() >= 0 and images.max() <= 1
    for image, row in zip(images, rows, strict=True):
        for pixel, want in zip((image[60, 3], image[8, 4], image[36, 30]), row, strict=False):
            gap = (hue(pixel) - want + 0.5) % 1 - 0.5
            assert abs(gap) < 2e-3, (want, pixel)


def test_the_silhouette_grows_with_the_scale(drawn):
    scale = np.tile(np.linspace(0.75, 1.25, 6), 4)
    _, masks = drawn(scenes(scale=scale, shape=np.repeat(np.arange(4), 6)))
    areas = masks.sum((1, 2)).reshape(4, 6)
    assert (np.diff(areas, axis=1) > 0).all()
    # Like the square of the scale, a little more because larger objects reach nearer.
    assert np.all(areas[:, -1] > 2.4 * areas[:, 0]) and np.all(areas[:, -1] < 4 * areas[:, 0])


def test_the_mask_is_what_changes_with_the_objects_hue(drawn):
    shape, turn = np.arange(NUM) % 4, np.linspace(-30, 30, NUM)
    one, masks = drawn(scenes(shape=shape, orientation=turn, object_hue=0.2))
    other, same = drawn(scenes(shape=shape, orientation=turn, object_hue=0.7))
    np.testing.assert_array_equal(masks, same)
    changed = np.abs(one - other).max(-1) > 1e-6
    assert changed[masks].all()
    # What else changes is covered in part: it touches the mask.
    grown = masks.copy()
    for axis in (1, 2):
        grown |= np.roll(grown, 1, axis) | np.roll(grown, -1, axis)
    assert not (changed & ~grown).any()
    assert (changed & ~masks).sum() > 0


def project(point, turn, size=64, scene=SHARP):
    """Column and row of a point, by a camera written once more."""
    turn, tan = np.radians(turn), np.tan(np.radians(scene.field_of_view) / 2)
    ahead = np.array([-np.sin(turn), 0, np.cos(turn)])
    place = np.array([0, scene.height, 0]) - scene.distance * ahead
    sight = np.array([0, scene.look_at, 0]) - place
    sight = sight / np.linalg.norm(sight)
    right = np.array([np.cos(turn), 0, np.sin(turn)])
    up = np.cross(sight, right)  # y up, x right, z ahead: left-handed
    seen = np.asarray(point) - place
    x, y = seen @ right / (seen @ sight), seen @ up / (seen @ sight)
    return (x / tan + 1) * size / 2 - 0.5, (1 - y / tan) * size / 2 - 0.5


def test_orientation_turns_the_corner_of_the_wall(drawn):
    """Brightness jumps in the column where a camera of the test's own sees the corner."""
    turns = np.concatenate([np.linspace(-30, -12, 12), np.linspace(12, 30, 12)])
    images, _ = drawn(scenes(orientation=turns, scale=0.75))
    columns = []
    for image, turn in zip(images, turns, strict=True):
        side = -np.sign(turn)  # turning to the right brings the left corner in
        column, row = project((5 * side, 2.4, 5.0), turn)
        jumps = np.abs(np.diff(image[round(row)].sum(-1)))
        assert abs(jumps.argmax() + 0.5 - column) <= 1, turn
        columns.append(column)
    assert (np.diff(columns[:12]) > 0).all() and (np.diff(columns[12:]) > 0).all()


def inside(points, shape, scale):
    """Which points lie in the object, by its definition."""
    x, y, z = np.moveaxis(points, -1, 0)
    flat = np.hypot(x, z)
    if shape == 0:
        r = 0.7 * scale
        return (abs(x) < r) & (abs(y - r) < r) & (abs(z) < r)
    if shape == 1:
        return (flat < 0.7 * scale) & (abs(y - 0.75 * scale) < 0.75 * scale)
    if shape == 2:
        return np.sqrt(flat**2 + (y - 0.85 * scale) ** 2) < 0.85 * scale
    above = abs(y - scale) - 0.42 * scale
    return np.hypot(flat, np.maximum(above, 0)) < 0.58 * scale


def march(start, direction, low, high, shape, scale, steps=300):
    """Whether a ray meets the object between two depths."""
    hit = np.zeros(direction.shape[:-1], bool)
    for t in np.linspace(low, high, steps):
        hit |= inside(start + t * direction, shape, scale)
    return hit


@pytest.mark.parametrize("shape", range(4))
def test_silhouette_and_shadow_are_those_of_marched_rays(shape):
    """All pixels but those on an edge, which the marched points decide by a hair."""
    size, turn, scale = 32, 20.0, 1.1
    tan = np.tan(np.radians(23))
    grid = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(grid * tan, -grid * tan)
    angle = np.radians(turn)
    ahead = np.array([-np.sin(angle), 0, np.cos(angle)])
    place = np.array([0, 2.1, 0]) - 4.5 * ahead
    sight = (np.array([0, 0.75, 0]) - place) / np.linalg.norm(np.array([0, 0.75, 0]) - place)
    right = np.array([np.cos(angle), 0, np.sin(angle)])
    up = np.cross(sight, right)
    direction = sight + x[..., None] * right + y[..., None] * up
    factors = np.tile(np.float32([0.1, 0.45, 0.8, scale, shape, turn]), (1, 1))
    mask = np.asarray(shapes3d.object_mask(factors, size))[0]
    hit = march(place, direction, 2.0, 7.5, shape, scale)
    assert (mask != hit).sum() <= 3 and mask.sum() > 60
    # The floor where it is seen, and whether the lamp is.
    depth = np.where(direction[..., 1] < 0, -place[1] / direction[..., 1], np.inf)
    floor = place + np.minimum(depth, 50)[..., None] * direction
    seen = (depth < 50) & (np.abs(floor[..., [0, 2]]) < 4.9).all(-1) & ~hit
    light = np.array(SHARP.light) - floor
    dark = march(floor, light, 0.002, 0.6, shape, scale)
    image = np.asarray(shapes3d.render(factors, size, scene=SHARP))[0].max(-1)
    found = image < 0.6  # 0.45 without the lamp, 0.45 + 0.55 * 0.55 at least with it
    near = np.zeros_like(mask)  # pixels that the object covers in part
    for step in (-1, 0, 1):
        near |= np.roll(hit, step, 0) | np.roll(hit, step, 1)
    check = seen & ~near
    assert (found != dark)[check].sum() <= 4 and dark[check].sum() > 20


@pytest.mark.slow
def test_the_jacobian_is_that_of_finite_differences(x64):
    """In float64; pixels with a kink within the step, such as silhouettes, are left out."""
    rows = jnp.asarray(scenes(shape=np.arange(NUM) % 4, scale=0.9)[:4])
    image = lambda rows: shapes3d.render(rows, 12)
    along = jax.jit(lambda rows, step: jax.jvp(image, (rows,), (step,)))
    step = 1e-6
    for i in (0, 1, 2, 3, 5):
        toward = jnp.zeros_like(rows).at[:, i].set(1.0)
        middle, slope = along(rows, toward)
        ahead, _ = along(rows + step * toward, toward)
        behind, _ = along(rows - step * toward, toward)
        smooth = np.abs(ahead - 2 * middle + behind) < 1e-9
        assert smooth.mean() > 0.95
        np.testing.assert_allclose(
            ((ahead - behind) / (2 * step))[smooth], slope[smooth], atol=1e-3
        )
        assert np.abs(slope).max() > 1e-3


def test_pictures_are_continuous_and_finite(drawn):
    """No pixel jumps: a small step of a factor is a small step of all of them."""
    for name, start, step in (("orientation", -1e-3, 1e-3), ("scale", 1.0, 1e-4)):
        images, _ = drawn(scenes(**{name: start + step * np.arange(NUM), "shape": 0}))
        other, _ = drawn(scenes(**{name: start + step * np.arange(NUM), "shape": 1}))
        images = np.stack([images, other])
        assert np.isfinite(images).all()
        assert np.abs(np.diff(images, axis=1)).max() < 5e-3, name


def test_grid_of_the_published_set():
    grid = shapes3d.factor_grid()
    assert grid.shape == (480_000, 6) and grid.dtype == np.float32
    np.testing.assert_allclose(grid[0], [0, 0, 0, 0.75, 0, -30])
    np.testing.assert_allclose(grid[-1], [0.9, 0.9, 0.9, 1.25, 3, 30], rtol=1e-6)
    assert [len(np.unique(column)) for column in grid[::15].T] == [10, 10, 10, 8, 4, 1]
    assert len(np.unique(grid @ np.float32([1e5, 1e4, 1e3, 1e2, 10, 1]))) > 1000
    drawn = np.asarray(shapes3d.random_factors(jax.random.key(0), 500))
    assert np.isin(drawn[:, 4], range(4)).all() and abs(drawn[:, 5].mean()) < 3
    with pytest.raises(ValueError, match="num must be at least 1"):
        shapes3d.random_factors(jax.random.key(0), 0)


@pytest.mark.slow
def test_scenes_of_their_own_and_half_precision():
    """A light for each image by vmap; bfloat16 in and out; no batch axis; under jit."""
    rows = jnp.asarray(scenes(shape=2)[:2], jnp.float32)
    lights = jnp.asarray([Scene().light, (3.2, 6.0, -2.6)], jnp.float32)
    one = lambda row, light: shapes3d.render(row, 12, scene=Scene(light=light))

    @jax.jit
    def every(rows):
        half = shapes3d.render(rows.astype(jnp.bfloat16), 12)
        return jax.vmap(one)(rows, lights), shapes3d.render(rows, 12), half

    (left, right), plain, half = jax.tree.map(np.asarray, every(rows))
    np.testing.assert_allclose(left, plain[0], atol=1e-6)
    assert np.abs(left - right).max() > 0.1  # the shadow falls to the other side
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(np.float32), plain, atol=0.08)
    flat = jax.eval_shape(lambda row: shapes3d.object_mask(row, 16), np.zeros(6))
    assert flat.shape == (16, 16) and flat.dtype == bool


@pytest.mark.parametrize(
    "column, value, message",
    [
        (0, 1.0, r"factor 0 \(floor hue\) must be in \[0, 1\); hue 1 is hue 0"),
        (2, -0.1, r"object hue.*hue -0.1 is hue 0.9"),
        (3, 1.3, r"\(scale\) must be in \[0.75, 1.25\], got 1.3"),
        (4, 1.5, r"\(shape\) must be one of 0 \(cube\).*got 1.5"),
        (4, 4, "got 4"),
        (5, 31, r"\[-30, 30\] degrees, got 31"),
        (5, np.nan, "orientation.*got nan"),
    ],
)
def test_factors_out_of_range_are_named(column, value, message):
    row = np.array([0.1, 0.45, 0.8, 1.0, 0.0, 12.0])
    row[column] = value
    for draw in (shapes3d.render, shapes3d.object_mask):
        with pytest.raises(ValueError, match=message):
            draw(row)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"must have shape \[..., 6\].*got \(5,\)"):
        shapes3d.render(np.zeros(5))
    for size in (3, 64.0, True):
        with pytest.raises(ValueError, match="size must be an integer of at least 4"):
            shapes3d.render([0, 0, 0, 1, 0, 0], size)


def rows_of(labels):
    """Examples as tensorflow-datasets gives them; the image says which one it is."""
    names = [f"label_{name.replace(' ', '_')}" for name in FACTORS]
    return [
        {"image": np.full((64, 64, 3), i, np.uint8), **dict(zip(names, row, strict=True))}
        for i, row in enumerate(labels)
    ]


def test_published_images_by_their_factors(monkeypatch):
    labels = np.array([[9, 0, 3, 7, 2, 14], [0, 0, 0, 0, 0, 0], [1, 2, 3, 4, 3, 7]])
    asked = []

    def data_source(name, **options):
        asked.append((name, options["split"], options["download"]))
        return rows_of(labels)

    fake = types.SimpleNamespace(
        data_source=data_source, decode=types.SimpleNamespace(SkipDecoding=lambda: None)
    )
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake)
    images = shapes3d.published("somewhere")
    assert len(images) == 3 and asked == [("shapes3d", "train", False)] * 2
    want = np.array([[[0.1, 0.2, 0.3, 0.75 + 4 / 14, 3, 0]], [[0.9, 0, 0.3, 1.25, 2, 30]]])
    found = images.render(want)
    assert found.shape == (2, 1, 64, 64, 3)
    np.testing.assert_allclose(found[:, 0, 0, 0, 0] * 255, [2, 0], atol=1e-4)
    with pytest.raises(ValueError, match=r"factor 0 \(floor hue\) must be one of"):
        images.render([0.15, 0, 0, 1.25, 2, 30])
    with pytest.raises(ValueError, match="size 64, got size=32"):
        images.render(want, 32)
    with pytest.raises(MissingDataError, match="lacks 1 of these"):
        images.render([0.2, 0, 0, 0.75, 0, -30])
    with pytest.raises(ValueError, match="places in the grid"):
        shapes3d.PublishedShapes3D(rows_of(labels + 1))
    fake.data_source = lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError("no folder"))
    with pytest.raises(MissingDataError, match="tfds build shapes3d"):
        shapes3d.published()
