r"""What the group penalty adds to a training step: WideResNet, and ResNet-50 with 15,000 maps.

python tests/bench/groups.py [--repeats 7] [--full]

Both steps, with the penalty and without, are timed in turn in one process: median of the times
after warm-up, results waited for. Batches and images are reduced to what two cores do in seconds.
--full compiles the paper's sizes, too (minutes), and takes the ratio of the FLOPs from the
compiled programs.
"""

import argparse
import functools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import monojax as mj
from monojax.models import ResNet50, WideResNet
from monojax.training import Table, create_state
from monojax.training.steps import train_step
from monojax.training.workdir import machine

GAMMA, MU = 5.0, 10.0
OPTIMIZER = optax.sgd(1e-3, momentum=0.9)
# name: (module, classes, (batch, side) timed, (batch, side) of the paper, allowed share)
CASES = {
    "WRN-28-10, 640 maps": (WideResNet(10, 28, 10, 0.3), 10, (4, 16), (64, 32), 0.05),
    "ResNet-50, 15,000 maps": (ResNet50(maps=15_000), 1000, (2, 96), (256, 224), 0.03),
}


def loss_of(model, num_classes, form):
    """Cross-entropy, with the group penalty unless ``form`` is None."""

    def loss(params, model_state, batch, key, axis_name):
        variables = {"params": params, **model_state}
        maps, state = model.apply(
            variables,
            batch["x"],
            True,
            method="features",
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        head = lambda a: model.apply({"params": params}, a, method="head")
        value = optax.softmax_cross_entropy_with_integer_labels(head(maps), batch["y"]).mean()
        if form is not None:
            options = {"head": head} if form == "gradient" else {}
            value += GAMMA * mj.group_penalty(
                maps, batch["y"], num_classes, MU, form=form, **options
            )
        return value, (state, {})

    return loss


def step_of(model, num_classes, form):
    """The training step of `monojax.training`, without donation: it is called again and again."""
    loss = loss_of(model, num_classes, form)
    return jax.jit(lambda state, batch: train_step(loss, OPTIMIZER, state, batch))


def arguments(model, num_classes, size, shapes_only=False):
    """A state and a batch of a size; only their shapes, if asked."""
    batch_size, side = size

    def make(key):
        batch = {
            "x": jnp.zeros((batch_size, side, side, 3)),
            "y": jnp.zeros((batch_size,), jnp.int32),
        }
        variables = model.init(key, batch["x"][:1])
        state = {"batch_stats": variables["batch_stats"]}
        return create_state(key, variables["params"], OPTIMIZER, state), batch

    shapes = jax.eval_shape(make, jax.random.key(0))
    if shapes_only:
        return shapes
    rng = np.random.default_rng(0)  # compiling the network's own start takes longer than a step

    def fill(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        if leaf.dtype == jnp.int32:
            return jnp.asarray(
                rng.integers(0, num_classes, leaf.shape) * bool(leaf.shape), leaf.dtype
            )
        return jnp.asarray(0.02 * np.abs(rng.standard_normal(leaf.shape, np.float32)) + 0.001)

    return jax.tree.map(fill, shapes)


def medians(calls, repeats):
    """Median seconds of each call, taken in turn; the first round is not counted."""
    times = {name: [] for name in calls}
    for i in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if i:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def flops(step, args):
    """FLOPs of the compiled step."""
    cost = step.lower(*args).compile().cost_analysis()
    return (cost[0] if isinstance(cost, list) else cost)["flops"]


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", default="", help="part of a case's name")
    parser.add_argument("--forms", default="gradient,activation", help="of the penalty")
    options = parser.parse_args()
    header = ["network", "form", "size", "ms plain", "ms with penalty", "added %", "allowed %"]
    table = Table([*header, "FLOPs added %, this size", "FLOPs added %, paper's size"])
    for name, (model, num_classes, size, paper, allowed) in CASES.items():
        if options.only not in name:
            continue
        args = arguments(model, num_classes, size)
        forms = (None, *options.forms.split(","))
        programs = {
            form: step_of(model, num_classes, form).lower(*args).compile() for form in forms
        }
        calls = {form: functools.partial(p, *args) for form, p in programs.items()}
        times = medians(calls, options.repeats)
        here = {}
        for form, program in programs.items():
            cost = program.cost_analysis()
            here[form] = (cost[0] if isinstance(cost, list) else cost)["flops"]
        full = {}
        if options.full:
            shapes = arguments(model, num_classes, paper, shapes_only=True)
            full = {form: flops(step_of(model, num_classes, form), shapes) for form in forms}
        for form in forms[1:]:
            added = times[form] / times[None] - 1
            table.add(
                name,
                form,
                f"{size[0]} x {size[1]}x{size[1]}",
                f"{1e3 * times[None]:.0f}",
                f"{1e3 * times[form]:.0f}",
                f"{100 * added:+.1f}",
                f"{100 * allowed:.0f}",
                f"{100 * (here[form] / here[None] - 1):+.3f}",
                f"{100 * (full[form] / full[None] - 1):+.4f}" if full else "",
            )
    print(table.markdown())
    print(machine())


if __name__ == "__main__":
    main()
