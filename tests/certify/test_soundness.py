"""Random networks of twelve kinds: no "proved" is contradicted, every "refuted" point violates.

``PYTHONPATH=tests:. python tests/certify/test_soundness.py`` prints the table of docs/certify.md.
"""

import functools
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from certify_nets import ACTIVATIONS, WIDTH, forward, weights_of

from monojax.base.compat import enable_x64
from monojax.certify import certify_monotone

SEEDS = 25
POINTS = 10_000
BUDGET = 600
SLACK = 1e-12
"""Rounding of the judge's float64, relative to the largest slope that it sees."""


@functools.cache
def judge(name):
    """(weights, low, high, directions, key) -> slopes at random and at searched points, steps.

    Slopes are `jax.grad`'s; a step is the change of the value from one point to another that
    differs in one input, whose promised sign needs no derivative at all.
    """

    def run(weights, low, high, directions, key):
        fn = functools.partial(forward, name, weights)
        slope = jax.vmap(jax.grad(fn))
        pick, *keys = jax.random.split(key, 4)
        draw = lambda k, n: low + jax.random.uniform(k, (n, WIDTH), jnp.float64) * (high - low)
        points = draw(keys[0], POINTS)
        worst = lambda x: jnp.where(directions == 0, jnp.inf, directions * jax.grad(fn)(x)).min()

        def step(i, x):
            move = jnp.sign(jnp.nan_to_num(jax.vmap(jax.grad(worst))(x)))
            return jnp.clip(x - move * 0.2 * (high - low) * (1 - i / 50), low, high)

        searched = jax.lax.fori_loop(0, 50, step, draw(keys[1], 256))
        axis = jax.random.randint(pick, (POINTS,), 0, WIDTH)
        along = jax.nn.one_hot(axis, WIDTH, dtype=jnp.float64)
        moved = jnp.where(along > 0, draw(keys[2], POINTS), points)
        rise = (jax.vmap(fn)(moved) - jax.vmap(fn)(points)) * jnp.sign((moved - points).sum(axis=1))
        values = jnp.abs(jax.vmap(fn)(points)).max()
        return slope(points), slope(searched), rise * directions[axis], values

    return jax.jit(run)


@functools.cache
def slope_at(name):
    return jax.jit(jax.grad(functools.partial(forward, name), argnums=1))


def asked(name, seed):
    """(weights, low, high, directions) of one question.

    A third of the networks are monotone, a third is asked for the signs that its slopes have in the
    middle of the box, a third for signs at random.
    """
    rng = np.random.default_rng([seed, 7])
    weights = weights_of(seed, positive=seed % 3 == 0)
    center = rng.standard_normal(WIDTH) * 0.5
    radius = 10 ** rng.uniform(-2, 0.3, WIDTH)
    directions = rng.integers(0, 2, WIDTH)
    directions[rng.integers(WIDTH)] = 1
    if seed % 3 == 1:
        with enable_x64():
            directions = directions * np.sign(slope_at(name)(weights, jnp.asarray(center)))
    elif seed % 3 == 2:
        directions = directions * rng.choice([-1, 1], WIDTH)
    return weights, center - radius, center + radius, directions.astype(int)


def checked(name, seed):
    """The status of one network, after every check."""
    weights, low, high, directions = asked(name, seed)
    found = certify_monotone(
        functools.partial(forward, name, weights), low, high, directions, budget=BUDGET
    )
    with enable_x64():
        ends = [jnp.asarray(v, jnp.float64) for v in (low, high, directions)]
        out = judge(name)(weights, *ends, jax.random.key(seed))
        random, searched, rise, largest = map(np.asarray, out)
        if found.status == "refuted":
            fn = functools.partial(forward, name, weights)
            slope = np.asarray(jax.grad(fn)(jnp.asarray(found.counterexample, jnp.float64)))
            assert (slope * directions).min() < 0, (name, seed)
            return found
    seen = np.concatenate([random, searched])
    slack = SLACK * max(1.0, np.abs(seen).max())
    assert (seen >= found.bounds[:, 0] - slack).all(), (name, seed)
    assert (seen <= found.bounds[:, 1] + slack).all(), (name, seed)
    if found.status == "proved":
        assert (seen * directions).min() >= -slack, (name, seed)
        assert rise.min() >= -SLACK * max(1.0, largest), (name, seed)
    return found


def survey(names, seeds):
    """Name -> counts of the statuses, boxes and seconds."""
    table = {}
    for name in names:
        begin, cpu = time.perf_counter(), time.process_time()
        found = [checked(name, seed) for seed in range(seeds)]
        row = {s: sum(f.status == s for f in found) for s in ("proved", "refuted", "unknown")}
        row["root"] = sum(f.stage == "bound" for f in found)
        row["boxes"] = sum(f.boxes for f in found)
        row["seconds"], row["cpu"] = time.perf_counter() - begin, time.process_time() - cpu
        table[name] = row
        print(name, row, flush=True)
    return table


@pytest.mark.full
def test_soundness_on_300_random_networks():
    table = survey(ACTIVATIONS, SEEDS)
    total = {key: sum(row[key] for row in table.values()) for key in ("proved", "refuted")}
    count = len(table) * SEEDS
    assert count == 300
    assert total["proved"] >= 0.3 * count and total["refuted"] >= 0.2 * count, total


@pytest.mark.slow
def test_soundness_of_two_kinds():
    for row in survey(["leaky_relu", "group_sort"], 9).values():
        assert row["proved"] >= 1 and row["refuted"] >= 1


if __name__ == "__main__":
    table = survey(sys.argv[1:] or ACTIVATIONS, SEEDS)
    print("| network | proved | at the root | refuted | unknown | boxes | CPU s |")
    print("|---|---|---|---|---|---|---|")
    for name, row in table.items():
        cells = [row[key] for key in ("proved", "root", "refuted", "unknown", "boxes")]
        print(f"| {name} | {' | '.join(map(str, cells))} | {row['cpu']:.0f} |")
