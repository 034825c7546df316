"""Attacks on the explanations: image axes that are followed, and the four maps' identities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from attacks.promise import Attempt, Promise
from monojax.splitting import sensitivities
from monojax.splitting.axes import Axes

CHAINS = 200  # per round
ROUNDING = 1e-6  # float32, relative to the maps: sums over tens of units in three layers


def _chain(rng):
    """A function from an image in some order of axes to a convolution, and which axis is what.

    Returns:
      ``(fn, x, names of its axes, whether channels and positions were mixed on the way)``.
    """
    names = list(rng.permutation(["c", "h", "w"]))
    sizes = {"c": 3, "h": int(rng.integers(7, 12)), "w": int(rng.integers(13, 18))}
    x = rng.normal(size=[sizes[name] for name in names]).astype(np.float32)
    steps, mixed, at = [], False, list(names)
    for _ in range(rng.integers(1, 7)):
        kind = rng.integers(8)
        axis = int(rng.integers(3))
        if kind == 0 and at[axis] != "c":
            pads = [(int(rng.integers(3)), 1) if i == axis else (0, 0) for i in range(3)]
            steps.append(functools.partial(jnp.pad, pad_width=pads))
        elif kind == 1:
            order = [int(i) for i in rng.permutation(3)]
            at = [at[i] for i in order]
            steps.append(functools.partial(jnp.transpose, axes=order))
        elif kind == 2 and at[axis] != "c":
            steps.append(lambda a, axis=axis: jax.lax.slice_in_dim(a, 1, None, 1, axis))
        elif kind == 3:
            steps.append(lambda a, axis=axis: jnp.flip(jnp.tanh(a), axis))
        elif kind == 4:  # as vectors and back
            mixed = True
            steps.append(lambda a: a.reshape(-1).reshape(a.shape))
        elif kind == 5:
            steps.append(jax.jit(lambda a: a - a.mean((0, 1), keepdims=True)))
        elif kind == 6 and at[axis] != "c":
            steps.append(lambda a, axis=axis: jnp.concatenate([a, -a], axis))
        elif kind == 7:
            inside = rng.integers(2)
            pair = [0, 1] if inside else [1, 2]
            mixed |= "c" in (at[pair[0]], at[pair[1]])
            steps.append(functools.partial(_exchanged, pair=pair))
    back = [at.index(name) for name in ("c", "h", "w")]

    def fn(a):
        for step in steps:
            a = step(a)
        a = a.transpose(back)
        kernel = np.ones((2, a.shape[0], 3, 3), np.float32)
        return jax.lax.conv(a[None], kernel, (1, 1), "SAME")

    return fn, x, names, mixed


def _exchanged(a, pair):
    """Two neighbouring axes read in the other order: their entries are mixed."""
    shape = list(a.shape)
    shape[pair[0]], shape[pair[1]] = shape[pair[1]], shape[pair[0]]
    return a.reshape(shape).swapaxes(*pair)


def axes(rng):
    """Wrong axes count as broken, and so does a refusal where nothing was mixed."""
    worst, where = 0.0, ""
    for _ in range(CHAINS):
        seed = int(rng.integers(2**31))
        fn, x, names, mixed = _chain(np.random.default_rng(seed))
        closed = jax.make_jaxpr(fn)(x)
        layout = Axes(closed).layout(closed.jaxpr.invars[0])
        if layout is None:
            broken = not mixed
        else:
            broken = names[layout.feature] != "c" or [names[i] for i in layout.spatial] != [
                name for name in names if name != "c"
            ]
        if broken:
            worst, where = 2.0, f"chain {seed}"
    return Attempt(CHAINS, worst, where)


@functools.cache
def _maps(alpha, shift_at, pool):
    """All maps of a small network for many weights and inputs."""

    def one(w, x):
        def net(x):
            a = jax.nn.relu(w[0] @ x + w[3])
            b = jnp.maximum(w[1] @ a, jnp.flip(a)) + a
            return w[2] @ jax.nn.relu(b)

        return sensitivities(net, x, 1, alpha=alpha, shift_at=shift_at, pool=pool)[-1], jax.grad(
            lambda x: net(x)[1]
        )(x)

    return jax.jit(jax.vmap(one))


def identities(rng):
    """g_p - h_p and h_n - g_n are the gradient, and both sums are s."""
    shift = [(0.0, "module"), (0.4, "module"), (0.3, "contraction"), ("balanced", "module")]
    alpha, shift_at = shift[rng.integers(len(shift))]
    pool, count = ("full", "wta")[rng.integers(2)], 1000
    scale = np.exp(rng.normal(size=(count, 4, 1, 1)) * 2)
    shapes = [(12, 6), (12, 12), (3, 12)]
    w = [
        (rng.normal(size=(count, *s)) * scale[:, i]).astype(np.float32)
        for i, s in enumerate(shapes)
    ]
    w.append((rng.normal(size=(count, 12)) * scale[:, 3, 0]).astype(np.float32))
    x = rng.normal(size=(count, 6)).astype(np.float32)
    found, grad = _maps(alpha, shift_at, pool)(w, x)
    parts = (found.s, found.q, grad)  # what the maps are sums of
    size = sum(np.abs(part).max(1, keepdims=True) for part in parts)
    errors = [
        found.g_p - found.h_p - grad,
        found.h_n - found.g_n - grad,
        found.g_p + found.g_n - found.s,
        found.h_p + found.h_n - found.s,
    ]
    size = np.where(size == 0, 1, size)  # no gradient and no mass: all maps are 0
    worst = float(np.max(np.abs(np.array(errors)) / size) / ROUNDING)
    return Attempt(count, worst, f"alpha {alpha}, {shift_at}, pool {pool}")


PROMISES = [
    Promise("image axes are followed rightly, or refused", "any", axes),
    Promise(
        "four maps: differences are the gradient, sums the mass", "float32", identities,
        f"{ROUNDING:g} of the maps' parts",
    ),
]  # fmt: skip
