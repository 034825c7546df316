"""ResNet 18, 34, 50: sizes, maps and head, batch norm over devices, torchvision's names."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import monojax as mj
from monojax.models import MNISTNet, ResNet, ResNet18, ResNet34, ResNet50, WideResNet
from monojax.models.pooled import ExtraMaps
from monojax.models.pretrained import PUBLISHED, convert, export, load_pretrained
from monojax.models.resnet import Bottleneck
from monojax.models.wide_resnet import WideBlock


@functools.cache
def small(depth, stem="cifar", maps=0):
    """A narrow network and variables with statistics that are not 0 and 1."""
    model = ResNet(5, 4, stem, depth=depth, maps=maps)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    rng = np.random.default_rng(depth)
    fill = lambda leaf: (0.1 + 0.3 * rng.random(leaf.shape)).astype(np.float32)
    return model, jax.tree.map(fill, shapes)


def images(num=2, size=16):
    return jax.random.normal(jax.random.key(1), (num, size, size, 3))


@pytest.mark.parametrize(
    "model, number",
    # Published: torchvision's documentation; WRN-28-10's 36.5 M in its paper.
    [
        (ResNet18(), 11_689_512),
        (ResNet34(), 21_797_672),
        (ResNet50(), 25_557_032),
        (WideResNet(), 36_479_194),
    ],
)
def test_number_of_parameters(model, number):
    side = 32 if isinstance(model, WideResNet) else 224
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, side, side, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == number


def test_extra_convolution_gives_15000_maps_for_1000_classes():
    model = ResNet50(maps=15_000)
    x = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    maps = jax.eval_shape(functools.partial(model.apply, method="features"), shapes, x)
    assert maps.shape == (2, 7, 7, 15_000)
    assert shapes["params"]["extra"]["conv"]["kernel"].shape == (1, 1, 2048, 15_000)
    assert shapes["params"]["fc"]["kernel"].shape == (15_000, 1000)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model, size, maps",
    [
        (ResNet(5, 4, depth=18, maps=15), 32, (1, 1, 15)),
        pytest.param(ResNet(5, 4, "cifar", depth=50), 16, (2, 2, 128), marks=pytest.mark.slow),
        (WideResNet(5, 10, 1, maps=10), 16, (4, 4, 10)),
    ],
)
def test_head_of_features_is_the_network(model, size, maps):
    x = images(size=size)
    variables = jax.jit(model.init)(jax.random.key(0), x)

    @jax.jit
    def parts(variables, x):
        features = model.apply(variables, x, method="features")
        one = jax.vmap(lambda a: model.apply(variables, a, method="head"))(features)
        together = model.apply(variables, features, method="head")
        return features, one, together, model.apply(variables, x)

    features, one, together, whole = parts(variables, x)
    assert features.shape == (2, *maps) and float(features.min()) >= 0
    # The same sums in another order: float32 rounding.
    np.testing.assert_allclose(one, whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(together, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_mnist_network_has_the_maps_asked_for_and_carries_the_penalty():
    model = MNISTNet(10, maps=20, widths=(3, 4))
    x = jax.random.uniform(jax.random.key(0), (3, 28, 28, 1))
    variables = model.init(jax.random.key(1), x)
    maps = model.apply(variables, x, method="features")
    assert maps.shape == (3, 7, 7, 20) and float(maps.min()) >= 0
    np.testing.assert_allclose(
        model.apply(variables, maps, method="head"), model.apply(variables, x), rtol=1e-6
    )
    labels = np.array([3, 1, 4])
    head = lambda a: model.apply(variables, a, method="head")
    got = mj.group_penalty(maps, labels, 10, 2.0, head=head)
    # The closed form of average pooling and a linear layer, in float64.
    o = 2 * np.float64(variables["params"]["fc"]["kernel"]).T[labels].reshape(3, 10, 2).sum(2)
    want = np.mean(np.log(np.exp(o).sum(axis=1)) - o[np.arange(3), labels])
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("module", [Bottleneck(2, 2), WideBlock(3), ExtraMaps(6, 3)])
@pytest.mark.slow
def test_batch_norm_over_two_devices_is_that_of_the_whole_batch(module):
    """Output and running statistics of 2 x 2 images agree with 4 on one device."""
    x = images(4, 6)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    run = functools.partial(module.apply, train=True, mutable=["batch_stats"])
    want, want_state = jax.jit(run)(variables, x)
    parts = x.reshape(2, 2, *x.shape[1:])

    def over_devices(module, **options):
        run = functools.partial(module.apply, train=True, mutable=["batch_stats"])
        return jax.pmap(run, in_axes=(None, 0), devices=jax.local_devices()[:2], **options)(
            variables, parts
        )

    got, state = over_devices(module.clone(axis_name="batch"), axis_name="batch")
    # Variances are differences of means; float32 rounding through three norms.
    np.testing.assert_allclose(got.reshape(want.shape), want, rtol=1e-4, atol=1e-4)
    for leaf, whole in zip(jax.tree.leaves(state), jax.tree.leaves(want_state), strict=True):
        np.testing.assert_allclose(leaf[0], whole, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(leaf[0], leaf[1])
    alone, _ = over_devices(module)
    assert float(jnp.abs(alone.reshape(want.shape) - want).max()) > 0.05  # its own is another


def test_networks_hand_the_axis_to_every_norm():
    """Traced under an axis name, each batch norm adds one mean over it."""
    for model, norms in ((ResNet(5, 2, "cifar", depth=18, maps=5), 21), (WideResNet(5, 10, 1), 7)):
        synced = model.clone(axis_name="batch")
        variables = jax.eval_shape(model.init, jax.random.key(0), images())
        run = functools.partial(
            synced.apply, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)}
        )
        mapped = jax.pmap(run, axis_name="batch", in_axes=(None, 0))
        x = jax.ShapeDtypeStruct((2, 2, 16, 16, 3), jnp.float32)
        text = str(jax.make_jaxpr(mapped)(variables, x))
        assert text.count("psum") == norms


@pytest.mark.slow
def test_dropout_is_drawn_in_training_only():
    model = WideResNet(5, 10, 1, dropout=0.5)
    x = images()
    variables = jax.jit(model.init)(jax.random.key(0), x)
    keys = [jax.random.key(1), jax.random.key(2), jax.random.key(1)]
    train = jax.jit(
        lambda key: model.apply(
            variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )[0]
    )
    a, b, c = (train(key) for key in keys)
    np.testing.assert_array_equal(a, c)
    assert float(jnp.abs(a - b).max()) > 1e-3
    jax.eval_shape(model.apply, variables, x)  # needs no key


@pytest.mark.parametrize(
    "message, model",
    [
        ("depth must be one of 18, 34, 50, got 101", ResNet(depth=101)),
        ("stem must be", ResNet(stem="tiny")),
        ("use 2000 or 3000 maps", ResNet(maps=2048)),
        ("use 10 or 16", WideResNet(depth=12)),
        ("use 10 or 16", WideResNet(depth=4)),
        ("width must be at least 1", WideResNet(width=0)),
        ("dropout must lie", WideResNet(dropout=1.0)),
        ("use 60 or 70 maps", WideResNet(depth=10, width=1, maps=64)),
    ],
)
def test_bad_options_are_refused(message, model):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), images())


def torch_names(depth):
    """torchvision's names in order, written down from its definition."""
    counts = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}[depth]
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = ["conv1.weight", *(f"bn1.{part}" for part in norm)]
    for stage, count in enumerate(counts, start=1):
        for i in range(count):
            at = f"layer{stage}.{i}"
            for j in range(1, 4 if depth == 50 else 3):
                names += [f"{at}.conv{j}.weight", *(f"{at}.bn{j}.{part}" for part in norm)]
            if i == 0 and (stage > 1 or depth == 50):
                names.append(f"{at}.downsample.0.weight")
                names += [f"{at}.downsample.1.{part}" for part in norm]
    return [*names, "fc.weight", "fc.bias"]


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_names_and_weights_go_there_and_back(depth, tmp_path):
    model, variables = small(depth, "imagenet")
    published = PUBLISHED[f"resnet{depth}"]
    # The table needs names and numbers of axes; the layouts come from the export.
    guess = {
        name: np.zeros((1,) * (4 if "conv" in name or "downsample.0" in name else 1))
        for name in torch_names(depth)
        if not name.endswith("num_batches_tracked")
    }
    tensors = export(variables, published.table(guess))
    assert set(tensors) == set(guess)
    assert tensors["conv1.weight"].shape == (4, 3, 7, 7)
    assert tensors["fc.weight"].shape == (5, 4 * 8 * (4 if depth == 50 else 1))
    back = convert(tensors, published.table(tensors), variables)
    flat, again = (flatten_dict(tree, sep="/") for tree in (variables, back))
    assert flat.keys() == again.keys()
    for path, leaf in flat.items():
        np.testing.assert_array_equal(leaf, again[path])
    tracked = {f"{n}.num_batches_tracked": np.array(3) for n in ("bn1", "layer1.0.bn1")}
    np.savez(tmp_path / "net.npz", **tensors, **tracked)
    module, loaded = load_pretrained(f"resnet{depth}", tmp_path / "net.npz")
    assert module == model
    for path, leaf in flatten_dict(loaded, sep="/").items():
        np.testing.assert_array_equal(leaf, flat[path])


def test_weights_of_another_depth_are_refused(tmp_path):
    _, variables = small(34, "imagenet")
    names = {n: np.zeros((1,) * (4 if "conv" in n or "downsample.0" in n else 1))
             for n in torch_names(34) if not n.endswith("num_batches_tracked")}  # fmt: skip
    tensors = export(variables, PUBLISHED["resnet34"].table(names))
    np.savez(tmp_path / "net.npz", **tensors)
    with pytest.raises(ValueError, match=r"left over: .*layer1_2"):
        load_pretrained("resnet18", tmp_path / "net.npz")
    with pytest.raises(ValueError, match="missing"):
        load_pretrained("resnet50", tmp_path / "net.npz")


@pytest.mark.oracle
@pytest.mark.parametrize("depth", [18, 34, 50])
def test_agrees_with_torchvision(depth, tmp_path):
    """Same weights, same image, same logits and maps; the imagenet stem's odd paddings included."""
    torch = pytest.importorskip("torch", reason="the oracle is torchvision")
    try:  # a wheel of torchvision that was built for another torch misses its operators
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except RuntimeError:
        pass  # declared already
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        pytest.skip(f"the oracle is torchvision: {error}")
    torch.manual_seed(0)
    block = models.resnet.Bottleneck if depth == 50 else models.resnet.BasicBlock
    layers = {18: [2, 2, 2, 2]}.get(depth, [3, 4, 6, 3])
    net = models.resnet.ResNet(block, layers, num_classes=7)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.0)
    net.eval()
    state = {name: value.numpy() for name, value in net.state_dict().items()}
    np.savez(tmp_path / "net.npz", **state)
    model, variables = load_pretrained(f"resnet{depth}", tmp_path / "net.npz")
    x = np.random.default_rng(0).normal(size=(2, 65, 65, 3)).astype(np.float32)
    with torch.no_grad():
        want = net(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
    got = jax.jit(model.apply)(variables, x)
    # float32 through up to 50 layers, relative to the largest logit.
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())
