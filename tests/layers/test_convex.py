"""Convex networks: convexity, exact Hessians, and constants that dominate what is sampled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import drawn

from monojax.conjugate import Activation, as_activation, softplus
from monojax.layers import ICNN, PartialICNN, project_convex
from monojax.layers.convex import INITIALISERS

SLOW = pytest.mark.slow


def make(features=(6, 5), dim=3, seed=0, scale=1.0, **kwargs):
    net = ICNN(features, **kwargs)
    params = net.init(jax.random.key(seed), jnp.ones(dim))  # eager: the operations are shared
    return net, jax.tree.map(lambda a: scale * a, params)


def hessians(net, params, points):
    return jax.jit(jax.vmap(jax.hessian(lambda y: net.apply(params, y))))(points)


@pytest.mark.slow
def test_recursion_by_hand():
    """Two hidden layers, written out; batch dimensions in front are kept."""
    net, params = make(activation=jax.nn.softplus)
    y, g = jax.random.normal(jax.random.key(1), (2, 4, 3)), jax.nn.softplus

    @jax.jit
    def by_hand(p, y):
        p = {k: v if v.ndim == 2 else v[None, None] for k, v in p.items()}
        z = g(y @ p["y_kernel_0"] + p["bias_0"])
        z = g(z @ jnp.maximum(p["z_kernel_1"], 0) + y @ p["y_kernel_1"] + p["bias_1"])
        z = g(z @ jnp.maximum(p["z_kernel_2"], 0) + y @ p["y_kernel_2"] + p["bias_2"])
        return z[..., 0]

    np.testing.assert_allclose(
        jax.jit(net.apply)(params, y), by_hand(params["params"], y), rtol=1e-5
    )


def test_parameter_count_of_the_paper():
    """h (d + 1) + (k - 1) h (d + 1 + h) + (d + 1 + h) = 4418 at d = 1, h = 64, k = 2."""
    params = jax.eval_shape(ICNN((64, 64)).init, jax.random.key(0), jnp.ones(1))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 4418


@pytest.mark.parametrize("weight_map", ["clamp", "softplus", "square", "abs", "projected"])
def test_convex_for_every_map_and_init(weight_map):
    """Smallest eigenvalue >= 0 up to float32 rounding of the largest (1e-5 relative)."""
    points = jax.random.normal(jax.random.key(1), (50, 3))
    net, _ = make(weight_map=weight_map, activation=softplus(2.0))
    curvatures = jax.jit(lambda p: jax.vmap(jax.hessian(lambda y: net.apply(p, y)))(points))
    for init in INITIALISERS:
        _, params = make(weight_map=weight_map, z_init=init, activation=softplus(2.0))
        eigs = np.linalg.eigvalsh(curvatures(params))
        assert eigs.min() >= -1e-5 * eigs.max() and eigs.max() > 1e-3, init


def test_mapped_initialisations_agree():
    """All maps start from the same clamped draw, up to the floor of 1e-3."""
    y = jax.random.normal(jax.random.key(1), (5, 3))
    maps = ("clamp", "softplus", "square", "abs", "projected")
    values = [jax.jit(net.apply)(params, y) for net, params in (make(weight_map=m) for m in maps)]
    for other in values[1:]:
        np.testing.assert_allclose(values[0], other, atol=0.05)


def test_project_convex_touches_only_the_weights_between_units():
    net, params = make(weight_map="projected")
    moved = jax.tree.map(lambda a: a - 0.3, params)
    p, q = project_convex(moved)["params"], moved["params"]
    assert p["z_kernel_1"].min() == 0 and q["z_kernel_1"].min() < 0
    np.testing.assert_array_equal(p["y_kernel_1"], q["y_kernel_1"])
    eigs = np.linalg.eigvalsh(hessians(net, project_convex(moved), jnp.eye(3)))
    assert eigs.min() >= -1e-5


@pytest.mark.parametrize(
    "activation, activate_output",
    [
        (softplus(3.0), True),
        ("elu", True),
        ("squared_relu", False),
        (jnp.exp, False),
        pytest.param(softplus(3.0), False, marks=SLOW),
        pytest.param("elu", False, marks=SLOW),
        pytest.param("squared_relu", True, marks=SLOW),
        pytest.param(jnp.exp, True, marks=SLOW),
    ],
)
def test_structured_hessian_is_exact(activation, activate_output):
    """Against automatic differentiation; 2e-5: float32 sums of 12 terms, relative."""
    net, params = make(activation=activation, activate_output=activate_output, scale=0.7)
    y, v = jnp.array([0.3, -0.5, 0.8]), jnp.array([1.0, 2.0, -1.0])

    @jax.jit
    def run(p):
        want = jax.hessian(lambda y: net.apply(p, y))(y)
        return want, net.maths.hessian(p["params"], y), net.maths.hvp(p["params"], y)(v)

    want, whole, product = run(params)
    scale = np.abs(want).max()
    np.testing.assert_allclose(whole, want, atol=2e-5 * scale)
    np.testing.assert_allclose(product, want @ v, atol=6e-5 * scale)


WIDE, ONE, DEEP = ((64, 64), 2), ((16,), 5), ((10,) * 10, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape, activation, output",
    [
        (WIDE, softplus(1.0), True),
        (ONE, softplus(10.0), False),
        (ONE, "elu", True),
        (((8,) * 4, 2), softplus(10.0), True),
        *(
            pytest.param(shape, activation, output, marks=SLOW)
            for shape in (WIDE, ONE, DEEP)
            for activation in (softplus(1.0), softplus(10.0), "elu")
            for output in (True, False)
        ),
    ],
)
def test_bounds_dominate_samples_and_beat_the_product(shape, activation, output):
    """Certified constants lie above everything sampled, and below the looser recursion."""
    net, params = make(*shape, activation=activation, activate_output=output)
    points = 3 * jax.random.normal(jax.random.key(1), (100, shape[1]))

    @jax.jit
    def run(p):
        f = lambda y: net.apply(p, y)
        sampled = jax.vmap(jax.grad(f))(points), jax.vmap(jax.hessian(f))(points)
        return *sampled, net.apply(p, method="constants"), net.maths.product_bound(p["params"])

    slopes, curvatures, (lipschitz, smoothness), loose = run(params)
    rounding = 1 + 1e-5
    assert np.linalg.norm(slopes, axis=1).max() <= lipschitz <= loose[0] * rounding
    assert np.linalg.eigvalsh(curvatures).max() <= smoothness <= loose[1] * rounding


def test_bounds_are_attained_by_one_unit():
    """F = softplus(w y + b) has Lipschitz constant |w| and smoothness w^2 / 4: nothing to spare."""
    net = ICNN((1,), softplus(1.0), activate_output=False)
    params = {
        "y_kernel_0": jnp.array([[3.0]]),
        "bias_0": jnp.zeros(1),
        "y_kernel_1": jnp.zeros((1, 1)),
        "bias_1": jnp.zeros(1),
        "z_kernel_1": jnp.ones((1, 1)),
    }
    lipschitz, smoothness = net.apply({"params": params}, method="constants")
    np.testing.assert_allclose([lipschitz, smoothness], [3.0, 9 / 4], rtol=1e-6)


def test_bounds_can_be_differentiated():
    net, params = make(activation=softplus(1.0))
    run = jax.jit(jax.value_and_grad(lambda p: net.apply(p, method="constants")[1]))
    bound, slopes = run(params)
    grads = slopes["params"]
    # A step against the gradient lowers the certified constant.
    lower = run({"params": {k: params["params"][k] - 1e-3 * g for k, g in grads.items()}})[0]
    assert lower < bound
    assert all(np.isfinite(g).all() for g in grads.values())
    assert np.abs(grads["y_kernel_0"]).max() > 0


def test_partial_is_convex_in_w_and_free_in_context():
    net = PartialICNN((7, 6), softplus(2.0))
    c, w = (
        jax.random.normal(jax.random.key(1), (40, 2)),
        jax.random.normal(jax.random.key(2), (40, 3)),
    )
    params = drawn(net, c, w)
    value = lambda c, w: net.apply(params, c, w)
    second = [jax.hessian(value, argnums=i) for i in (1, 0)]
    in_w, in_c = jax.jit(lambda *a: [jax.vmap(h)(*a) for h in second])(c, w)
    eigs = np.linalg.eigvalsh(in_w)
    assert eigs.min() >= -1e-5 * eigs.max() and eigs.max() > 1e-3
    assert np.linalg.eigvalsh(in_c).min() < -1e-3  # not convex in the context


def test_partial_uses_every_block():
    """The released loop skips one declared block; here every parameter moves the output."""
    net = PartialICNN((4, 4, 4), softplus(1.0))
    c, w = jnp.ones(2), jnp.ones(3)
    params = drawn(net, c, w)
    params["params"] = {  # clamped weights that are negative would move nothing
        name: jnp.abs(leaf) if name.startswith("z_kernel") else leaf
        for name, leaf in params["params"].items()
    }
    grads = jax.jit(jax.grad(lambda p: net.apply(p, c, w)))(params)["params"]
    unused = {
        jax.tree_util.keystr(path)
        for path, g in jax.tree_util.tree_leaves_with_path(grads)
        if not np.abs(g).max() > 0
    }
    assert not unused
    assert {f"z_kernel_{i}" for i in (1, 2, 3)} <= set(grads) and "y_3" in grads


def test_activations():
    assert as_activation("softplus") is softplus(1.0) is as_activation(jax.nn.softplus)
    assert as_activation(softplus(10.0)) is softplus(10.0) is ICNN((2,)).activation
    with pytest.raises(TypeError, match="sharpness"):
        softplus()
    assert as_activation(jax.nn.relu).piecewise_linear and as_activation("relu").piecewise_linear
    leaky = as_activation(lambda a: jnp.maximum(a, 0.1 * a))
    assert leaky.piecewise_linear and not as_activation(jnp.exp).piecewise_linear
    a = jnp.linspace(-3, 3, 13)
    first, second = softplus(4.0).derivatives(a)
    plain = Activation(softplus(4.0).function).derivatives(a)
    np.testing.assert_allclose(first, plain[0], atol=1e-6)
    np.testing.assert_allclose(second, plain[1], atol=1e-5)


def test_bad_input():
    for features in ((), (3, 0)):
        with pytest.raises(ValueError, match="features"):
            make(features)
        with pytest.raises(ValueError, match="features"):
            PartialICNN(features).init(jax.random.key(0), jnp.ones(2), jnp.ones(3))
    with pytest.raises(ValueError, match="convex and non-decreasing"):
        make(activation=jnp.tanh)
    with pytest.raises(ValueError, match="activation must be"):
        make(activation="gelu")
    with pytest.raises(TypeError, match="callable"):
        make(activation=3)
    with pytest.raises(ValueError, match="weight_map"):
        make(weight_map="cube")
    with pytest.raises(ValueError, match="z_init must be"):
        make(z_init="zeros")
    with pytest.raises(ValueError, match="sharpness"):
        softplus(0.0)
    net, params = make()
    with pytest.raises(ValueError, match="parameters are for 3"):
        net.apply(params, jnp.ones(4))
    with pytest.raises(ValueError, match="same leading shape"):
        PartialICNN((3,)).init(jax.random.key(0), jnp.ones((2, 2)), jnp.ones((3, 3)))
    net, params = make(activation=jnp.exp)
    with pytest.raises(ValueError, match="not known"):
        net.apply(params, method="bounds")
