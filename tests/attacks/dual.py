r"""Attacks on the conjugates and the bi-Lipschitz networks.

The judges are numpy in float64 for float32, in long double for float64 (80 bits where the machine
has them), with a core of their own; for the networks whose core is a linen module, float64
gradients of it. A round takes one network shape, so that few programs are compiled, and draws
weights, scales, constants and inputs anew.
"""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np

import monojax as mj
from attacks.promise import Attempt, Promise
from monojax.base.compat import enable_x64
from monojax.conjugate import ICNNPotential, ScaledICNN, Solver, conjugate, softplus

SHAPES = ((1, (16, 16)), (2, (64, 64)), (7, (12,)), (40, (8, 6)))
SHARPNESS = (1.0, 10.0)
METHODS = ("auto", "lbfgs", "fixed")
SETS, POINTS = 8, 64
ALLOWED = 1.1


def double(dtype):
    """A context with 64 bits where the dtype needs it."""
    return enable_x64() if dtype == "float64" else contextlib.nullcontext()


def draw_core(rng, dim, widths, scale, sets=SETS):
    """``sets`` cores, arrays `[sets, ...]` in float64."""
    core, previous = {}, 0
    for i, h in enumerate((*widths, 1)):
        core[f"y_kernel_{i}"] = rng.uniform(-1, 1, (sets, dim, h)) * dim**-0.5
        core[f"bias_{i}"] = rng.uniform(-1, 1, (sets, h)) * dim**-0.5
        if i:
            raw = rng.normal(size=(sets, previous, h)) * np.sqrt(2 / (previous + h))
            core[f"z_kernel_{i}"] = raw
        previous = h
    return {name: scale * a for name, a in core.items()}


def expand(core, tau, y, wide, weight=1.0, curvature=0.0):
    """Gradient `[n, d]` and Hessian `[n, d, d]` (float64) of ``weight F + curvature |y|^2/2``."""
    core = {name: np.asarray(a, wide) for name, a in core.items()}
    y, tau, z, jets = np.asarray(y, wide), wide(tau), None, []
    count = sum(name.startswith("bias_") for name in core)
    jacobian, jacobians = None, []
    for i in range(count):
        a = y @ core[f"y_kernel_{i}"] + core[f"bias_{i}"]
        wy = core[f"y_kernel_{i}"].T
        if i:
            wz = np.maximum(core[f"z_kernel_{i}"], 0)
            a = a + z @ wz
            slope = jets[-1][0].astype(float)
            jacobian = np.matmul(wz.T.astype(float), slope[:, :, None] * jacobian) + wy.astype(
                float
            )
        else:
            jacobian = np.broadcast_to(wy.astype(float), (len(y), *wy.shape))
        small = np.exp(-np.abs(tau * a))
        z = (np.maximum(tau * a, 0) + np.log1p(small)) / tau
        share = 1 / (1 + small)
        jets.append((np.where(a >= 0, share, small * share), tau * small * share**2))
        jacobians.append(jacobian)
    delta, gradient = np.ones((len(y), 1), wide), np.zeros_like(y)
    hessian = np.zeros((len(y), y.shape[1], y.shape[1]))
    for i in range(count - 1, -1, -1):
        weights = (delta * jets[i][1]).astype(float)
        hessian += np.einsum("nhi,nh,nhj->nij", jacobians[i], weights, jacobians[i])
        back = delta * jets[i][0]
        gradient = gradient + back @ core[f"y_kernel_{i}"].T
        if i:
            delta = back @ np.maximum(core[f"z_kernel_{i}"], 0).T
    hessian = float(weight) * hessian + float(curvature) * np.eye(y.shape[1])
    return wide(weight) * gradient + wide(curvature) * y, hessian


def norm(a):
    """Euclidean norms along the last axis."""
    return np.sqrt(np.sum(np.square(a), axis=-1))


@functools.lru_cache(maxsize=64)
def conjugates(tau, method):
    """The compiled conjugates of a batch of cores at a batch of points each."""
    potential = ScaledICNN(ICNNPotential(softplus(tau)))
    solver = Solver(method, max_steps=300) if method == "fixed" else Solver(method)
    one = lambda p, x: conjugate(potential, p, x, solver)
    return jax.jit(jax.vmap(jax.vmap(one, (None, 0))))


def solved(rng, dtype, dim, widths, tau, method):
    """Scales, cores, constants and inputs of one round, and what the solver made of them."""
    scale = 10 ** rng.uniform(-1, 1.5)
    beta = 10 ** rng.uniform(-1, 2.5)
    size = 10 ** rng.uniform(-1, 1)
    cast = lambda a: jnp.asarray(a, dtype)
    core = jax.tree.map(cast, draw_core(rng, dim, widths, scale))
    x = cast(size * rng.normal(size=(SETS, POINTS, dim)))
    params = {
        "core": core,
        "weight": jnp.ones(SETS, dtype),
        "curvature": jnp.full(SETS, 1 / beta, dtype),
    }
    got = conjugates(tau, method)(params, x)
    where = f"d {dim}, {widths}, tau {tau}, {method}, scale {scale:.3g}, beta {beta:.3g}"
    return params, x, jax.tree.map(np.asarray, got), where


def residuals(params, x, y, tau, wide):
    """The true norms of x - grad G(y), `[sets, points]`."""
    out = []
    for s in range(SETS):
        core = {name: np.asarray(a[s]) for name, a in params["core"].items()}
        curvature = np.asarray(params["curvature"][s])
        gradient, _ = expand(core, tau, np.asarray(y[s]), wide, 1.0, curvature)
        out.append(norm(np.asarray(x[s], wide) - gradient).astype(float))
    return np.stack(out)


def record(dtype):
    """The residual that is stated holds, for all; within tolerance, where ``converged``."""

    def attack(rng):
        (dim, widths), tau = SHAPES[rng.integers(len(SHAPES))], SHARPNESS[rng.integers(2)]
        method = METHODS[0] if rng.random() < 0.7 else METHODS[rng.integers(3)]
        with double(dtype):
            params, x, got, where = solved(rng, dtype, dim, widths, tau, method)
            wide = np.longdouble if dtype == "float64" else np.float64
            true = residuals(params, x, got.argmax, tau, wide)
            tolerance = (1e-9 if dtype == "float64" else 1e-4) * (1 + norm(np.asarray(x, float)))
        finite = np.isfinite(true) & np.isfinite(got.residual)
        ratio = np.where(finite, true / got.residual, 0)
        ratio = np.maximum(ratio, np.where(got.converged, true / tolerance, 0))
        if np.isnan(true[got.converged]).any():
            return Attempt(true.size, np.inf, where)
        return Attempt(true.size, float(ratio.max() / ALLOWED), where)

    return attack


def curvature(dtype):
    """No curvature below the promised one is recorded: none of these cores is not convex."""

    def attack(rng):
        (dim, widths), tau = SHAPES[rng.integers(len(SHAPES))], SHARPNESS[rng.integers(2)]
        with double(dtype):
            params, _, got, where = solved(rng, dtype, dim, widths, tau, METHODS[0])
            least = 0.98 * np.asarray(params["curvature"])[:, None]
        worst = np.where(got.curvature > 0, least / np.maximum(got.curvature, 1e-300), np.inf)
        return Attempt(worst.size, float(worst.max()), where)

    return attack


@functools.lru_cache(maxsize=64)
def network_program(dim, widths, tau, method):
    """The compiled map, record, inverse and its record of a BLNN, over sets of parameters."""
    net = mj.BLNN(widths, 1.0, 1.0, softplus(tau), Solver(method), train_sharpness=False)

    def run(core, x, alpha, beta):
        variables = {"params": {"core": core}}
        call = functools.partial(net.apply, variables, alpha=alpha, beta=beta)
        y = call(x)
        info = call(x, method="diagnostics")
        return y, info, call(y, method="inverse"), call(y, method="inverse_diagnostics")

    return jax.jit(jax.vmap(run, (0, 0, None, None)))


def inverse_judge(expanded, y, x, alpha, wide, steps=6):
    """The inverse near ``x`` by Newton on w + alpha grad G(w) = y, and the error it may have."""
    y, alpha = np.asarray(y, wide), wide(alpha)
    w = y - alpha * np.asarray(x, wide)
    for _ in range(steps):
        gradient, hessian = expanded(w)
        r = y - w - alpha * gradient
        matrix = np.eye(y.shape[1]) + float(alpha) * hessian
        w = w + np.linalg.solve(matrix, r.astype(float)[..., None])[..., 0]
    left = norm(y - w - alpha * expanded(w)[0]).astype(float)
    return (y - w) / alpha, left / float(alpha)


def beyond(x, exact, own, record):
    """Largest ratio of the error of converged inverses to their bound."""
    error = norm(np.asarray(x, exact.dtype) - exact).astype(float)
    bound = np.asarray(record.error_bound, float)
    judged = np.asarray(record.converged) & (own < 0.05 * bound)
    return float(np.where(judged, (error - own) / bound, 0).max()), int(judged.sum())


def inverse(dtype):
    """The error bound of BLNN's inverse, down to alpha of 1e-3."""

    def attack(rng):
        (dim, widths), tau = SHAPES[rng.integers(len(SHAPES))], SHARPNESS[rng.integers(2)]
        scale, beta = 10 ** rng.uniform(-1, 1.5), 10 ** rng.uniform(-1, 3)
        alpha, size = 10 ** rng.uniform(-3, 1), 10 ** rng.uniform(-1, 1)
        method = METHODS[rng.integers(2)] if dim == 2 and tau == 1 else METHODS[0]
        wide = np.longdouble if dtype == "float64" else np.float64
        worst, tried = 0.0, 0
        with double(dtype):
            core = jax.tree.map(lambda a: jnp.asarray(a, dtype), draw_core(rng, dim, widths, scale))
            x = jnp.asarray(size * rng.normal(size=(SETS, POINTS, dim)), dtype)
            low, gap = jnp.asarray(alpha, dtype), jnp.asarray(beta, dtype)
            program = network_program(dim, widths, tau, method)
            y, _, back, info = jax.tree.map(np.asarray, program(core, x, low, gap))
            for s in range(SETS):
                one = {name: np.asarray(a[s]) for name, a in core.items()}
                flat = 1 / wide(np.asarray(gap))
                expanded = lambda w, one=one, flat=flat: expand(one, tau, w, wide, 1.0, flat)
                exact, own = inverse_judge(expanded, y[s], back[s], np.asarray(low), wide)
                part = jax.tree.map(lambda a, s=s: a[s], info)
                seen, count = beyond(back[s], exact, own, part)
                worst, tried = max(worst, seen), tried + count
        where = f"d {dim}, {widths}, tau {tau}, {method}, scale {scale:.3g}, beta {beta:.3g}"
        return Attempt(tried, worst / ALLOWED, f"{where}, alpha {alpha:.3g}")

    return attack


OTHERS = ("picnn", "pairwise", "conv")


@functools.lru_cache(maxsize=8)
def other_program(kind):
    """A small network with a linen core: its parameters' shapes, one example's, and its inverse."""
    if kind == "conv":
        net = mj.ConvBLNN((4,), 1.0, 1.0, activation=softplus(3.0), train_sharpness=False)
        arrays, shape = (jnp.zeros((POINTS, 3, 3, 1)),), (3, 3, 1)
    else:
        net = mj.PartialBLNN((5, 4), 0.1, 20.0, core=kind, activation=softplus(3.0))
        arrays, shape = (jnp.zeros((POINTS, 2)), jnp.zeros((POINTS, 3))), (3,)
    shapes = jax.eval_shape(net.init, jax.random.key(0), *arrays)

    def run(variables, *inputs):
        call = functools.partial(net.apply, variables)
        y = call(*inputs)
        last = (*inputs[:-1], y)
        return y, call(*last, method="inverse"), call(*last, method="inverse_diagnostics")

    return net, shapes, shape, jax.jit(run)


@functools.lru_cache(maxsize=8)
def other_judge(kind):
    """Gradient and Hessian of F in float64, for every example."""
    net, _, shape, _ = other_program(kind)
    bound = net.bind({"params": {}})
    module = (bound.core if kind == "conv" else bound.net).clone(parent=None, name=None)

    def value(params, w, context):
        if kind == "conv":
            return module.apply({"params": params}, w.reshape(shape))
        return module.apply({"params": params}, context, w)

    each = lambda fn: jax.vmap(fn, (None, 0, 0))
    return jax.jit(
        lambda p, w, c: (each(jax.grad(value, 1))(p, w, c), each(jax.hessian(value, 1))(p, w, c))
    )


def other_inverse(kind):
    """The error bound of the inverses of PartialBLNN and ConvBLNN."""

    def attack(rng):
        net, shapes, shape, run = other_program(kind)
        scale, size = 10 ** rng.uniform(-1, 1), 10 ** rng.uniform(-1, 1)
        draw = lambda leaf: jnp.asarray(scale * rng.normal(size=leaf.shape), jnp.float32)
        variables = jax.tree.map(draw, shapes)
        x = jnp.asarray(size * rng.normal(size=(POINTS, *shape)), jnp.float32)
        context = jnp.asarray(rng.normal(size=(POINTS, 2)), jnp.float32)
        y, back, info = run(variables, *((x,) if kind == "conv" else (context, x)))
        core = variables["params"]["core" if kind == "conv" else "net"]
        alpha, beta = float(net.alpha), float(net.beta)
        flat = lambda a: np.asarray(a, np.float64).reshape(POINTS, -1)
        with enable_x64():
            wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), core)
            judge, place = other_judge(kind), jnp.asarray(np.asarray(context), jnp.float64)

            def expanded(w):
                gradient, hessian = judge(wide, jnp.asarray(w), place)
                eye = np.eye(w.shape[1]) / beta
                return np.asarray(gradient) + w / beta, np.asarray(hessian) + eye

            exact, own = inverse_judge(expanded, flat(y), flat(back), alpha, np.float64)
        worst, tried = beyond(flat(back), exact, own, info)
        return Attempt(tried, worst / ALLOWED, f"{kind}, scale {scale:.3g}, size {size:.3g}")

    return attack


def slopes(dtype):
    """Secants between alpha and alpha + beta, up to the stated errors of both ends."""

    def attack(rng):
        (dim, widths), tau = SHAPES[rng.integers(len(SHAPES))], SHARPNESS[rng.integers(2)]
        scale, beta = 10 ** rng.uniform(-1, 1.5), 10 ** rng.uniform(-1, 3)
        alpha = 10 ** rng.uniform(-3, 1)
        with double(dtype):
            core = jax.tree.map(lambda a: jnp.asarray(a, dtype), draw_core(rng, dim, widths, scale))
            x = rng.normal(size=(SETS, POINTS, dim))
            x[:, 1::2] = x[:, ::2] + 10 ** rng.uniform(-4, 0) * rng.normal(size=x[:, ::2].shape)
            x = jnp.asarray(x, dtype)
            low, gap = jnp.asarray(alpha, dtype), jnp.asarray(beta, dtype)
            program = network_program(dim, widths, tau, METHODS[0])
            y, info, _, _ = jax.tree.map(np.asarray, program(core, x, low, gap))
        x = np.asarray(x, np.longdouble)
        dx, dy = norm(x[:, ::2] - x[:, 1::2]), norm(y[:, ::2].astype(x.dtype) - y[:, 1::2])
        error = (info.error_bound[:, ::2] + info.error_bound[:, 1::2]).astype(x.dtype)
        both = info.converged[:, ::2] & info.converged[:, 1::2] & (dx > 0)
        alpha, beta = float(low), float(gap)
        over = np.maximum(dy - (alpha + beta) * dx, alpha * dx - dy) / (
            ALLOWED * error + 1e-7 * beta * dx
        )
        where = f"d {dim}, {widths}, tau {tau}, scale {scale:.3g}, beta {beta:.3g}"
        return Attempt(int(both.sum()), float(np.where(both, over, 0).max(initial=0)), where)

    return attack


@functools.lru_cache(maxsize=2)
def ordered_program():
    """A pairwise PartialBLNN on two inputs each, over steepness beta."""
    net = mj.PartialBLNN((6, 4), 0.0, 1e3, core="pairwise", certify_monotone=True)
    c, y = jnp.zeros((POINTS, 2)), jnp.zeros((POINTS, 3))
    shapes = jax.eval_shape(net.init, jax.random.key(0), c, y)
    run = lambda v, c, y: (net.apply(v, c, y), net.apply(v, c, y, method="diagnostics"))
    return shapes, jax.jit(run)


def order(rng):
    """Ordered inputs keep their order up to the two stated errors, at beta = 1e3."""
    shapes, run = ordered_program()
    scale = 10 ** rng.uniform(-1, 1)
    draw = lambda leaf: jnp.asarray(scale * rng.normal(size=leaf.shape), jnp.float32)
    variables = jax.tree.map(draw, shapes)
    context = jnp.asarray(rng.normal(size=(POINTS, 2)), jnp.float32)
    y = rng.normal(size=(POINTS, 3)).astype(np.float32)
    step = 10 ** rng.uniform(-4, 0) * rng.exponential(size=y.shape) * (rng.random(y.shape) < 0.5)
    one, two = (run(variables, context, jnp.asarray(a)) for a in (y, y + np.float32(step)))
    fall = np.asarray(one[0], float) - np.asarray(two[0], float)
    error = np.asarray(one[1].error_bound, float) + np.asarray(two[1].error_bound, float)
    both = np.asarray(one[1].converged) & np.asarray(two[1].converged)
    worst = np.where(both, fall.max(axis=1) / error, 0).max()
    return Attempt(int(both.sum()), float(worst / ALLOWED), f"scale {scale:.3g}")


@functools.lru_cache(maxsize=16)
def jacobian_program(tau):
    """Conjugates and the Jacobians of their maximisers."""
    potential = ScaledICNN(ICNNPotential(softplus(tau)))

    def one(p, x):
        argmax = lambda x: (conjugate(potential, p, x), None)
        twice = lambda x: ((got := argmax(x)[0]).argmax, got)
        return jax.jacrev(twice, has_aux=True)(x)

    return jax.jit(jax.vmap(jax.vmap(one, (None, 0))))


def jacobians(rng):
    """Float32 Jacobians against float64 at the same solution: 0.1% of beta, or what is stated."""
    (dim, widths), tau = SHAPES[rng.integers(3)], SHARPNESS[rng.integers(2)]
    scale, beta = 10 ** rng.uniform(0, 1.5), 10 ** rng.uniform(0, 4)
    core = jax.tree.map(lambda a: jnp.asarray(a, "float32"), draw_core(rng, dim, widths, scale))
    x = jnp.asarray(rng.normal(size=(SETS, POINTS, dim)), jnp.float32)
    curvature = jnp.full(SETS, 1 / beta, jnp.float32)
    params = {"core": core, "weight": jnp.ones(SETS), "curvature": curvature}
    jacobian, got = jax.tree.map(np.asarray, jacobian_program(tau)(params, x))
    worst = 0.0
    for s in range(SETS):
        one = {name: np.asarray(a[s]) for name, a in core.items()}
        flat = float(np.asarray(curvature[s]))
        _, hessian = expand(one, tau, got.argmax[s], np.float64, 1.0, flat)
        gap = np.linalg.norm(jacobian[s] - np.linalg.inv(hessian), 2, axis=(1, 2)) * flat
        ratio = gap / np.maximum(1e-3, got.jacobian_error[s])
        worst = max(worst, float(np.where(got.converged[s], ratio, 0).max()))
    where = f"d {dim}, {widths}, tau {tau}, scale {scale:.3g}, beta {beta:.3g}"
    return Attempt(int(got.converged.sum()), worst, where)


ESTIMATE = "residual stated with an estimate of rounding, times 1.1"
PROMISES = [
    Promise("conjugates: residual and convergence", "float32", record("float32"), ESTIMATE),
    Promise("conjugates: residual and convergence", "float64", record("float64"), ESTIMATE),
    Promise("conjugates: no false alarm of convexity", "float32", curvature("float32"), "2%"),
    Promise("BLNN inverse: error bound", "float32", inverse("float32"), "times 1.1"),
    Promise("BLNN inverse: error bound", "float64", inverse("float64"), "times 1.1"),
    *(
        Promise(f"{kind} inverse: error bound", "float32", other_inverse(kind), "times 1.1")
        for kind in OTHERS
    ),
    Promise("BLNN slopes", "float32", slopes("float32"), "stated errors times 1.1"),
    Promise("BLNN slopes", "float64", slopes("float64"), "stated errors times 1.1"),
    Promise("pairwise certificate: order", "float32", order, "stated errors times 1.1"),
    Promise("Jacobians against float64", "float32", jacobians, "0.1% of beta, or as stated"),
]
