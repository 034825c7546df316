"""ConvICNN and ConvBLNN: convexity, certified slopes, inverse, derivatives, bad input."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import drawn

import monojax as mj
from monojax.base.compat import enable_x64
from monojax.bilipschitz import unconverged
from monojax.conjugate import DENSE_LIMIT, Solver, softplus
from monojax.layers import ConvICNN, project_convex

FINE = Solver(tolerance=1e-11)
# Short to compile, for properties that hold whatever finds the solution.
PLAIN = Solver("fixed", learning_rate=0.05, tolerance=1e-11, max_steps=20_000)
ALPHA, BETA = 0.5, 4.0


def images(*shape, seed=1):
    return jax.random.normal(jax.random.key(seed), shape, jnp.zeros(0).dtype)


def make(x, features=(3, 2), **kwargs):
    options = {"activation": softplus(3.0), "weight_map": "square", "solver": FINE, **kwargs}
    net = mj.ConvBLNN(features, ALPHA, BETA, **options)
    # log_alpha and its kin are float32 by default: too coarse for differences.
    return net, jax.tree.map(lambda p: p.astype(x.dtype), drawn(net, x))


@pytest.mark.parametrize("weight_map", ["clamp", "softplus", "square", "abs", "projected"])
def test_convex_on_random_segments(x64, weight_map):
    """F(ta + (1-t)b) <= t F(a) + (1-t) F(b), odd sizes, a stride per layer, two channels."""
    net = ConvICNN((4, 3, 2), strides=(2, 1, 2), activation=softplus(3.0), weight_map=weight_map)
    a, b = images(200, 5, 6, 2), images(200, 5, 6, 2, seed=2)
    params = drawn(net, a)
    t = jax.random.uniform(jax.random.key(3), (200,), a.dtype)
    s = t[:, None, None, None]

    @jax.jit
    def gap(params):
        F = lambda y: net.apply(params, y)
        return t * F(a) + (1 - t) * F(b) - F(s * a + (1 - s) * b), jnp.abs(F(a)).max()

    below, scale = gap(project_convex(params) if weight_map == "projected" else params)
    assert below.min() >= -1e-13 * scale  # rounding of sums of the size of F
    assert below.max() > 1e-3 * scale  # and it bends
    if weight_map == "projected":  # the signs are what makes it convex
        assert gap(jax.tree.map(lambda p: -jnp.abs(p), params))[0].min() < -1e-3 * scale


def test_core_against_loops():
    """The recursion by hand, in numpy: strides, zero padding, pooling, both pools."""
    y = images(2, 4, 4, 2)
    net = ConvICNN((3, 2), strides=2, weight_map="square", activation=softplus(1.0))
    params = drawn(net, y)
    p = jax.tree.map(np.float64, params["params"])
    g = lambda a: np.logaddexp(0, a)

    def convolve(image, kernel, stride):
        size = -(-image.shape[0] // stride)
        pad = max((size - 1) * stride + 3 - image.shape[0], 0)
        low = pad // 2
        padded = np.pad(image, ((low, pad - low), (low, pad - low), (0, 0)))
        at = lambda i, j: padded[i * stride : i * stride + 3, j * stride : j * stride + 3]
        rows = range(size)
        return np.array([[np.einsum("ijc,ijcf->f", at(i, j), kernel) for j in rows] for i in rows])

    def by_hand(image, pool):
        z = g(convolve(image, p["y_kernel_0"], 2) + p["bias_0"])
        own = convolve(image, p["y_kernel_1"], 4) + p["bias_1"]
        z = g(convolve(z, p["z_kernel_1"] ** 2, 2) + own)
        out = pool(z, axis=(0, 1)) @ p["z_kernel_2"] ** 2
        return (out + pool(image, axis=(0, 1)) @ p["y_kernel_2"])[0]

    for name, pool in (("sum", np.sum), ("mean", np.mean)):
        got = net.clone(reduce=name).apply(params, y)
        want = [by_hand(np.float64(image), pool) for image in y]
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)  # float32 sums


@pytest.fixture(scope="module")
def small():
    """Jacobians, values, the inverse's and the loss on 4x4x1 images, compiled once."""
    with enable_x64():
        x = images(4, 4, 4, 1)
        net, params = make(x, solver=PLAIN)

        @jax.jit
        def run(params, x):
            def f(x):
                out, record = net.apply(params, x, mutable=["diagnostics"])
                return out, (out, unconverged(record))

            J, (out, missed) = jax.vmap(jax.jacrev(f, has_aux=True))(x)
            back = net.apply(params, out, method="inverse")
            shifted = jnp.concatenate([out, out + 0.3 * x])
            loss = net.apply(params, jnp.concatenate([x, x]), shifted, method="fenchel_young")
            return J.reshape(4, 16, 16), out, back, loss.reshape(2, 4), missed.sum()

        yield net, x, jax.tree.map(np.asarray, run(params, x))


@pytest.mark.slow
def test_jacobian(small):
    """Symmetric, with eigenvalues in [alpha, alpha + beta]; rounding times beta is the slack."""
    net, _, (J, _, _, _, missed) = small
    np.testing.assert_allclose(J, np.swapaxes(J, -1, -2), atol=1e-10 * BETA)
    eigs = np.linalg.eigvalsh(J)
    assert eigs.min() >= ALPHA - 1e-10 and eigs.max() <= ALPHA + BETA + 1e-10
    assert np.ptp(eigs) > 0.1 * BETA and missed == 0  # the core bends it
    assert net.apply({"params": {}}, method="bounds") == (ALPHA, ALPHA + BETA)


@pytest.mark.slow
def test_inverse_and_fenchel_young(small):
    """f^-1 f = id; the loss is 0 at f(x) and at least |f - t|^2 / (2 beta) elsewhere."""
    _, x, (_, out, back, loss, _) = small
    np.testing.assert_allclose(back, x, atol=1e-8)  # tolerance 1e-11 (1 + |x|) / alpha, twice
    assert out.shape == x.shape
    np.testing.assert_allclose(loss[0], 0, atol=1e-9)
    least = np.square(0.3 * np.asarray(x)).sum((1, 2, 3)) / (2 * BETA)
    assert (loss[1] >= least * (1 - 1e-9)).all()


@pytest.mark.slow
@pytest.mark.parametrize("size", [16, 4])
def test_implicit_gradient(x64, size):
    """Along one direction of all parameters and x, against central differences; dense and CG."""
    x = images(2, size, size, 1)
    net, params = make(x, (2,), strides=2, train_alpha=True, train_beta=True)
    loss = jax.jit(jax.value_and_grad(lambda v: jnp.sum(jnp.sin(net.apply(v[0], v[1])))))
    point = (params, x)
    keys = iter(jax.random.split(jax.random.key(7), 20))
    way = jax.tree.map(lambda p: jax.random.normal(next(keys), p.shape, p.dtype), point)
    move = lambda h: jax.tree.map(lambda p, d: p + h * d, point, way)
    slope = loss(point)[1]
    for part in (0, 1):  # the parameters alone must matter, and x alone
        assert sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(slope[part])) > 1e-2
    got = sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), slope, way)))
    h = 1e-5
    want = (loss(move(h))[0] - loss(move(-h))[0]) / (2 * h)
    # h^2 from the formula and 1e-11 / h from the solver's tolerance.
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.slow
def test_matrix_free_size():
    """256 unknowns in float32, by Newton-CG: converges, secants within the bounds."""
    x = images(6, 16, 16, 1)
    assert x[0].size > DENSE_LIMIT
    net, params = make(x, strides=(2, 1), solver=None)

    def run(x):
        out, record = net.apply(params, x, mutable=["diagnostics"])
        return out, net.apply(params, x, method="diagnostics"), unconverged(record)

    # A dense Hessian of 256 unknowns appears as an array of that shape, as with "newton".
    def slope(net):
        return jax.make_jaxpr(jax.grad(lambda p: jnp.sum(net.apply(p, x))))(params)

    assert "256,256]" in str(slope(net.clone(solver=Solver("newton"))))
    assert "256,256]" not in str(slope(net))
    out, info, missed = jax.jit(run)(x)
    assert info.converged.all() and info.steps.shape == (6,) and missed == 0
    assert info.steps.min() >= 1
    i, j = np.array(list(itertools.combinations(range(6), 2))).T
    length = lambda a: np.linalg.norm((a[i] - a[j]).reshape(len(i), -1), axis=-1)
    dx, bound = length(np.asarray(x)), np.asarray(info.error_bound)
    ratio, slack = length(np.asarray(out)) / dx, (bound[i] + bound[j]) / dx + 1e-5
    assert (ratio >= ALPHA - slack).all() and (ratio <= ALPHA + BETA + slack).all()


def test_shapes_and_initialisation():
    """`init` solves nothing; the result has the shape of x for any leading shape."""
    x = images(2, 3, 4, 5, 2)
    net = mj.ConvBLNN([3], ALPHA, BETA, solver=Solver("gradient", max_steps=2))
    assert "while" not in str(jax.make_jaxpr(net.init)(jax.random.key(0), x))
    params = drawn(net, x)
    assert params["params"]["core"]["y_kernel_0"].shape == (3, 3, 2, 3)
    run = jax.jit(lambda x: (net.apply(params, x), net.apply(params, x.reshape(6, 4, 5, 2))))
    nested, flat = run(x)
    np.testing.assert_allclose(nested.reshape(6, 4, 5, 2), flat, rtol=1e-6)
    assert nested.shape == x.shape


@pytest.mark.parametrize(
    "options, message",
    [
        ({"features": ()}, "non-empty sequence of widths"),
        ({"alpha": -0.1}, "alpha must be >= 0"),
        ({"beta": 0.0}, "beta must be > 0"),
        ({"strides": (1, 2)}, "one for each of 1 layers"),
        ({"strides": 0}, "strides must be"),
        ({"kernel_size": 0}, "kernel_size must be made of integers >= 1"),
        ({"reduce": "max"}, "reduce must be one of"),
        ({"weight_map": "cube"}, "weight_map must be one of"),
        ({"activation": "relu"}, "no valid implicit rule"),
    ],
)
def test_bad_options(options, message):
    net = mj.ConvBLNN(**{"features": (2,), "alpha": 1.0, "beta": 1.0, **options})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(net.init, jax.random.key(0), jnp.ones((4, 4, 1)))


def test_bad_images():
    x = jnp.ones((2, 4, 4, 1))
    net = mj.ConvBLNN((2,), 1.0, 1.0)
    params = drawn(net, x)
    with pytest.raises(ValueError, match=r"x has 3 channels, but the parameters are for 1"):
        net.apply(params, jnp.ones((2, 4, 4, 3)))
    with pytest.raises(ValueError, match=r"shape \[..., h, w, c\].*got \(4, 4\)"):
        net.apply(params, jnp.ones((4, 4)))
    with pytest.raises(ValueError, match=r"each >= 1, got \(2, 0, 4, 1\)"):
        net.apply(params, jnp.ones((2, 0, 4, 1)))
    with pytest.raises(TypeError, match="floating"):
        net.apply(params, jnp.ones((2, 4, 4, 1), int))
    with pytest.raises(ValueError, match="targets must have x's shape"):
        net.apply(params, x, x[:1], method="fenchel_young")
    with pytest.raises(ValueError, match=r"y has 2 channels"):
        ConvICNN((2,)).apply({"params": params["params"]["core"]}, jnp.ones((4, 4, 2)))
