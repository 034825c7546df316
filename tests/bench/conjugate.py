r"""Costs of the inner solve and of a training step, as Markdown tables.

PYTHONPATH=. python tests/bench/conjugate.py [solve] [step] [memory] [--quick]

Softplus (sharpness 1) cores 64-64, beta = 49, batch 256, x standard normal, weights as initialised
and times 3. "unsolved" is the share that misses ||r|| <= 1e-4 (1 + ||x||) in float32 and
1e-9 (1 + ||x||) in float64; every one of them is flagged. Two costs stand beside each other:

- "cost" is the wall time of the batched solve over that of one batched gradient of the potential
  with the same d and dtype, the two measured in turn (median over seeds of the ratio of medians);
  in brackets the same in CPU seconds, which other programs blur less;
- "passes" counts what a machine cannot blur: "e + p" potential-and-gradient evaluations and
  Hessian-vector products of the batch. A batched loop runs until its slowest sample is done, so
  each step counts its worst sample. A dense Hessian is not a pass; there is one per step.
"""

import argparse
import os
import sys
import time
from typing import Any, NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # its threads and XLA's fight for the cores

import jax
import jax.numpy as jnp
import numpy as np

from monojax.bilipschitz import BLNN
from monojax.conjugate import Solver, conjugate, newton, softplus
from monojax.conjugate.newton import Model
from monojax.conjugate.potentials import ScaledICNN
from monojax.layers import ICNN

BETA, BATCH = 49.0, 256
POTENTIAL = ScaledICNN(ICNN((64, 64), softplus(1.0)).maths)
DTYPES = {"float32": jnp.float32, "float64": jnp.float64}


def plain(params, y):
    """The same potential without its structure: Hessians by automatic differentiation."""
    return POTENTIAL(params, y)


def problem(dim, scale, dtype, seed=0):
    """Parameters of the potential (all weights times ``scale``) and a batch of x."""
    core = ICNN((64, 64), softplus(1.0)).init(jax.random.key(seed), jnp.ones(dim, dtype))["params"]
    core = jax.tree.map(lambda a: scale * a, core)
    params = {
        "core": core,
        "weight": jnp.ones((), dtype),
        "curvature": jnp.asarray(1 / BETA, dtype),
    }
    return params, jax.random.normal(jax.random.key(seed + 1), (BATCH, dim), dtype)


def compiled(fn, *args):
    """``fn`` compiled for ``args``, and the wall and CPU seconds that took, as text."""
    begin, begin_cpu = time.perf_counter(), time.process_time()
    run = jax.jit(fn).lower(*args).compile()
    wall, cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
    return run, f"{wall:.1f} ({cpu:.1f})"


def in_turn(calls, repeats, warm=True):
    """Median wall and CPU seconds of each ``(fn, *args)``, `[2, calls]`.

    They are measured in turn, so that noise hits all alike. CPU seconds count all threads of this
    process and leave out the time that other processes had.
    """
    for fn, *args in calls if warm else []:
        jax.block_until_ready(fn(*args))
    times = np.zeros((repeats, 2, len(calls)))
    for wall, cpu in times:
        for i, (fn, *args) in enumerate(calls):
            begin, begin_cpu = time.perf_counter(), time.process_time()
            jax.block_until_ready(fn(*args))
            wall[i], cpu[i] = time.perf_counter() - begin, time.process_time() - begin_cpu
    return np.median(times, axis=0)


class Inner(NamedTuple):
    """One example's problem in the unknowns that the library would solve for."""

    potential: Any
    params: Any
    x: jax.Array
    start: jax.Array
    threshold: jax.Array

    def model(self, potential=None, params=None) -> Model:
        """G(y) - <x, y>, optionally of another potential or other parameters."""
        potential = self.potential if potential is None else potential
        params = self.params if params is None else params

        def expand(y):
            value, gradient, terms = potential.expand(params, y)
            return value - self.x @ y, gradient - self.x, terms

        hessian = lambda terms: potential.hessian_at(params, terms)
        return Model(expand, hessian, lambda terms: potential.hvp_at(params, terms))


def inner(params, x):
    """The restricted problem, its start and its tolerance."""
    threshold = Solver().threshold(x)
    smaller = POTENTIAL.restrict(params, x)
    params, x, _ = (params, x, None) if smaller is None else smaller
    potential = POTENTIAL
    return Inner(potential, params, x, potential.newton_start(params, x), threshold)


class Run(NamedTuple):
    """What a counted loop did; per-step counts are zero after the last step."""

    argmax: jax.Array
    residual: jax.Array
    converged: jax.Array
    steps: jax.Array
    evaluations: jax.Array  # [max_steps]
    products: jax.Array  # [max_steps]


def drive(method, start, threshold, max_steps=100):
    """Runs a transformation with the state of `newton`, counting the work of each step."""

    def body(s):
        y, state, step, evaluations, products = s
        updates, new = method.update(state.grad, state, y, value=state.value, grad=state.grad)
        evaluations = evaluations.at[step].set(new.evaluations - state.evaluations)
        products = products.at[step].set(new.products - state.products)
        return y + updates, new, step + 1, evaluations, products

    def unfinished(s):
        norm = jnp.linalg.norm(s[1].grad)
        return (norm > threshold) & jnp.isfinite(norm) & (s[2] < max_steps)

    none = jnp.zeros(max_steps, int)
    first = (start, method.init(start), jnp.asarray(0), none, none)
    y, state, step, evaluations, products = jax.lax.while_loop(unfinished, body, first)
    norm = jnp.linalg.norm(state.grad)
    return Run(y, norm, norm <= threshold, step, evaluations, products)


def passes(run):
    """ "e + p" of a batch: sums over the steps of the worst sample's counts."""
    return int(run.evaluations.max(0).sum()), int(run.products.max(0).sum())


def library(params, x, linear):
    """The library's Newton, counted."""
    task = inner(params, x)
    return drive(newton(linear, model=task.model()), task.start, task.threshold)


def solve_methods(dim):
    """Name -> (potential, solver, linear solver to count or None)."""
    auto = "dense" if dim <= 16 else "cg"
    methods = {
        "auto": (POTENTIAL, Solver(), auto),
        "newton": (POTENTIAL, Solver("newton"), "dense"),
        "newton_cg": (POTENTIAL, Solver("newton_cg"), "cg"),
        "newton, autodiff": (plain, Solver("newton"), None),
        "newton_cg, autodiff": (plain, Solver("newton_cg"), None),
        "lbfgs": (POTENTIAL, Solver("lbfgs"), None),
    }
    if dim > 160:
        del methods["newton, autodiff"]
    return methods


def batched(potential, solver):
    """The solve of a batch as a user would write it."""

    def one(params, x):
        # Without the structure the library knows no start; x / curvature is the usual one.
        start = x / params["curvature"] if potential is plain else None
        return conjugate(potential, params, x, solver, start=start)

    return jax.vmap(one, in_axes=(None, 0))


def counted(linear):
    """The counts of a batch's solve, or None for methods that keep none."""
    one = lambda params, x: library(params, x, linear)
    return None if linear is None else jax.jit(jax.vmap(one, in_axes=(None, 0)))


def measure(run, count, dim, scale, dtype, seed, repeats):
    """One seed's numbers: share unsolved, worst residual, steps, counts, cost."""
    params, x = problem(dim, scale, dtype, seed)
    gradient = jax.jit(jax.vmap(jax.grad(plain, argnums=1), in_axes=(None, 0)))
    out = run(params, x)
    times = in_turn([(gradient, params, x), (run, params, x)], repeats)
    relative = out.residual / (1 + jnp.linalg.norm(x, axis=-1))
    counts = (0, 0) if count is None else passes(count(params, x))
    steps = float(out.steps.mean()), int(out.steps.max())
    unsolved = float((~out.converged).mean())
    return unsolved, float(relative.max()), *steps, *counts, *(times[:, 1] / times[:, 0])


def bench_solve(dims, scales, dtype, seeds, repeats, only):
    """Cost, counts and share unsolved of every method."""
    print(
        "\n| d | weights | dtype | method | unsolved | worst r/(1+x) | steps mean/max | passes "
        "| cost (CPU) | compile s (CPU) |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for dim in dims:
        for name, (potential, solver, linear) in solve_methods(dim).items():
            if only and name not in only:
                continue
            run, seconds = compiled(batched(potential, solver), *problem(dim, 1.0, DTYPES[dtype]))
            count = counted(linear)
            for scale in scales:
                rows = [
                    measure(run, count, dim, scale, DTYPES[dtype], seed, repeats) for seed in seeds
                ]
                top, mean, mid = np.max(rows, 0), np.mean(rows, 0), np.median(rows, 0)
                work = f"{top[4]:.0f} + {top[5]:.0f}" if linear else "-"
                print(
                    f"| {dim} | x{scale:g} | {dtype} | {name} | {mean[0]:.2%} | {top[1]:.1e} "
                    f"| {mean[2]:.1f} / {top[3]:.0f} | {work} "
                    f"| {mid[6]:.1f} ({mid[7]:.1f}) | {seconds} |",
                    flush=True,
                )


def training_step(dim, solver):
    """A compiled SGD step on BLNN, its inputs and its compile time."""
    net = BLNN((64, 64), 1.0, BETA, softplus(1.0), solver)
    x = jax.random.normal(jax.random.key(1), (BATCH, dim))
    variables = net.init(jax.random.key(0), x)

    def step(variables, x):
        loss = lambda v: jnp.mean(jnp.square(jnp.asarray(net.apply(v, x)) - jnp.sin(x)))
        value, grads = jax.value_and_grad(loss)(variables)
        return jax.tree.map(lambda p, g: p - 1e-3 * g, variables, grads), value

    run, seconds = compiled(step, variables, x)
    return run, (variables, x), seconds


def scaled(inputs, scale):
    """``(variables, x)`` with all variables times ``scale``."""
    return jax.tree.map(lambda a: scale * a, inputs[0]), inputs[1]


def bench_step(dims, scales, repeats):
    """Implicit rule against back-propagation through 500 steps of the paper's schedule."""
    print(
        "\n| d | weights | implicit ms | unrolled 500 ms | ratio (CPU) "
        "| compile s (CPU) | temporary MB |"
    )
    print("|---|---|---|---|---|---|---|")
    unrolled = Solver("gradient", max_steps=500, tolerance=1e-12, differentiation="unrolled")
    for dim in dims:
        runs = [training_step(dim, solver) for solver in (Solver(), unrolled)]
        compiles = " / ".join(run[2] for run in runs)
        memory = " / ".join(
            f"{run[0].memory_analysis().temp_size_in_bytes / 1e6:.1f}" for run in runs
        )
        for scale in scales:
            variables, x = scaled(runs[0][1], scale)
            times = in_turn([(run[0], variables, x) for run in runs], repeats)
            print(
                f"| {dim} | x{scale:g} | {1e3 * times[0, 0]:.1f} | {1e3 * times[0, 1]:.0f} "
                f"| {times[0, 1] / times[0, 0]:.0f} ({times[1, 1] / times[1, 0]:.0f}) "
                f"| {compiles} | {memory} |",
                flush=True,
            )


def bench_memory(dims):
    """Temporary bytes of the compiled implicit step for three step limits."""
    print("\n| d | max_steps 10 | 100 | 1000 |")
    print("|---|---|---|---|")
    for dim in dims:
        sizes = [
            training_step(dim, Solver(max_steps=n))[0].memory_analysis().temp_size_in_bytes
            for n in (10, 100, 1000)
        ]
        print(f"| {dim} | {sizes[0]} | {sizes[1]} | {sizes[2]} |", flush=True)


def main():
    """Runs the tables asked for, all by default."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", help="solve, step, memory; all by default")
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 10, 64, 784])
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 3.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--methods", nargs="+", help="rows of the solve table; all by default")
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--quick", action="store_true", help="d = 10, one seed, 'auto' only")
    args = parser.parse_args()
    if args.quick:
        args.dims, args.seeds, args.repeats, args.methods = [10], [0], 5, ["auto"]
    tables = args.tables or ["solve", "step", "memory"]
    load = os.getloadavg()[0]
    print(
        f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {os.cpu_count()} cores, "
        f"python {sys.version.split()[0]}, load before {load:.1f}\n"
    )
    small = [d for d in args.dims if d <= 64]
    # Before 64-bit mode, which would change the width of the loops' counters.
    if "step" in tables:
        bench_step(small, args.scales, args.repeats)
    if "memory" in tables:
        bench_memory(small)
    if "solve" in tables:
        for dtype in args.dtypes:
            jax.config.update("jax_enable_x64", dtype == "float64")
            bench_solve(args.dims, args.scales, dtype, args.seeds, args.repeats, args.methods)
    print(f"\nload after {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
