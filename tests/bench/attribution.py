"""epsilon-LRP against zennit, and the metrics' own cost against quantus, in one run.

PYTHONPATH=. python tests/bench/attribution.py [--batch 16] [--repeats 5] [--networks vgg16,linear]
    [--removal_only]  # selectivity and pixel flipping, whose time is the network's forward pass

Needs the oracles of BUILD.md (torch, zennit, quantus). VGG16 with the same weights on both sides,
float32, all cores. Overhead is what a metric costs beside the model's calls: the metric's time on
this model minus that of the same number of images through the model alone. A difference of two
timings drowns in noise where the model costs nearly all, so the metrics run a second time on a
network of one linear layer, whose calls cost next to nothing: there the whole time is the overhead.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import torch

from monojax import attribution
from monojax.attribution import metrics
from monojax.attribution.batches import in_batches
from monojax.models import VGG16

PATCH, STEP = 8, 64  # side of selectivity's patches; features per step of pixel flipping


def declare_torchvision_operators():
    """zennit and quantus import torchvision, whose wheel expects another build of torch."""
    try:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except RuntimeError:
        return None
    return library


class ToRows(torch.nn.Module):
    """Flatten in linen's order: positions first, channels last."""

    def forward(self, x):
        """`[b, c, h, w]` to `[b, h w c]`."""
        return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1)


def networks(size):
    """VGG16 in linen and in torch, with the same weights."""
    pooled = max(1, size // 32)
    model = VGG16(1000, dense=(1024, 1024), pooled=pooled)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, size, size, 3)))
    layers, channels = [], 3
    params = jax.tree.map(np.array, variables["params"])
    for name in sorted(params, key=lambda n: (n.startswith("c"), int(n.split("_")[1]))):
        kernel, bias = params[name]["kernel"], params[name]["bias"]
        if name.startswith("features"):
            layer = torch.nn.Conv2d(channels, kernel.shape[-1], 3, padding=1)
            layer.weight.data = torch.tensor(kernel.transpose(3, 2, 0, 1).copy())
            channels = kernel.shape[-1]
            layers += [layer, torch.nn.ReLU()]
            if int(name.split("_")[1]) in (2, 7, 14, 21, 28):
                layers.append(torch.nn.MaxPool2d(2))
        else:
            if name == "classifier_0":
                layers.append(ToRows())
            layer = torch.nn.Linear(*kernel.shape)
            layer.weight.data = torch.tensor(kernel.T.copy())
            layers += [layer, torch.nn.ReLU()]
        layer.bias.data = torch.tensor(bias)
    net = torch.nn.Sequential(*layers[:-1]).eval()
    return (lambda x, v: model.apply(v, x[None])[0]), variables, net


def linear_networks(size, num_classes=10):
    """One linear layer in both frameworks: its calls cost next to nothing."""
    kernel = np.random.default_rng(1).normal(size=(size * size * 3, num_classes)) / size
    layer = torch.nn.Linear(*kernel.shape, bias=False)
    layer.weight.data = torch.tensor(kernel.T.copy(), dtype=torch.float32)
    net = torch.nn.Sequential(ToRows(), layer).eval()
    return (lambda x, v: x.reshape(-1) @ v), jnp.asarray(kernel, jnp.float32), net


def timed(run, repeats):
    """Median seconds, after one warm-up; what run returns first."""
    first = run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)), first


def race_lrp(fn, variables, net, images, labels, repeats):
    """epsilon-LRP of a batch at the input."""
    from zennit.core import Composite
    from zennit.rules import Epsilon

    def mapping(ctx, name, module):
        kinds = torch.nn.Conv2d | torch.nn.Linear
        return Epsilon(epsilon=1e-6) if isinstance(module, kinds) else None

    pictures = torch.tensor(np.moveaxis(images, -1, 1).copy())

    def theirs():
        x = pictures.clone().requires_grad_()
        with Composite(mapping).context(net) as modified:
            out = modified(x)
            seed = torch.zeros_like(out)
            rows = torch.arange(len(out))
            seed[rows, labels] = out[rows, labels].detach()
            return torch.autograd.grad(out, x, seed)[0].numpy()

    one = lambda x, y, v: attribution.lrp(fn, x, y, args=(v,), reduce="none")
    batched = jax.jit(jax.vmap(one, (0, 0, None)))
    ours = lambda: jax.block_until_ready(batched(images, labels, variables))
    slow, want = timed(theirs, repeats)
    quick, got = timed(ours, repeats)
    # epsilon-LRP in float32 divides by sums near zero: compare in the large.
    got, want = np.asarray(got).ravel(), np.moveaxis(want, 1, -1).ravel()
    agree = np.corrcoef(got, want)[0, 1]
    print(f"| epsilon-LRP, zennit / ours | {slow:.2f} s / {quick:.2f} s | {slow / quick:.1f} | "
          f"correlation of the maps {agree:.4f} |", flush=True)  # fmt: skip


class Counted(torch.nn.Module):
    """The network, its calls timed."""

    def __init__(self, net):
        """Starts at no time."""
        super().__init__()
        self.net, self.seconds = net, 0.0

    def forward(self, x):
        """Logits."""
        start = time.perf_counter()
        with torch.no_grad():
            out = self.net(x.float())
        self.seconds += time.perf_counter() - start
        return out


def row(name, theirs, their_model, ours, our_model):
    """One line: whole time, and what is left beside the model."""
    over = max(theirs - their_model, 0.0), max(ours - our_model, 0.0)
    ratio = over[0] / over[1] if over[1] > 1e-6 else float("inf")
    print(f"| {name} | {theirs:.2f} s ({over[0]:.3f} beside the model) / "
          f"{ours:.2f} s ({over[1]:.3f}) | {theirs / ours:.1f} | overhead {ratio:.0f} times less |",
          flush=True)  # fmt: skip


def race_metrics(fn, variables, net, images, labels, repeats, removal_only=False):
    """Each metric on the same maps."""
    import quantus

    rng = np.random.default_rng(0)
    maps = rng.normal(size=images.shape[:3]).astype(np.float32)
    masks = np.zeros(maps.shape, bool)
    masks[:, 16:48, 16:48] = True
    counted = Counted(net).eval()
    given = dict(
        model=counted, x_batch=np.moveaxis(images, -1, 1).copy(), y_batch=labels,
        a_batch=maps[:, None], device="cpu", channel_first=True,
    )  # fmt: skip
    options = dict(disable_warnings=True, display_progressbar=False)

    def theirs(metric, **more):
        counted.seconds = 0.0
        start = time.perf_counter()
        metric(**(given | more))
        return time.perf_counter() - start, counted.seconds

    def ours(one, *arrays):
        run = jax.jit(one)  # image by image, as one calls it
        rows = list(zip(*arrays, strict=True))
        return timed(lambda: jax.block_until_ready([run(*row) for row in rows]), repeats)[0]

    height, width = images.shape[1:3]
    counts = {
        "Selectivity": (height // PATCH) * (width // PATCH),
        "PixelFlipping": -(-images[0].size // STEP),
    }
    programs = {
        "Selectivity": lambda x, y, a: metrics.selectivity(
            fn, x, y, a, args=(variables,), patch_size=PATCH, channel_axis=-1
        ).auc,
        "PixelFlipping": lambda x, y, a: metrics.pixel_flipping(
            fn, x, y, jnp.broadcast_to(a[..., None], x.shape), args=(variables,),
            features_in_step=STEP,
        ).auc,
    }  # fmt: skip
    built = {
        "Selectivity": quantus.Selectivity(patch_size=PATCH, **options),
        "PixelFlipping": quantus.PixelFlipping(features_in_step=STEP, **options),
    }
    for name, metric in built.items():
        runs = [theirs(metric) for _ in range(repeats)]
        whole, model = np.median(np.array(runs), axis=0)
        many = lambda x, n=counts[name]: in_batches(
            lambda k: fn(x + k, variables), jnp.arange(n) * 1e-3, 64
        )
        alone = ours(many, images)
        row(name, whole, model, ours(programs[name], images, labels, maps), alone)
    if removal_only:
        return
    for name, one, metric in (
        ("AttributionLocalisation", metrics.attribution_localisation,
         quantus.AttributionLocalisation(**options)),
        ("PointingGame", metrics.pointing_game, quantus.PointingGame(**options)),
    ):  # fmt: skip
        runs = [theirs(metric, s_batch=masks[:, None]) for _ in range(repeats)]
        whole, model = np.median(np.array(runs), axis=0)
        row(name, whole, model, ours(one, maps, masks), 0.0)

    gradient = lambda x, y: attribution.gradient(
        fn, x, y, args=(variables,), reduce="sum", channel_axis=-1
    )
    compiled = jax.jit(gradient)
    calls = [0.0]

    def explain_batch(model, inputs, targets, **_):
        start = time.perf_counter()
        pairs = zip(inputs, targets, strict=True)
        out = [np.asarray(compiled(np.moveaxis(a, 0, -1), int(t)))[None] for a, t in pairs]
        calls[0] += time.perf_counter() - start
        return np.stack(out)

    some, samples = min(4, len(images)), 8
    few = {k: v[:some] for k, v in given.items() if isinstance(v, np.ndarray)}
    metric = quantus.MaxSensitivity(nr_samples=samples, **options)
    runs = []
    for _ in range(repeats):
        calls[0] = 0.0
        seconds, _ = theirs(metric, **few, explain_func=explain_batch)
        runs.append((seconds, calls[0]))
    whole, explained = np.median(np.array(runs), axis=0)
    sense = lambda x, y: metrics.max_sensitivity(
        jax.random.key(0), lambda x: gradient(x, y), x, samples=samples, batch_size=samples
    )
    each = lambda x, y: in_batches(
        lambda k: gradient(x + k, y), jnp.arange(samples + 1) * 1e-3, samples
    )
    ours_whole = ours(sense, images[:some], labels[:some])
    row("MaxSensitivity (gradient)", whole, explained, ours_whole,
        ours(functools.partial(each), images[:some], labels[:some]))  # fmt: skip


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--networks", default="vgg16,linear")
    parser.add_argument("--removal_only", action="store_true")
    options = parser.parse_args()
    library = declare_torchvision_operators()
    rng = np.random.default_rng(0)
    shape = (options.batch, options.size, options.size, 3)
    images = rng.normal(size=shape).astype(np.float32)
    labels = rng.integers(0, 1000, options.batch)
    print("| what | theirs / ours | ratio | |")
    print("|---|---|---|---|")
    if "vgg16" in options.networks:
        nets = networks(options.size)
        if not options.removal_only:
            race_lrp(*nets, images, labels, options.repeats)
        race_metrics(*nets, images, labels, options.repeats, options.removal_only)
    if "linear" in options.networks:
        print("| on one linear layer: | | | |")
        few = (images, labels % 10, options.repeats, options.removal_only)
        race_metrics(*linear_networks(options.size), *few)
    del library


if __name__ == "__main__":
    main()
