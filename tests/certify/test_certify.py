"""Certificates: sound against sampling in float64, right on hand-made cases, honest in words."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from monojax.base.compat import bind, enable_x64
from monojax.base.jaxprs import evaluate
from monojax.certify import Certificate, CertifyError, certify_monotone, gradient_bounds
from monojax.certify.bounds import compiled_bounds
from monojax.certify.program import gradient_program

WIDTH = 4


def pairs(z):
    """Sorts pairs."""
    a, b = z[::2], z[1::2]
    return jnp.concatenate([jnp.minimum(a, b), jnp.maximum(a, b)])


def layer_norm(z):
    return jnp.tanh((z - z.mean()) * jax.lax.rsqrt(jnp.square(z - z.mean()).mean() + 0.1))


def maxout(z):
    return z.reshape(-1, 2).max(axis=-1).repeat(2)


def convolved(z):
    kernel = jnp.asarray([[[0.5, -0.2]], [[0.3, 0.4]], [[-0.1, 0.6]]], z.dtype)
    out = jax.lax.conv_general_dilated(
        z[None, :, None], kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )
    return jnp.tanh(out[0, :, 0])


ACTIVATIONS = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "elu": jax.nn.elu,
    "group_sort": pairs,
    "maxout": maxout,
    "layer_norm": layer_norm,
    "convolution": convolved,
}


def network(name, seed, positive=False, width=8):
    """A random network of two hidden layers; ``positive``: mostly non-negative weights."""
    rng = np.random.default_rng(seed)
    shapes = ((WIDTH, width), (width, width), (width, 1))
    weights = [rng.standard_normal(s) / np.sqrt(s[0]) for s in shapes]
    if positive:
        weights = [np.abs(w) for w in weights]
    weights = [jnp.asarray(w, jnp.float32) for w in weights]
    bias = jnp.asarray(rng.standard_normal(width), jnp.float32)
    act = ACTIVATIONS[name]

    def fn(x):
        hidden = act(x @ weights[0] + bias)
        return (act(hidden @ weights[1]) @ weights[2])[0]

    return fn


def gradients64(fn, points):
    """Float64 gradients by jax, apart from the code under test."""
    with enable_x64():
        points = jnp.asarray(points, jnp.float64)
        program = gradient_program(fn, jax.ShapeDtypeStruct(points.shape[1:], jnp.float64))
        run = lambda x: evaluate(program, [x], lambda e, a: bind(e, *a))[0]
        return np.asarray(jax.jit(jax.vmap(run))(points))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_bound_holds_the_gradients_of_a_box(name):
    """Slack: float64 rounding of the judge, far below a float32 unit."""
    fn = network(name, 3)
    rng = np.random.default_rng(1)
    centers = rng.standard_normal((3, WIDTH)).astype(np.float32)
    radius = np.asarray([[0.01], [0.1], [0.5]], np.float32)
    low, high = centers - radius, centers + radius
    program = gradient_program(fn, jax.ShapeDtypeStruct((WIDTH,), jnp.float32))
    widths = {}
    for bound in ("interval", "forward", "backward"):
        box = compiled_bounds(program, bound)(low, high)
        for i in range(3):
            share = rng.random((2000, WIDTH))
            share[:200] = share[:200].round()
            seen = gradients64(fn, low[i] + share * (np.float64(high[i]) - low[i]))
            slack = 1e-12 * (1 + np.abs(seen).max())
            assert (np.float64(box.lo[i]) <= seen.min(axis=0) + slack).all(), bound
            assert (np.float64(box.hi[i]) >= seen.max(axis=0) - slack).all(), bound
        widths[bound] = np.asarray(box.hi) - np.asarray(box.lo)
    assert (widths["backward"] <= widths["forward"] * (1 + 1e-5)).all()
    assert (widths["forward"] <= widths["interval"] * (1 + 1e-5)).all()


def test_widening_keeps_rounding_from_certifying_a_falsehood():
    """The slope is 1 + 2^-20 - 1 - 2^-20 - 2^-30 < 0, and float32 sums it to 0 or more."""
    terms = np.asarray([1.0, 2.0**-20, -1.0, -(2.0**-20), -(2.0**-30)], np.float32)
    fn = lambda x: jnp.sum(jnp.asarray(terms) * x[0])
    naive = np.float32(0)
    for term in terms[[1, 4, 0, 2, 3]]:  # an order that float32 may take
        naive = np.float32(naive + term)
    assert naive >= 0 > np.float64(terms).sum()
    box = jax.jit(lambda a, b: gradient_bounds(fn, a, b, bound="interval"))(
        jnp.zeros(1), jnp.ones(1)
    )
    assert box.lo[0] <= np.float64(terms).sum()


@pytest.mark.parametrize(
    ("fn", "low", "directions", "status"),
    [
        (lambda x: x[0] ** 3, -1.0, [1], "proved"),
        (lambda x: x[0] ** 2, -1.0, [1], "refuted"),
        (lambda x: x[0] ** 2, 0.0, [1], "proved"),
        (lambda x: x[0] ** 2, -1.0, [0], "proved"),
        (lambda x: -jnp.exp(x[0]), -1.0, [-1], "proved"),
        (lambda x: jax.nn.relu(x[0] - 0.5), -1.0, [1], "proved"),  # a plateau of slope 0
        (lambda x: jnp.clip(x[0], -0.5, 0.5), -1.0, [1], "proved"),
        (lambda x: x[0] - 0.5 * jnp.sin(x[0]), -1.0, [1], "proved"),
    ],
)
def test_hand_made_cases(fn, low, directions, status):
    found = certify_monotone(fn, [low], [1.0], directions, budget=2000)
    assert found.status == status
    if status == "refuted":
        slope = gradients64(fn, found.counterexample[None])[0, 0] * directions[0]
        assert slope < 0


def test_a_narrow_dip_is_never_proved():
    """A dip of width 1e-3 in a rising function: refuted, or unknown, never proved."""
    dip = lambda x: x[0] - 2e-3 * jax.nn.sigmoid((x[0] - 0.3141) / 2e-4)
    found = certify_monotone(dip, [0.0], [1.0], [1], budget=3000)
    assert found.status == "refuted"
    assert gradients64(dip, found.counterexample[None])[0, 0] < 0


@pytest.mark.parametrize("name", ["relu", "tanh", "softplus", "sigmoid", "group_sort", "maxout"])
def test_networks_of_non_negative_weights_are_proved_at_the_root(name):
    found = certify_monotone(
        network(name, 5, positive=True), [-1.0] * WIDTH, [1.0] * WIDTH, [1] * WIDTH, budget=1
    )
    assert (found.status, found.stage, found.boxes) == ("proved", "bound", 1)
    assert (found.bounds[:, 0] >= 0).all()


def test_derivatives_are_the_functions_own():
    """A false rule and a stopped gradient cannot certify a falling function."""
    lie = jax.custom_jvp(lambda x: -x)
    lie.defjvp(lambda primals, tangents: (lie(*primals), tangents[0]))
    falling = [lambda x: lie(x[0]), lambda x: x[0] - 2 * jax.lax.stop_gradient(x[0])]
    for fn in falling:
        assert certify_monotone(fn, [-1.0], [1.0], [1], budget=10).status == "refuted"


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: jnp.floor(x[0]),
        lambda x: -jnp.where(x[0] > 0.3, 1.0, 0.0),
        lambda x: -(x[0] > 0.3).astype(float),
        lambda x: jnp.where(x[0] > x[1], 0.0, 1.0),
        lambda x: -jnp.sign(x[0]) + x[1],
        lambda x: jnp.asarray([1.0, 0.0])[jnp.argmax(x)],
        lambda x: jnp.asarray([3.0, 2.0, 1.0])[jnp.clip(x[0] * 3, 0, 2).astype(int)],
        lambda x: jnp.where(x[0] > 0.3, x[0] - 1.0, x[0]),
    ],
)
def test_jumps_are_refused(fn):
    """Slopes say nothing of them: each of these falls somewhere though no slope is negative."""
    with pytest.raises(CertifyError, match="jump"):
        certify_monotone(fn, [0.0, 0.0], [1.0, 1.0], [1, 0], budget=10)


def test_a_pole_is_never_proved():
    found = certify_monotone(lambda x: 1 / x[0], [-1.0], [1.0], [-1], budget=200)
    assert found.status == "unknown" and 0 < found.volume_proved < 1
    assert found.seconds > 0 and found.boxes <= 200


def test_one_hot_groups_are_corners():
    """Between the corners the slope is negative, at them it is not."""
    fn = lambda x: x[0] * (x[1] ** 2 + x[2] ** 2 - 0.75)
    box = ([0.0] * 3, [1.0] * 3, [1, 0, 0])
    assert certify_monotone(fn, *box, budget=100).status == "refuted"
    found = certify_monotone(fn, *box, budget=100, onehot=[(1, 2)])
    assert found.status == "proved" and found.stage == "search"
    with pytest.raises(ValueError, match="one-hot"):
        certify_monotone(fn, [0.0] * 3, [1.0] * 3, [1, 1, 0], onehot=[(1, 2)])


def test_a_certificate_is_filed_and_checked_later():
    fn = network("tanh", 5, positive=True)
    found = certify_monotone(fn, [-1.0] * WIDTH, [1.0] * WIDTH, [1] * WIDTH, budget=1)
    again = Certificate.from_json(found.to_json())
    assert again.to_json() == found.to_json()
    assert again.verify(fn)
    assert not again.verify(network("tanh", 6, positive=True))
    with pytest.raises(TypeError, match="truth value"):
        bool(found)
    assert "certified" in str(found)
    broken = json.loads(found.to_json()) | {"format": "x"}
    for text in ("no json", "{}", json.dumps(broken)):
        with pytest.raises(ValueError, match="no certificate"):
            Certificate.from_json(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(low=[1.0, 0.0]), "low must be <= high, got 1.0 > 0.5"),
        (dict(low=[0.0]), r"shape \[d\]"),
        (dict(high=[np.inf, 1.0]), "finite"),
        (dict(budget=0), "budget must be an integer >= 1"),
        (dict(budget=2.5), "budget must be an integer"),
        (dict(bound="tight"), "bound must be one of"),
        (dict(directions=[2, 0]), "directions must be"),
        (dict(directions=[1]), "directions must have shape"),
        (dict(onehot=[(0, 5)]), "onehot must hold"),
        (dict(fn=lambda x: x), "scalar"),
        (dict(fn=lambda x: jax.lax.lgamma(x[0] + 3)), "'lgamma'|'digamma'"),
    ],
)
def test_mistakes_are_told(options, message):
    call = dict(fn=lambda x: x.sum(), low=[0.0, 0.0], high=[0.5, 0.5], directions=[1, 0])
    call |= options
    with pytest.raises((ValueError, CertifyError), match=message):
        certify_monotone(**call)


@pytest.mark.slow
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_soundness_on_random_networks(name):
    """25 networks of each kind: no "proved" is contradicted, every "refuted" point violates."""
    counts = {"proved": 0, "refuted": 0, "unknown": 0}
    for seed in range(25):
        rng = np.random.default_rng([seed, 7])
        fn = network(name, seed, positive=seed % 2 == 0)
        center = rng.standard_normal(WIDTH) * 0.5
        radius = 10 ** rng.uniform(-2, 0.3, WIDTH)
        directions = rng.integers(0, 2, WIDTH) * (1 if seed % 2 == 0 else rng.choice([-1, 1]))
        directions[rng.integers(WIDTH)] = 1
        low, high = center - radius, center + radius
        found = certify_monotone(fn, low, high, directions, budget=600)
        counts[found.status] += 1
        if found.status == "refuted":
            slopes = gradients64(fn, found.counterexample[None])[0] * directions
            assert slopes.min() < 0
            continue
        seen = gradients64(fn, low + rng.random((10_000, WIDTH)) * (high - low))
        assert (seen >= found.bounds[:, 0] - 1e-12).all()
        assert (seen <= found.bounds[:, 1] + 1e-12).all()
        if found.status == "proved":
            assert (seen * directions).min() >= -1e-12
    assert counts["proved"] >= 3 and counts["refuted"] >= 1, counts
