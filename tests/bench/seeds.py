r"""Cost per seed of many seeds in one program, side by side and one after the other.

python tests/bench/seeds.py [--repeats 5]

The epoch of the main job's synthetic problem (D = 100, mixup and none), 20 seeds against one.
"""

import argparse
import functools
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from penalties import medians  # the other file of this folder

from monojax.training import Table, over_seeds
from monojax.training.workdir import machine
from train.arguments import load_config
from train.penalties import experiment as penalties
from train.penalties.data import load_problem

CHUNKS = {"one after the other": 1, "4 side by side": 4, "all side by side": None}


def programs(kind, config, options, problem, model):
    """Compiled epochs: one seed alone, and 20 in each arrangement; with compile times."""
    optimizer = optax.adam(options.lr)
    loss = functools.partial(
        penalties.loss_and_penalty, model, problem.directions, kind, config.penalty
    )
    epoch = functools.partial(
        penalties._epoch, model, loss, optimizer, options.steps_per_epoch, options.batch_size
    )
    data = {k: jnp.asarray(v) for k, v in problem.arrays.items()}
    many = penalties.initial_states(problem, model, config, options)
    one = jax.tree.map(lambda leaf: leaf[:1], many)
    calls, compile_times = {}, {}
    for name, states, chunk in [("1 seed", one, 1), *((n, many, c) for n, c in CHUNKS.items())]:
        start = time.perf_counter()
        program = jax.jit(over_seeds(epoch, batch_size=chunk)).lower(states, data).compile()
        compile_times[name] = time.perf_counter() - start
        calls[name] = functools.partial(
            lambda p, s: jax.block_until_ready(p(s, data)), program, states
        )
    return calls, compile_times


def main(repeats):
    """Prints the table."""
    config = load_config(Path(penalties.__file__).parents[1] / "configs" / "penalties_synthetic.py")
    options = config.problems.synthetic_100
    problem = load_problem("synthetic_100", options)
    model = penalties._model(problem, options)
    table = Table(["penalty", "seeds", "s per epoch and seed", "times 1 seed", "compile s"])
    for kind in ("none", "mixup"):
        calls, compile_times = programs(kind, config, options, problem, model)
        times = medians(calls, repeats)
        for name, seconds in times.items():
            count = 1 if name == "1 seed" else config.seeds
            label = name if count == 1 else f"{count}, {name}"
            per_seed = seconds / count
            ratio = per_seed / times["1 seed"]
            table.add(kind, label, f"{per_seed:.4f}", f"{ratio:.2f}", f"{compile_times[name]:.1f}")
    print(table.markdown())
    print(machine())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    main(parser.parse_args().repeats)
