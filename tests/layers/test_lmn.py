"""LMN: monotone in its directions, Lipschitz in its norm, equal to the package monotonenorm."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import drawn

from monojax.layers.lmn import LMN, NormDense, constrain, lmn_bound

KEY = jax.random.key(0)
TOL = 1e-5  # float32 rounding of sums over at most 16 units, three layers deep
ORDS = {"one": 1, "two": 2, "inf": np.inf}
DIRECTIONS = (1, 0, -1, 1)


def spread(variables, factor):
    """Weights x factor and biases spread, so that units sit in every order."""
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [
        factor * (p + 0.3 * jax.random.normal(k, p.shape))
        for p, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, noisy)


def network(lipschitz=2.0, directions=DIRECTIONS, norm="one", features=(16, 16, 1)):
    model = LMN(features, lipschitz, directions, norm)
    return model, jax.jit(model.init)(KEY, jnp.ones((1, len(directions))))


@functools.cache
def values_and_slopes(norm):
    """Compiled once per norm: the constant travels with the weights."""

    def one(variables, lipschitz, z):
        return LMN((16, 16, 1), lipschitz, DIRECTIONS, norm).apply(variables, z)[0]

    return jax.jit(jax.vmap(jax.value_and_grad(one, argnums=2), in_axes=(None, None, 0)))


@pytest.mark.parametrize("factor", [1.0, 10.0])
@pytest.mark.parametrize("lipschitz", [0.3, 25.0])
@pytest.mark.parametrize("norm", list(ORDS))
def test_slopes_lie_where_they_are_certified(norm, lipschitz, factor):
    """Local slopes at 200 points and the network's constant in its norm over all pairs."""
    variables = spread(drawn(LMN((16, 16, 1), 1.0, DIRECTIONS), jnp.ones((1, 4))), factor)
    x = 3 * jax.random.normal(KEY, (200, 4))
    f, slopes = (np.asarray(a) for a in values_and_slopes(norm)(variables, lipschitz, x))
    slopes = slopes / lipschitz
    signed = slopes * np.array(DIRECTIONS)
    assert signed.min() >= -TOL
    assert signed.max() <= 2 + TOL
    assert np.abs(slopes[:, 1]).max() <= 1 + TOL
    g = f - lipschitz * np.asarray(x) @ np.array(DIRECTIONS)
    distance = np.linalg.norm(np.asarray(x)[:, None] - np.asarray(x), ord=ORDS[norm], axis=-1)
    close = distance + np.eye(200)
    for values, bound in ((g, lipschitz), (f, lmn_bound(lipschitz, DIRECTIONS, norm))):
        assert (np.abs(values[:, None] - values) / close).max() <= bound * (1 + 1e-4)


def test_monotone_along_its_directions():
    """Moving along each direction never lowers the output; 1e-4 = float32 at values of 50."""
    model, variables = network(5.0, norm="two")
    variables = spread(variables, 10.0)
    x = jax.random.normal(KEY, (300, 4))
    step = jnp.abs(jax.random.normal(jax.random.key(2), (300, 4))) * jnp.array([DIRECTIONS])
    run = jax.jit(model.apply)
    rise = run(variables, x + step) - run(variables, x)
    assert float(rise.min()) >= -1e-4
    assert float(rise.max()) > 1


def test_bounds_are_reached():
    """Large positive weights saturate every layer: g has slope lambda, f has 2 lambda or 0."""
    for sign, want in ((1.0, 4.0), (-1.0, 0.0)):
        model, variables = network(2.0, directions=(1,), features=(2, 1))
        big = jax.tree.map(lambda p: jnp.full_like(p, 100.0), variables)
        last = big["params"]["NormDense_1"]["kernel"]
        big["params"]["NormDense_1"]["kernel"] = sign * last
        slope = jax.jit(jax.jacrev(model.apply, argnums=1))(big, jnp.ones(1))[0]
        np.testing.assert_allclose(slope, [want], atol=TOL)


@pytest.mark.parametrize("max_norm", [0.5, 1.0, 3.0])
def test_constrained_matrices_keep_their_operator_norm(max_norm):
    """Against numpy's definitions, and small matrices are left alone."""
    kernel = 4 * jax.random.normal(KEY, (5, 7))
    w = lambda kind: np.asarray(constrain(kernel, kind, max_norm), np.float64).T
    limit = max_norm * (1 + 1e-6)
    assert np.abs(w("one")).sum(axis=0).max() <= limit
    assert np.abs(w("inf")).sum(axis=1).max() <= limit
    assert np.abs(w("one-inf")).max() <= limit
    assert np.linalg.norm(w("two-inf"), axis=1).max() <= limit
    tiny = 1e-3 * kernel
    for kind in ("one", "inf", "one-inf", "two-inf"):
        np.testing.assert_array_equal(constrain(tiny, kind, max_norm), tiny)


def test_closed_form():
    """1 -> 2 -> 1 with unit weights: relu-like pieces by sorting (x, -x), plus lambda x."""
    model = LMN((2, 1), 1.0, (1,))
    params = {
        "NormDense_0": {"kernel": jnp.array([[1.0, -1.0]]), "bias": jnp.zeros(2)},
        "NormDense_1": {"kernel": jnp.array([[0.0], [1.0]]), "bias": jnp.zeros(1)},
    }
    x = jnp.array([[-2.0], [0.5]])  # max(x, -x) + x
    np.testing.assert_allclose(model.apply({"params": params}, x), [[0.0], [1.0]])


def test_toy_network_has_the_published_size():
    variables = jax.eval_shape(LMN((64, 64, 1), 2.0, (1,)).init, KEY, jnp.ones((1, 1)))
    assert sum(p.size for p in jax.tree.leaves(variables)) == 4353


def test_transforms_dtypes_and_several_outputs():
    model, variables = network(features=(6, 3))
    x = jax.random.normal(KEY, (5, 4))
    out = model.apply(variables, x)
    assert out.shape == (5, 3)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, x), out, rtol=1e-6, atol=1e-6)
    one = jax.vmap(lambda z: model.apply(variables, z))(x)
    np.testing.assert_allclose(one, out, rtol=1e-6, atol=1e-6)
    jacobian = jax.jit(jax.vmap(jax.jacrev(lambda z: model.apply(variables, z))))(x)
    assert (np.asarray(jacobian) * np.array(DIRECTIONS)).min() >= -TOL
    traced = jax.jit(lambda c: LMN((6, 3), c, DIRECTIONS).apply(variables, x))(2.0)
    np.testing.assert_allclose(traced, out, rtol=1e-6, atol=1e-6)


def test_float64_input_gives_float64(x64):
    """The same weights in the input's dtype; 1e-5: float32 rounding of the narrow result."""
    model = LMN((6, 3), 2.0, DIRECTIONS)
    x = jax.random.normal(KEY, (5, 4), jnp.float32)
    variables = drawn(model, x)
    wide = model.apply(variables, x.astype(jnp.float64))
    assert wide.dtype == jnp.float64
    np.testing.assert_allclose(wide, model.apply(variables, x), atol=1e-5)


@pytest.mark.parametrize("kind", ["one", "inf", "one-inf", "two-inf"])
def test_zero_weights_have_finite_gradients(kind):
    slope = jax.jit(jax.grad(lambda w: (constrain(w, kind) ** 2).sum()))(jnp.zeros((3, 2)))
    assert bool(jnp.isfinite(slope).all())


@pytest.mark.parametrize(("norm", "want"), [("one", 4.0), ("two", 2 * (1 + 3**0.5)), ("inf", 8.0)])
def test_bound_values(norm, want):
    np.testing.assert_allclose(lmn_bound(2.0, DIRECTIONS, norm), want)
    assert lmn_bound(2.0, (0, 0), norm) == 2.0


# --- the package ------------------------------------------------------------------------------


@pytest.fixture
def packages():
    torch = pytest.importorskip("torch", reason="the oracle monotonenorm runs on torch")
    oracle = pytest.importorskip("monotonenorm", reason="the oracle of this test")
    return torch, oracle


def package_network(packages, first, lipschitz, directions, widths):
    torch, oracle = packages
    torch.manual_seed(0)
    layers, before, kind = [], len(directions), first
    for i, width in enumerate(widths):
        linear = torch.nn.Linear(before, width)
        with torch.no_grad():
            linear.weight.mul_(3.0)  # so that the constraint acts
        per_layer = lipschitz ** (1 / len(widths))
        layers.append(oracle.direct_norm(linear, kind=kind, max_norm=per_layer))
        if i < len(widths) - 1:
            layers.append(oracle.GroupSort(width // 2))
        before, kind = width, "inf"
    net = torch.nn.Sequential(*layers)
    return oracle.SigmaNet(net, sigma=lipschitz, monotone_constraints=list(directions))


def copied(net):
    params, i = {}, 0
    for layer in net.nn:
        if hasattr(layer, "parametrizations"):
            raw = layer.parametrizations.weight.original.detach().numpy()
            params[f"NormDense_{i}"] = {
                "kernel": jnp.asarray(raw.T),
                "bias": jnp.asarray(layer.bias.detach().numpy()),
            }
            i += 1
    return {"params": params}


@pytest.mark.oracle
@pytest.mark.parametrize("lipschitz", [0.5, 4.0])
@pytest.mark.parametrize(
    ("norm", "first"), [("one", "one-inf"), ("two", "two-inf"), ("inf", "inf")]
)
def test_equals_monotonenorm_with_copied_weights(packages, norm, first, lipschitz):
    """Outputs and gradients of the raw weights, float32; 1e-5: two orders of summation."""
    torch = packages[0]
    widths = (16, 8, 2)
    net = package_network(packages, first, lipschitz, DIRECTIONS, widths)
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    want = net(torch.tensor(x))
    model, variables = LMN(widths, lipschitz, DIRECTIONS, norm), copied(net)
    np.testing.assert_allclose(model.apply(variables, x), want.detach(), rtol=1e-5, atol=1e-5)
    (want**2).mean().backward()
    slopes = jax.grad(lambda v: (model.apply(v, x) ** 2).mean())(variables)["params"]
    normed = [layer for layer in net.nn if hasattr(layer, "parametrizations")]
    for i, layer in enumerate(normed):
        raw = layer.parametrizations.weight.original.grad.numpy().T
        got = slopes[f"NormDense_{i}"]["kernel"]
        np.testing.assert_allclose(got, raw, rtol=1e-3, atol=1e-5 * max(1, np.abs(raw).max()))


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["one", "inf", "one-inf", "two-inf"])
def test_every_kind_equals_monotonenorm(packages, kind):
    torch, oracle = packages
    kernel = np.random.default_rng(1).normal(size=(6, 9)).astype(np.float32)
    for max_norm in (0.5, 2.0):
        want = oracle.get_normed_weights(torch.tensor(kernel.T.copy()), kind, False, max_norm, True)
        got = constrain(jnp.asarray(kernel), kind, max_norm)
        np.testing.assert_allclose(got, want.numpy().T, rtol=1e-6)


# --- bad input --------------------------------------------------------------------------------


X = jnp.ones((2, 3))


@pytest.mark.parametrize("features", [(), 5, (4, 0)])
def test_rejects_bad_features(features):
    with pytest.raises(ValueError, match="features"):
        LMN(features, 1.0, (1, 0, 0)).init(KEY, X)


@pytest.mark.parametrize("lipschitz", [0.0, -2.0, float("nan")])
def test_rejects_bad_constants(lipschitz):
    with pytest.raises(ValueError, match="lipschitz must be finite and > 0"):
        LMN((4, 1), lipschitz, (1, 0, 0)).init(KEY, X)
    with pytest.raises(ValueError, match="lipschitz must be finite and > 0"):
        lmn_bound(lipschitz, (1,))


@pytest.mark.parametrize(
    ("directions", "match"),
    [((1, 0), "shape"), ((1, 0, 0, 0), "shape"), ((1, 2, 0), "entry 1 is 2"), ((1, 0.5, 0), "0.5")],
)
def test_rejects_bad_directions(directions, match):
    with pytest.raises(ValueError, match=f"directions.*{match}"):
        LMN((4, 1), 1.0, directions).init(KEY, X)


@pytest.mark.slow
def test_rejects_unknown_names_odd_widths_and_other_inputs():
    with pytest.raises(ValueError, match=r"norm must be one of .*'inf'.*got 'infinity'"):
        LMN((4, 1), 1.0, (1, 0, 0), norm="infinity").init(KEY, X)
    with pytest.raises(ValueError, match=r"one of .*got 'one_inf'.*did you mean 'one-inf'"):
        NormDense(4, kind="one_inf").init(KEY, X)
    with pytest.raises(ValueError, match="max_norm"):
        NormDense(4, max_norm=0.0).init(KEY, X)
    with pytest.raises(ValueError, match="multiples of group_size 2"):
        LMN((5, 1), 1.0, (1, 0, 0)).init(KEY, X)
    model = LMN((4, 1), 1.0, (1, 0, 0))
    variables = model.init(KEY, X)
    with pytest.raises(ValueError, match="directions must have shape"):
        model.apply(variables, jnp.ones((2, 4)))
    with pytest.raises(ValueError, match="another width"):
        NormDense(4).apply(NormDense(4).init(KEY, X), jnp.ones((2, 4)))
