"""Against captum, zennit and quantus on a network with copied weights, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from split_nets import Plain, build, example

from monojax import attribution
from monojax.attribution import metrics

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch")

# Same formulas in float64; sums over a few hundred terms in another order.
ATOL = 1e-9
# Quantus rounds images to float32 on their way to the model: 6e-8 of pixels and logits of a few.
IN_FLOAT32 = 3e-6


def declare_torchvision_operators():
    """zennit and quantus import torchvision, whose wheel expects another build of torch."""
    try:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except RuntimeError:
        return None  # declared already
    return library


LIBRARY = declare_torchvision_operators()


class ToRows(torch.nn.Module):
    """Flatten in linen's order: positions first, channels last."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1)


@pytest.fixture
def nets(x64):
    """Our function, the torch module, and one image for each."""
    module = Plain()
    variables, x = build(module)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(2, 5, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(5, 6, 3, padding=1),
        torch.nn.ReLU(),
        ToRows(),
        torch.nn.Linear(96, 8),
        torch.nn.ReLU(),
        torch.nn.Linear(8, 4),
    ).double()
    for name, index in [("first", 0), ("second", 3), ("hidden", 6), ("out", 8)]:
        params = jax.tree.map(np.array, variables["params"][name])
        axes = (3, 2, 0, 1) if params["kernel"].ndim == 4 else (1, 0)
        layers[index].weight.data = torch.tensor(params["kernel"].transpose(axes).copy())
        layers[index].bias.data = torch.tensor(params["bias"])
    image = torch.tensor(np.moveaxis(np.array(x), -1, 0)[None].copy())
    fn = example(module, variables)
    with torch.no_grad():
        np.testing.assert_allclose(layers(image)[0].numpy(), fn(x), atol=1e-10)
    return fn, x, layers.eval(), image


def rows(tensor):
    """`[1, c, h, w]` of torch as `[h, w, c]`."""
    return np.moveaxis(tensor.detach().numpy()[0], 0, -1)


def test_captum_guided_backprop_and_integrated_gradients(nets):
    captum = pytest.importorskip("captum.attr")
    fn, x, net, image = nets
    guided = captum.GuidedBackprop(net).attribute(image.clone().requires_grad_(), target=2)
    ours = attribution.guided_backprop(fn, x, 2, reduce="none")
    np.testing.assert_allclose(ours, rows(guided), atol=ATOL)
    integrated = captum.IntegratedGradients(net).attribute(image, target=1, n_steps=40)
    ours = attribution.integrated_gradients(fn, x, 1, steps=40, reduce="none")
    np.testing.assert_allclose(ours, rows(integrated), atol=ATOL)


def test_captum_grad_cam(nets):
    captum = pytest.importorskip("captum.attr")
    fn, x, net, image = nets
    cam = captum.LayerGradCam(net, net[3]).attribute(
        image, target=1, attribute_to_layer_input=True, relu_attributions=True
    )
    ours = attribution.grad_cam(fn, x, 1, layer="second")
    np.testing.assert_allclose(ours, cam[0, 0].detach().numpy(), atol=ATOL)


@pytest.mark.parametrize("rule", ["epsilon", "gamma", "zplus"])
def test_zennit_rules(nets, rule):
    pytest.importorskip("torchvision")
    rules = pytest.importorskip("zennit.rules")
    core = pytest.importorskip("zennit.core")
    fn, x, net, image = nets
    hook = {
        "epsilon": lambda: rules.Epsilon(epsilon=1e-6),
        "gamma": lambda: rules.Gamma(gamma=0.25, stabilizer=1e-6),
        "zplus": lambda: rules.ZPlus(stabilizer=1e-6),
    }[rule]

    def mapping(ctx, name, module):
        return hook() if isinstance(module, torch.nn.Conv2d | torch.nn.Linear) else None

    image = image.clone().requires_grad_()
    with core.Composite(mapping).context(net) as modified:
        out = modified(image)
        seed = torch.zeros_like(out)
        seed[0, 2] = out[0, 2].detach()
        (relevance,) = torch.autograd.grad(out, image, seed)
    ours = attribution.lrp(fn, x, 2, rule=rule, gamma=0.25, reduce="none")
    np.testing.assert_allclose(ours, rows(relevance), atol=1e-7 * np.abs(rows(relevance)).max())


@pytest.fixture
def quantus(nets):
    pytest.importorskip("torchvision")
    return pytest.importorskip("quantus")


class InDouble(torch.nn.Module):
    """Quantus hands over float32."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x.double())


def batch_of(nets, attributions):
    """One example as quantus takes it."""
    _, _, net, image = nets
    net = InDouble(net).eval()
    return dict(
        model=net,
        x_batch=image.numpy(),
        y_batch=np.array([2]),
        a_batch=np.array(attributions)[None, None],
        device="cpu",
        channel_first=True,
    )


OPTIONS = dict(disable_warnings=True, display_progressbar=False)


def test_quantus_faithfulness(nets, quantus):
    fn, x, _, _ = nets
    a = np.random.default_rng(0).normal(size=(8, 8))
    # 3 does not divide 8: both pad by 0 in front and 1 behind.
    for size, softmax in [(2, False), (3, False), (2, True)]:
        given = batch_of(nets, a) | dict(softmax=softmax)
        theirs = quantus.Selectivity(patch_size=size, **OPTIONS)(**given)
        ours = metrics.selectivity(fn, x, 2, a, patch_size=size, softmax=softmax)
        np.testing.assert_allclose(ours.scores, np.array(theirs[0]), atol=IN_FLOAT32)
    # Quantus sorts a pixel's equal channels in any order: whole pixels are no ties.
    entries = np.random.default_rng(1).normal(size=(2, 8, 8))
    given = batch_of(nets, a) | dict(a_batch=entries[None])
    theirs = quantus.PixelFlipping(features_in_step=8, **OPTIONS)(**given)
    ours = metrics.pixel_flipping(fn, x, 2, np.moveaxis(entries, 0, -1), features_in_step=8)
    np.testing.assert_allclose(ours.scores, np.array(theirs[0]), atol=IN_FLOAT32)


def test_quantus_localisation(nets, quantus):
    a = np.random.default_rng(0).normal(size=(8, 8))
    mask = np.zeros((8, 8), bool)
    mask[2:6, 1:5] = True
    given = batch_of(nets, a) | dict(s_batch=mask[None, None])
    theirs = quantus.AttributionLocalisation(**OPTIONS)(**given)
    np.testing.assert_allclose(metrics.attribution_localisation(a, mask), theirs[0], atol=ATOL)
    for sign in (1, -1):
        given = batch_of(nets, sign * a) | dict(s_batch=mask[None, None])
        theirs = quantus.PointingGame(**OPTIONS)(**given)
        assert bool(metrics.pointing_game(sign * a, mask)) == bool(theirs[0])


def test_quantus_max_sensitivity(nets, quantus):
    """The same noise, drawn beforehand, for both."""
    fn, x, _, _ = nets
    explain = jax.jit(lambda x: attribution.gradient(fn, x, 2, reduce="none"))
    key, samples = jax.random.key(0), 6
    keys = jax.random.split(key, samples)
    noise = [jax.random.uniform(k, x.shape, x.dtype, -0.2, 0.2) for k in keys]
    queue = iter([np.moveaxis(np.array(e), -1, 0).reshape(1, -1) for e in noise])

    def perturb(arr, indices, **_):
        return arr + next(queue)

    def explain_batch(model, inputs, targets, **_):
        maps = [explain(jnp.asarray(np.moveaxis(image, 0, -1))) for image in inputs]
        return np.stack([np.moveaxis(np.array(a), -1, 0) for a in maps])

    given = batch_of(nets, np.zeros((8, 8))) | dict(a_batch=None, explain_func=explain_batch)
    metric = quantus.MaxSensitivity(nr_samples=samples, perturb_func=perturb, **OPTIONS)
    theirs = metric(**given)
    ours = metrics.max_sensitivity(key, explain, x, samples=samples)
    np.testing.assert_allclose(ours, theirs[0], atol=ATOL)
