r"""Ways to solve the stiff inner problem, side by side, as a Markdown table.

PYTHONPATH=. python tests/bench/stiff.py [--dims 10 64 784] [--scales 3 5 10] [--quick]

The problem of `conjugate.py` beside this file, with all weights times 3, 5 and 10. Each method is
an optax transformation with the state of `monojax.conjugate.newton`, run by one counted loop of at
most 100 steps without a stall test. "passes" is "e + p": potential-and-gradient evaluations and
Hessian-vector products (dense methods: plus one Hessian and one factorisation per step), summed
over the steps for the worst sample of each. "cost" is the wall time of the batch over that of one
batched gradient; in brackets the same in CPU seconds.
"""

import argparse
import os
import sys

import conjugate as bench  # sets OpenBLAS's threads before jax is imported
import jax
import jax.numpy as jnp
import numpy as np
import optax

from monojax.conjugate import Solver, newton, softplus
from monojax.conjugate.linear import counted_gradients, dense_solve
from monojax.conjugate.newton import NewtonState
from monojax.conjugate.potentials import ScaledICNN
from monojax.layers import ICNN

MAX_STEPS = 100
DENSE_LIMIT = 16  # as the library: conjugate gradients above


def transformation(model, step):
    """An optax transformation from ``step(state, y) -> (move, state)``."""

    def init(y):
        value, grad, terms = model.expand(y)
        zero = jnp.asarray(0)
        return NewtonState(value, grad, jnp.ones_like(value), terms, zero, zero)

    def update(updates, state, params, **unused):
        del updates, unused
        return step(state, params)

    return optax.GradientTransformationExtraArgs(init, update)


def direction(model, state, shift=0.0):
    """The Newton direction with ``shift`` times I added to the Hessian, and its products."""
    g = state.grad
    if g.shape[0] <= DENSE_LIMIT:
        hessian = model.hessian(state.terms)
        eye = jnp.eye(g.shape[0], dtype=g.dtype)
        return -dense_solve(hessian + shift * eye, g), 0
    hvp = model.hvp(state.terms)
    forcing = 0.2 * jnp.minimum(0.5, jnp.sqrt(jnp.linalg.norm(g)))
    p, count = counted_gradients(lambda v: hvp(v) + shift * v, g, forcing, 100)
    return -p, count


def moved(state, new, step_size, evaluations, products):
    """The state at a new point, counts added."""
    value, grad, terms = new
    return NewtonState(
        value,
        grad,
        step_size,
        terms,
        state.evaluations + evaluations,
        state.products + products,
    )


def halving(model, accept, halvings=12):
    """Newton with halvings until ``accept(state, t, slope, value, grad)``."""

    def step(state, y):
        p, products = direction(model, state)
        slope = state.grad @ p

        def again(s):
            t, (value, grad, _), tries = s
            good = jnp.isfinite(value) & accept(state, t, slope, value, grad)
            return ~good & (tries <= halvings)

        def half(s):
            return s[0] / 2, model.expand(y + s[0] / 2 * p), s[2] + 1

        one = jnp.ones_like(slope)
        t, new, tries = jax.lax.while_loop(again, half, (one, model.expand(y + p), 1))
        return t * p, moved(state, new, t, tries, products)

    return transformation(model, step)


def armijo(state, t, slope, value, grad):
    """Decrease of the value."""
    del grad
    slack = 10 * jnp.finfo(value.dtype).eps * jnp.abs(state.value)
    return value <= state.value + 1e-4 * t * slope + slack


def either(state, t, slope, value, grad):
    """The issue's prototype: decrease of the value or of the residual, whatever the other does."""
    falling = jnp.linalg.norm(grad) < jnp.linalg.norm(state.grad)
    return armijo(state, t, slope, value, grad) | falling


def residual(state, t, slope, value, grad):
    """Decrease of the residual norm, for which Newton's direction is one of descent too."""
    del slope, value
    return jnp.linalg.norm(grad) <= (1 - 1e-4 * t) * jnp.linalg.norm(state.grad)


def trust_region(model):
    """Steihaug's truncated conjugate gradients in a ball; the radius is kept in step_size."""

    def step(state, y):
        hvp, g, radius = model.hvp(state.terms), state.grad, state.step_size
        goal = 0.2 * jnp.minimum(0.5, jnp.sqrt(jnp.linalg.norm(g))) * jnp.linalg.norm(g)

        def to_edge(p, d):
            a, b, c = d @ d, p @ d, p @ p - radius**2
            return p + (jnp.sqrt(jnp.maximum(b * b - a * c, 0)) - b) / a * d

        def body(s):
            p, r, d, rr, count, _ = s
            hd = hvp(d)
            rate = rr / (d @ hd)
            inside = jnp.linalg.norm(p + rate * d) < radius
            p = jnp.where(inside, p + rate * d, to_edge(p, d))
            r = r + rate * hd
            new = r @ r
            stop = ~inside | (jnp.sqrt(new) <= goal)
            return p, r, -r + new / rr * d, new, count + 1, stop

        start = (jnp.zeros_like(g), g, -g, g @ g, 0, False)
        p, _, _, _, count, _ = jax.lax.while_loop(lambda s: ~s[5] & (s[4] < 100), body, start)
        here = (state.value, state.grad, state.terms)
        new = model.expand(y + p)
        expected = -(g @ p + 0.5 * p @ hvp(p))
        slack = 10 * jnp.finfo(g.dtype).eps * jnp.abs(state.value)
        ratio = (state.value - new[0] + slack) / (expected + slack)
        good = jnp.isfinite(new[0]) & (ratio > 1e-4)
        norm = jnp.linalg.norm(p)
        wider = jnp.where((ratio > 0.75) & (norm > 0.9 * radius), 2.5 * radius, radius)
        radius = jnp.where(ratio < 0.25, norm / 4, wider)
        kept = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, here)
        return jnp.where(good, p, 0), moved(state, kept, radius, 1, count + 1)

    first = transformation(model, step)

    def init(y):
        return first.init(y)._replace(step_size=1 + jnp.linalg.norm(y))

    return optax.GradientTransformationExtraArgs(init, first.update)


def regularised(model):
    """Levenberg: shift = s ||g||; s (in step_size) falls by 4 on a good step, rises by 4 else."""

    def step(state, y):
        shift = state.step_size * jnp.linalg.norm(state.grad)
        p, products = direction(model, state, shift)
        new = model.expand(y + p)
        slack = 10 * jnp.finfo(shift.dtype).eps * jnp.abs(state.value)
        good = new[0] <= state.value + 0.1 * (state.grad @ p) + slack
        here = (state.value, state.grad, state.terms)
        kept = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, here)
        size = jnp.where(good, state.step_size / 4, state.step_size * 4)
        return jnp.where(good, p, 0), moved(state, kept, size, 1, products)

    return transformation(model, step)


def lbfgs(model):
    """optax.lbfgs with its zoom search; its state is kept in terms."""
    inner = optax.lbfgs()
    value_fn = lambda y: model.expand(y)[0]

    def init(y):
        value, grad, _ = model.expand(y)
        zero = jnp.asarray(0)
        return NewtonState(value, grad, jnp.ones_like(value), inner.init(y), zero, zero)

    def update(updates, state, params, **unused):
        del unused
        move, new = inner.update(
            updates, state.terms, params, value=state.value, grad=state.grad, value_fn=value_fn
        )
        value, grad, info = (optax.tree_utils.tree_get(new, k) for k in ("value", "grad", "info"))
        count = info.num_linesearch_steps
        return move, moved(state, (value, grad, new), state.step_size, count, 0)

    return optax.GradientTransformationExtraArgs(init, update)


def single(make, far=False):
    """A solve by one transformation; ``far`` starts at x / curvature."""

    def solve(params, x):
        task = bench.inner(params, x)
        start = task.potential.start(task.params, task.x) if far else task.start
        return bench.drive(make(task.model()), start, task.threshold, MAX_STEPS)

    return solve


def merged(runs):
    """One record of several runs in a row."""
    last = runs[-1]
    return last._replace(
        steps=sum(run.steps for run in runs),
        evaluations=jnp.concatenate([run.evaluations for run in runs]),
        products=jnp.concatenate([run.products for run in runs]),
    )


def library(task, model=None, **options):
    """The library's Newton, dense or by conjugate gradients as "auto" picks."""
    model = task.model() if model is None else model
    return newton("dense" if task.x.shape[0] <= DENSE_LIMIT else "cg", model=model, **options)


def staged(stages):
    """Warm-started solves of ``stages(task) -> [(potential, params)]``, loose but the last."""

    def solve(params, x):
        task = bench.inner(params, x)
        steps, runs = stages(task), []
        y = steps[0][0].newton_start(steps[0][1], task.x)
        for i, stage in enumerate(steps):
            loose = 1.0 if i == len(steps) - 1 else 1e3
            method = library(task, task.model(*stage))
            runs.append(bench.drive(method, y, loose * task.threshold, MAX_STEPS))
            y = runs[-1].argmax
        return merged(runs)

    return solve


def in_beta(task):
    """The curvature c = 1 / beta times 100, 10, 1."""
    return [
        (task.potential, {**task.params, "curvature": k * task.params["curvature"]})
        for k in (100.0, 10.0, 1.0)
    ]


def in_softness(task):
    """Softplus sharpness 0.1, 0.3, 1."""
    return [
        (ScaledICNN(ICNN((64, 64), softplus(tau)).maths), task.params) for tau in (0.1, 0.3, 1.0)
    ]


def refined(params, x):
    """In float32 to its own tolerance, then in float64 to 1e-9 (the problem is float64)."""
    task = bench.inner(params, x)
    small = jax.tree.map(lambda a: a.astype(jnp.float32), (task.params, task.x, task.start))
    scale = Solver().threshold(x.astype(jnp.float32))
    rough = task._replace(params=small[0], x=small[1], start=small[2], threshold=scale)
    first = bench.drive(library(rough), rough.start, rough.threshold, MAX_STEPS)
    y = first.argmax.astype(x.dtype)
    return merged([first, bench.drive(library(task), y, task.threshold, MAX_STEPS)])


def searching(far=False, **options):
    """The library's Newton with other options, or from x / curvature."""

    def solve(params, x):
        task = bench.inner(params, x)
        start = task.potential.start(task.params, task.x) if far else task.start
        return bench.drive(library(task, **options), start, task.threshold, MAX_STEPS)

    return solve


METHODS = {
    "library: slope search": searching(),
    "L-BFGS from x / c": single(lbfgs, far=True),
    "slope search from x / c": searching(far=True),
    "slope search, ratio 0.1": searching(slope_ratio=0.1),
    "slope search, ratio 0.9": searching(slope_ratio=0.9),
    "Armijo or residual from x / c": single(lambda m: halving(m, either), far=True),
    "Armijo or residual": single(lambda m: halving(m, either)),
    "Armijo": single(lambda m: halving(m, armijo)),
    "residual search": single(lambda m: halving(m, residual)),
    "trust region": single(trust_region),
    "regularised": single(regularised),
    "continuation in beta": staged(in_beta),
    "continuation in softness": staged(in_softness),
    "float32, then float64": refined,
    "L-BFGS": single(lbfgs),
}


def row(name, run, dim, scale, dtype, seeds, repeats):
    """One line of the table."""
    found = []
    for seed in seeds:
        params, x = bench.problem(dim, scale, dtype, seed)
        gradient = jax.jit(jax.vmap(jax.grad(bench.plain, argnums=1), in_axes=(None, 0)))
        out, _ = jax.block_until_ready((run(params, x), gradient(params, x)))
        times = bench.in_turn([(gradient, params, x), (run, params, x)], repeats, warm=False)
        relative = out.residual / (1 + jnp.linalg.norm(x, axis=-1))
        found.append(
            (
                float((~out.converged).mean()),
                float(relative.max()),
                float(out.steps.mean()),
                int(out.steps.max()),
                *bench.passes(out),
                *(times[:, 1] / times[:, 0]),
            )
        )
    top, mean, mid = np.max(found, 0), np.mean(found, 0), np.median(found, 0)
    print(
        f"| {dim} | x{scale:g} | {np.dtype(dtype).name} | {name} | {mean[0]:.2%} | {top[1]:.1e} "
        f"| {mean[2]:.1f} / {top[3]:.0f} | {top[4]:.0f} + {top[5]:.0f} "
        f"| {mid[6]:.0f} ({mid[7]:.0f}) |",
        flush=True,
    )


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dims", type=int, nargs="+", default=[10, 64, 784])
    parser.add_argument("--scales", type=float, nargs="+", default=[3.0, 5.0, 10.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--dtypes", nargs="+", choices=bench.DTYPES, default=list(bench.DTYPES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="d = 10, x3, one seed, float32")
    args = parser.parse_args()
    if args.quick:
        args.dims, args.scales, args.seeds, args.dtypes = [10], [3.0], [0], ["float32"]
    load = os.getloadavg()[0]
    print(f"jax {jax.__version__}, python {sys.version.split()[0]}, load before {load:.1f}")
    for dtype in args.dtypes:
        jax.config.update("jax_enable_x64", dtype == "float64")
        print(
            "\n| d | weights | dtype | method | unsolved | worst r/(1+x) | steps mean/max ", end=""
        )
        print("| passes | cost (CPU) |\n|---|---|---|---|---|---|---|---|---|")
        for dim in args.dims:
            for name in args.methods:
                if name == "float32, then float64" and dtype == "float32":
                    continue
                run = jax.jit(jax.vmap(METHODS[name], in_axes=(None, 0)))
                for scale in args.scales:
                    row(name, run, dim, scale, bench.DTYPES[dtype], args.seeds, args.repeats)
    print(f"\nload after {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
