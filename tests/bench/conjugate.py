r"""Times of the inner solve and of a training step, as Markdown tables.

PYTHONPATH=. python tests/bench/conjugate.py [solve] [step] [memory]

Softplus (sharpness 1) cores 64-64, beta = 49, batch 256, x standard normal, seeds 0 and 1. "cost"
is the median wall time of the batched solve over that of one batched gradient of the potential
with the same d and dtype; compile time is apart. "unsolved" is the share that misses
||r|| <= 1e-4 (1 + ||x||) in float32 and 1e-9 (1 + ||x||) in float64; every one of them is flagged.
"""

import argparse
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from monojax.bilipschitz import BLNN
from monojax.conjugate import Solver, conjugate, softplus
from monojax.conjugate.icnn import ScaledICNN
from monojax.layers import ICNN

BETA, BATCH = 49.0, 256
POTENTIAL = ScaledICNN(ICNN((64, 64), softplus(1.0)).maths)


def plain(params, y):
    """The same potential without its structure: Hessians by automatic differentiation."""
    return POTENTIAL(params, y)


def median_seconds(fn, *args, repeats=7):
    """Median wall time of ``fn`` after one warm-up call."""
    jax.block_until_ready(fn(*args))
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(fn(*args))
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


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


def bench_solve(dims, scales, dtypes, seeds):
    """Cost and share unsolved of every method."""
    print(
        "| d | weights | dtype | method | unsolved | worst r/(1+x) | steps mean/max | cost "
        "| compile s |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    start = lambda p, x: x / p["curvature"]
    for dtype in dtypes:
        for scale in scales:
            for dim in dims:
                gradient = jax.jit(jax.vmap(jax.grad(plain, argnums=1), in_axes=(None, 0)))
                methods = {
                    "auto (structured)": (POTENTIAL, Solver()),
                    "newton, autodiff Hessian": (plain, Solver("newton")),
                    "newton_cg, autodiff HVP": (plain, Solver("newton_cg")),
                    "lbfgs": (plain, Solver("lbfgs")),
                }
                if dim > 160:
                    del methods["newton, autodiff Hessian"]
                for name, (potential, solver) in methods.items():
                    row = []
                    for seed in seeds:
                        params, x = problem(dim, scale, dtype, seed)

                        def solve(params, x, potential=potential, solver=solver):
                            given = (
                                (lambda x: None)
                                if potential is POTENTIAL
                                else lambda x: start(params, x)
                            )
                            return jax.vmap(
                                lambda x: conjugate(potential, params, x, solver, start=given(x))
                            )(x)

                        begin = time.perf_counter()
                        run = jax.jit(solve).lower(params, x).compile()
                        compiled = time.perf_counter() - begin
                        out = run(params, x)
                        unit = median_seconds(gradient, params, x, repeats=21)
                        cost = median_seconds(run, params, x) / unit
                        relative = out.residual / (1 + jnp.linalg.norm(x, axis=-1))
                        row.append(
                            (
                                1 - float(out.converged.mean()),
                                float(relative.max()),
                                float(out.steps.mean()),
                                int(out.steps.max()),
                                cost,
                                compiled,
                            )
                        )
                    worst, mean = np.max(row, axis=0), np.mean(row, axis=0)
                    print(
                        f"| {dim} | x{scale:g} | {np.dtype(dtype).name} | {name} | {mean[0]:.1%} "
                        f"| {worst[1]:.1e} | {mean[2]:.1f} / {worst[3]:.0f} | {mean[4]:.0f} "
                        f"| {worst[5]:.1f} |",
                        flush=True,
                    )


def training_step(dim, solver):
    """A compiled SGD step on BLNN and its inputs."""
    net = BLNN((64, 64), 1.0, BETA, softplus(1.0), solver)
    x = jax.random.normal(jax.random.key(1), (BATCH, dim))
    variables = net.init(jax.random.key(0), x)

    def step(variables, x):
        loss = lambda v: jnp.mean(jnp.square(net.apply(v, x) - jnp.sin(x)))
        value, grads = jax.value_and_grad(loss)(variables)
        return jax.tree.map(lambda p, g: p - 1e-3 * g, variables, grads), value

    begin = time.perf_counter()
    compiled = jax.jit(step).lower(variables, x).compile()
    return compiled, (variables, x), time.perf_counter() - begin


def bench_step(dims, scale=1.0):
    """Implicit rule against back-propagation through 500 steps of the paper's schedule."""
    print(
        "| d | implicit ms | unrolled 500 ms | ratio | compile s "
        "| temporary MB implicit / unrolled |"
    )
    print("|---|---|---|---|---|---|")
    unrolled = Solver("gradient", max_steps=500, tolerance=1e-12, differentiation="unrolled")
    for dim in dims:
        seconds, compiles, memory = [], [], []
        for solver, repeats in ((Solver(), 11), (unrolled, 5)):
            run, (variables, x), compiled = training_step(dim, solver)
            variables = jax.tree.map(lambda a: scale * a, variables)
            seconds.append(median_seconds(run, variables, x, repeats=repeats))
            compiles.append(compiled)
            memory.append(run.memory_analysis().temp_size_in_bytes / 1e6)
        print(
            f"| {dim} | {1e3 * seconds[0]:.1f} | {1e3 * seconds[1]:.0f} "
            f"| {seconds[1] / seconds[0]:.0f} | {compiles[0]:.1f} / {compiles[1]:.1f} "
            f"| {memory[0]:.1f} / {memory[1]:.1f} |",
            flush=True,
        )


def bench_memory(dims):
    """Temporary bytes of the compiled implicit step for three step limits."""
    print("| d | max_steps 10 | 100 | 1000 |")
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
    parser.add_argument("tables", nargs="*", default=[], help="solve, step, memory")
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 10, 64, 784])
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 3.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--float64", action="store_true", help="solve in float64 instead")
    args = parser.parse_args()
    tables = args.tables or ["solve", "step", "memory"]
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, python {sys.version.split()[0]}")
    if args.float64:
        jax.config.update("jax_enable_x64", True)
    dtype = jnp.float64 if args.float64 else jnp.float32
    if "solve" in tables:
        bench_solve(args.dims, args.scales, [dtype], args.seeds)
    small = [d for d in args.dims if d <= 64]
    if "step" in tables:
        bench_step(small)
    if "memory" in tables:
        bench_memory(small)


if __name__ == "__main__":
    main()
