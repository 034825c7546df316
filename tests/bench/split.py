r"""Cost of the split and of its maps, as a Markdown table.

PYTHONPATH=. python tests/bench/split.py [--width 1.0] [--batch 16] [--size 64] [--repeats 5]
    [--flops-only]

Ratios to the plain forward pass of the same network on the same batch in the same run: median wall
time over interleaved repeats, and XLA's own count of floating-point operations of the compiled
program, which does not depend on what else the machine does. Random He weights, float32.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

import monojax as mj
from monojax import attribution
from monojax.models import VGG16, ResNet18

LAYERS = {"ResNet18": "layer3_1", "VGG16": "features_26"}


def networks(width, size):
    """Both networks with a share of their channels."""
    pooled = max(1, size // 32)
    return {
        "ResNet18": ResNet18(1000, width=max(8, round(64 * width))),
        "VGG16": VGG16(1000, width=width, dense=(round(4096 * width),) * 2, pooled=pooled),
    }


def programs(name, model):
    """What is timed, each a function of (variables, x, classes) over a batch."""
    one = lambda x, v: model.apply(v, x[None])[0]
    batch = lambda x, v: model.apply(v, x)
    layer = LAYERS[name]

    def mapped(method, **options):
        return lambda v, x, y: jax.vmap(lambda x, y: method(one, x, y, args=(v,), **options))(x, y)

    return {
        "forward": lambda v, x, y: batch(x, v),
        "split": lambda v, x, y: tuple(mj.split(batch)(x, v)),
        "split, recentre none": lambda v, x, y: tuple(mj.split(batch, recentre="none")(x, v)),
        "input gradient": mapped(attribution.gradient),
        "split_grad at the input": mapped(attribution.split_grad),
        "split_grad, wta": mapped(attribution.split_grad, pool="wta"),
        "split_grad, balanced": mapped(attribution.split_grad, alpha="balanced"),
        f"split_grad at {layer}": mapped(attribution.split_grad, layer=layer),
        f"split_cam at {layer}": mapped(attribution.split_cam, layer=layer),
        "epsilon-LRP": mapped(attribution.lrp),
    }


def measure(compiled, args, repeats):
    """Median seconds of each program, interleaved so that all see the same machine."""
    times = {name: [] for name in compiled}
    for repeat in range(repeats + 1):
        for name, run in compiled.items():
            begin = time.perf_counter()
            jax.block_until_ready(run(*args))
            if repeat:
                times[name].append(time.perf_counter() - begin)
    return {name: float(np.median(found)) for name, found in times.items()}


def flops(compiled):
    """XLA's count for a compiled program."""
    analysis = compiled.cost_analysis()
    analysis = analysis[0] if isinstance(analysis, list) else analysis
    return analysis["flops"]


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--flops-only", action="store_true")
    options = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, batch {options.batch}, {options.size} px, "
          f"width {options.width:g}, jax {jax.__version__}")  # fmt: skip
    print("| network | program | flops / forward | time / forward | time / gradient | ms |")
    print("|---|---|---|---|---|---|")
    x = jax.random.normal(jax.random.key(0), (options.batch, options.size, options.size, 3))
    y = jnp.arange(options.batch)
    for name, model in networks(options.width, options.size).items():
        variables = jax.jit(model.init)(jax.random.key(1), x[:1])
        wanted = programs(name, model)
        compiled = {key: jax.jit(fn).lower(variables, x, y).compile() for key, fn in wanted.items()}
        count = {key: flops(run) for key, run in compiled.items()}
        seconds = dict.fromkeys(compiled, float("nan"))
        if not options.flops_only:
            seconds = measure(compiled, (variables, x, y), options.repeats)
        for key in compiled:
            ratio, plain = seconds[key] / seconds["forward"], seconds["input gradient"]
            print(
                f"| {name} | {key} | {count[key] / count['forward']:.2f} | {ratio:.2f} "
                f"| {seconds[key] / plain:.2f} | {1e3 * seconds[key]:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
