"""Which axis holds channels is followed from the convolutions, or asked for; never guessed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import monojax as mj
from monojax import attribution
from monojax.attribution import metrics

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(4, 3, 3, 3)).astype(np.float32)
LINE = RNG.normal(size=(4, 3, 5)).astype(np.float32)
IMAGE = RNG.normal(size=(3, 15, 20)).astype(np.float32)


def conv(x):
    """Channels first."""
    return jax.lax.conv(x, KERNEL, (1, 1), "SAME")


def head(y):
    return y[0].max((1, 2))


def pooled(x):
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 2), (1, 3, 2), "VALID")


def shape_of(fn, x, **options):
    """Of a gradient's map; nothing is computed."""
    return jax.eval_shape(lambda x: attribution.gradient(fn, x, 0, **options), x).shape


FIRST = {
    "pad": lambda x: conv(jnp.pad(x, ((0, 0), (1, 1), (1, 1)))[None]),
    "crop": lambda x: conv(x[:, 2:-2, 3:][None]),
    "every second": lambda x: conv(x[:, ::2, ::-1][None]),
    "reshape": lambda x: conv(x.reshape(1, 3, 15, 20)),
    "concatenate": lambda x: conv(jnp.concatenate([x[:1], 2 * x[1:]])[None]),
    "stack": lambda x: conv(jnp.stack([x, -x]))[:1],
    "pool": lambda x: conv(pooled(x)[None]),
    "resize": lambda x: conv(jax.image.resize(x, (3, 10, 10), "bilinear")[None]),
    "take": lambda x: conv(jnp.take(x, jnp.array([2, 1, 0]), axis=0)[None]),
    "jit": lambda x: conv(jax.jit(lambda x: jnp.pad(x, ((0, 0), (2, 0), (0, 0))))(x)[None]),
    "remat": lambda x: jax.checkpoint(lambda x: conv(jnp.tanh(x)))(x[None]),
    "scan": lambda x: jax.lax.scan(lambda c, _: (conv(c)[:, :3], None), x[None], length=2)[0],
    "cond": lambda x: conv(jax.lax.cond(x[0, 0, 0] > 0, jnp.tanh, jnp.sin, x)[None]),
    "standardised": lambda x: conv(((x - x.mean((1, 2), keepdims=True)) / 2)[None]),
    "branches": lambda x: conv(x[None]) + conv(jnp.pad(x[:, 1:], ((0, 0), (1, 0), (0, 0)))[None]),
}


@pytest.mark.parametrize("name", FIRST)
def test_axes_are_followed_to_the_input(name):
    """[3, 15, 20] gives [15, 20], and the same image with channels last gives the same."""
    fn = lambda x: head(FIRST[name](x))
    assert shape_of(fn, IMAGE) == (15, 20)
    last = lambda x: fn(x.transpose(2, 0, 1))
    assert shape_of(last, IMAGE.transpose(1, 2, 0)) == (15, 20)
    turned = lambda x: fn(x.transpose(1, 2, 0))  # rows, columns and channels as [w, c, h]
    assert shape_of(turned, IMAGE.transpose(2, 0, 1)) == (20, 15)
    assert shape_of(fn, IMAGE, reduce="none") == (15, 20, 3)


def test_the_map_is_the_gradient_over_the_channel_axis():
    fn = lambda x: head(FIRST["pad"](x))
    got = jax.jit(lambda x: attribution.gradient(fn, x, 2))(IMAGE)
    want = jax.jit(jax.grad(lambda x: fn(x)[2]))(IMAGE).mean(0)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_other_shapes_than_images():
    """A series [c, t], a grey image, a batch axis of one, a volume read slice by slice."""
    series = lambda x: jax.lax.conv_general_dilated(
        jnp.pad(x, ((0, 0), (2, 0)))[None], LINE, (1,), "SAME"
    )[0].max(1)  # fmt: skip
    assert shape_of(series, IMAGE[:, 0]) == (20,)
    grey = lambda x: head(conv(jnp.broadcast_to(x, (3, 15, 20))[None]))
    assert shape_of(grey, IMAGE[0]) == (15, 20)
    assert shape_of(lambda x: head(conv(x[:, :, 1:])), IMAGE[None]) == (15, 20)
    slices = lambda x: jax.vmap(conv)(x[:, None]).max((1, 3, 4)).sum(0)
    with pytest.raises(ValueError, match=r"sees 5 examples.*positions.*channel_axis="):
        shape_of(slices, np.stack([IMAGE] * 5))
    assert shape_of(slices, np.stack([IMAGE] * 5), channel_axis=1) == (5, 15, 20)


UNKNOWN = {
    "no convolution": lambda x: jnp.ones((4, 900)) @ x.reshape(-1),
    "two disagree": lambda x: head(conv(x[None])) + head(conv(x.transpose(1, 0, 2)[:3][None])),
    "mixed": lambda x: head(conv(x.reshape(15, 3, 20).transpose(1, 0, 2)[None])),
    "taken apart": lambda x: head(conv(jnp.stack(jnp.unstack(x, axis=1), axis=1)[None])),
    "cut": lambda x: head(conv(x.reshape(3, 5, 3, 20).transpose(2, 0, 1, 3).reshape(1, 3, 15, 20))),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_cannot_be_followed_is_asked_for(name):
    fn = UNKNOWN[name]
    with pytest.raises(ValueError, match=r"holds channels is not known.*channel_axis="):
        shape_of(fn, IMAGE)
    assert shape_of(fn, IMAGE, channel_axis=0) == (15, 20)
    assert shape_of(fn, IMAGE, channel_axis=-1) == (3, 15)
    assert shape_of(fn, IMAGE, channel_axis="none") == (3, 15, 20)
    assert shape_of(fn, IMAGE, reduce="none") == (3, 15, 20)
    for wrong in (3, "last", 1.0, True):
        with pytest.raises(ValueError, match=r"channel_axis must be an axis .*\(3, 15, 20\)"):
            shape_of(fn, IMAGE, channel_axis=wrong)


def test_every_method_asks_and_takes_the_option(x64):
    fn, image = UNKNOWN["no convolution"], np.float64(IMAGE)
    methods = ["gradient", "gradient_x_input", "guided_backprop", "integrated_gradients", "lrp"]
    methods += ["grad_cam", "grad_cam_pp", "layer_cam", "split_grad", "split_cam", "split_lrp"]
    for name in methods:
        explain = lambda x, name=name, **options: getattr(attribution, name)(
            fn, x, 0, layer=None if name == "integrated_gradients" else "input", **options
        )
        with pytest.raises(ValueError, match="channel_axis="):
            jax.eval_shape(explain, image)
        found = jax.eval_shape(lambda x, e=explain: e(x, channel_axis=0), image)
        assert found.shape == (15, 20), name
    both = attribution.at_layers(fn, image, 0, "gradient", [None], channel_axis=0)
    assert both[0].shape == (15, 20)


@pytest.mark.parametrize("place", ["before", "after", "dense"])
def test_tags_and_products_know_their_axes(place):
    """A tag on [c, h, w] before and after the convolution, a product along the channels."""

    def fn(x):
        x = mj.tag(jnp.tanh(x), "before")
        y = mj.tag(jax.nn.relu(conv(x[None])[0]), "after")
        z = jnp.einsum("oc,chw->ohw", KERNEL[0, :, 0, 1][:, None] * np.ones((3, 4)), y)
        return mj.tag(z, "dense").sum((1, 2))

    for name in ("gradient", "layer_cam"):
        explain = getattr(attribution, name)
        found = jax.eval_shape(lambda x, e=explain: e(fn, x, 0, layer=place), IMAGE)
        assert found.shape == (15, 20)


def test_metrics_know_the_axes_too():
    """Channels first gives the curves of channels last; a map [c, h] is refused."""
    fn = lambda x: head(FIRST["pad"](x))
    last = lambda x: fn(x.transpose(2, 0, 1))
    map_ = RNG.normal(size=(15, 20)).astype(np.float32)
    swapped = IMAGE.transpose(1, 2, 0)
    for curve in (metrics.selectivity, metrics.pixel_flipping):
        options = {"steps": 6, "features_in_step": 30} if curve is metrics.pixel_flipping else {}
        one = jax.jit(lambda x, a, c=curve, o=options: c(fn, x, 1, a, **o).scores)(IMAGE, map_)
        two = jax.jit(lambda x, a, c=curve, o=options: c(last, x, 1, a, **o).scores)(swapped, map_)
        np.testing.assert_allclose(one, two, rtol=1e-5)
        with pytest.raises(ValueError, match=r"map has shape \(3, 15\).*\(15, 20\)"):
            curve(fn, IMAGE, 1, map_[:3, :15])
        with pytest.raises(ValueError, match="channel_axis="):
            curve(UNKNOWN["no convolution"], IMAGE, 1, map_)


@pytest.mark.parametrize(
    ("shape", "size"), [((3, 15), (15, 20)), ((3, 224), (224, 224)), ((14, 64), (224, 224))]
)
def test_a_map_of_other_proportions_is_not_resized_without_a_word(shape, size):
    with pytest.raises(ValueError, match=r"other proportions.*channel_axis=.*stretch=True"):
        attribution.resize(jnp.ones(shape), size)
    assert attribution.resize(jnp.ones(shape), size, stretch=True).shape == size


@pytest.mark.parametrize(
    ("shape", "size"),
    [((14, 14), (224, 224)), ((2, 2), (8, 9)), ((1, 1), (30, 90)), ((7, 4), (28, 28))],
)
def test_maps_of_layers_are_resized(shape, size):
    assert attribution.resize(jnp.ones(shape), size).shape == size


def test_old_spellings_say_the_new_one():
    fn = lambda x: head(FIRST["pad"](x))
    for rule in ("epsilon", "gamma", "zplus"):
        with pytest.raises(ValueError, match=f'method="lrp", rule=.{rule}. now'):
            attribution.at_layers(fn, IMAGE, 0, f"lrp_{rule}", [None])
    with pytest.raises(TypeError, match="gradient has no option 'alpha'; its options are reduce"):
        attribution.at_layers(fn, IMAGE, 0, "gradient", [None], alpha=0.4)
    with pytest.raises(TypeError, match="lrp has no option 'rules'"):
        attribution.lrp(fn, IMAGE, 0, rules="gamma")


def test_known_numbers_of_jax_are_options_inside_jit():
    """Counts and constants that are jax scalars, but known, work where all else is traced."""
    fn = lambda x: head(FIRST["pad"](x))
    three, tiny, part = jnp.int32(3), jnp.float32(1e-6), jnp.float32(0.25)

    def everything(x, a):
        line = attribution.integrated_gradients(fn, x, 1, steps=three, batch_size=three)
        lrp = attribution.lrp(fn, x, 1, rule="gamma", epsilon=tiny, gamma=part)
        cam = attribution.split_cam(fn, x, 1, alpha=part)
        curve = metrics.pixel_flipping(fn, x, 1, a, steps=three, features_in_step=three)
        patches = metrics.selectivity(fn, x, 1, a, patch_size=three, patches_in_step=three)
        return line, lrp, cam, curve.auc, patches.auc, metrics.area(curve.scores, three)

    found = jax.eval_shape(everything, IMAGE, IMAGE[0])
    # SplitCAM is read at the convolution, behind the pad.
    assert [leaf.shape for leaf in found] == [(15, 20), (15, 20), (17, 22), (), (), ()]
    for wrong in (dict(steps=0), dict(batch_size=0)):
        with pytest.raises(ValueError, match="must be at least 1, got 0"):
            attribution.integrated_gradients(fn, IMAGE, 1, **wrong)
    with pytest.raises(TypeError, match="steps must be an integer that is known"):
        jax.jit(lambda n: attribution.integrated_gradients(fn, IMAGE, 1, steps=n))(3)
    less = jnp.float32(-1)
    for name in ("epsilon", "gamma"):
        with pytest.raises(ValueError, match=f"{name} must be >= 0"):
            jax.eval_shape(lambda x, n=name: attribution.lrp(fn, x, 1, **{n: less}), IMAGE)
