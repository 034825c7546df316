"""Certificates: sound against sampling in float64, right on hand-made cases, honest in words."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from certify_nets import ACTIVATIONS, WIDTH, gradients64, network, slopes

from monojax.certify import Certificate, CertifyError, certify_monotone
from monojax.certify.compiled import compiled_bounds
from monojax.certify.program import function_hash, gradient_program
from monojax.certify.search import posed

QUICK = ("leaky_relu", "tanh")


def quick_or_slow(names, quick):
    return [pytest.param(name, marks=[] if name in quick else pytest.mark.slow) for name in names]


@pytest.mark.parametrize(
    ("name", "deep"),
    [(QUICK[0], False), pytest.param(QUICK[1], False, marks=pytest.mark.slow)]
    + [pytest.param(n, True, marks=pytest.mark.full) for n in ACTIVATIONS],
)
def test_every_bound_holds_the_gradients_of_a_box(name, deep):
    """Slack: float64 rounding of the judge, far below a float32 unit."""
    fn = network(name, 3, deep=deep)
    rng = np.random.default_rng(1)
    centers = rng.standard_normal((3, WIDTH)).astype(np.float32)
    radius = np.asarray([[0.01], [0.1], [0.5]], np.float32)
    low, high = centers - radius, centers + radius
    program = gradient_program(fn, jax.ShapeDtypeStruct((WIDTH,), jnp.float32))
    share = rng.random((3, 2000, WIDTH))
    share[:, :200] = share[:, :200].round()
    points = low[:, None] + share * (np.float64(high) - low)[:, None]
    slopes_there = gradients64(fn, points.reshape(-1, WIDTH)).reshape(points.shape)
    widths = {}
    for bound in ("interval", "forward", "backward"):
        box = compiled_bounds(program, bound)(low, high)
        for i in range(3):
            seen = slopes_there[i]
            slack = 1e-12 * (1 + np.abs(seen).max())
            assert (np.float64(box.lo[i]) <= seen.min(axis=0) + slack).all(), bound
            assert (np.float64(box.hi[i]) >= seen.max(axis=0) - slack).all(), bound
        widths[bound] = np.asarray(box.hi) - np.asarray(box.lo)
    assert (widths["backward"] <= widths["forward"] * (1 + 1e-5)).all()
    assert (widths["forward"] <= widths["interval"] * (1 + 1e-5)).all()


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


@pytest.mark.parametrize(
    "name",
    quick_or_slow(["relu", "tanh", "softplus", "sigmoid", "group_sort", "maxout"], ["relu"]),
)
def test_networks_of_non_negative_weights_are_proved_at_the_root(name):
    found = certify_monotone(
        network(name, 5, positive=True), [-1.0] * WIDTH, [1.0] * WIDTH, [1] * WIDTH, budget=1
    )
    assert (found.status, found.stage, found.boxes) == ("proved", "bound", 1)
    assert (found.bounds[:, 0] >= 0).all()


def test_a_maximum_by_another_axis_is_no_maximum():
    """Compared with the maxima of the other axis, no entry need be equal."""

    def fn(x):
        square = x[:4].reshape(2, 2)
        other = jax.lax.broadcast_in_dim(square.max(axis=0), (2, 2), (0,))
        return x[4] * (square == other).astype(x.dtype).sum()

    point = np.asarray([1.0, 4.0, 3.0, 2.0, 1.0])
    for wrong in (fn, lambda x: x[4] * (x[:4] == x[:3].max()).astype(x.dtype).sum() * 1.0):
        lo, _ = slopes(wrong, point - 1.5, point + 1.5)
        assert lo[4] == 0


@pytest.mark.parametrize("bound", ["forward", pytest.param("backward", marks=pytest.mark.slow)])
def test_maximum_of_two_values_is_bounded_by_lines(bound):
    fn = lambda x: jnp.maximum(x[0], x[1]) * x[0]
    lo, hi = slopes(fn, [0.1, -1.0], [1.0, 1.0], bound)
    assert 0 < lo[0] <= 0.1 and 2 <= hi[0] < 3


def test_a_tie_refutes_nothing():
    """jax's slope at the kink is -1, the function rises on both sides."""
    fn = lambda x: 3 * jax.nn.relu(x[0]) - 3 * jax.nn.relu(-x[0]) - x[0]
    assert certify_monotone(fn, [0.0], [1.0], [1], 1, bound="interval").status != "refuted"


def test_masks_that_a_loop_keeps_are_bounded_by_lines():
    loop = lambda x: jax.lax.scan(lambda c, _: (jax.nn.relu(c / 2 + 0.1), None), x, None, length=2)
    lo, hi = slopes(lambda x: loop(x)[0].sum(), [-1.0, 0.0], [1.0, 1.0], "backward")
    assert lo == pytest.approx([0, 0.25]) and hi == pytest.approx([0.25, 0.25])
    assert lo[0] == 0


def test_a_pole_is_never_proved():
    found = certify_monotone(lambda x: 1 / x[0], [-1.0], [1.0], [-1], budget=200, bound="interval")
    assert found.status == "unknown" and 0 < found.volume_proved < 1
    assert found.seconds > 0 and found.boxes <= 200


def test_one_hot_groups_are_corners():
    """Between the corners the slope is negative, at them it is not."""
    fn = lambda x: x[0] * (x[1] ** 2 + x[2] ** 2 - 0.75)
    box = ([0.0] * 3, [1.0] * 3, [1, 0, 0])
    assert certify_monotone(fn, *box, budget=1, bound="interval").status == "refuted"
    found = certify_monotone(fn, *box, budget=100, onehot=[(1, 2)], bound="interval")
    assert found.status == "proved" and found.stage == "search"
    with pytest.raises(ValueError, match="one-hot"):
        certify_monotone(fn, [0.0] * 3, [1.0] * 3, [1, 1, 0], onehot=[(1, 2)])
    with pytest.raises(ValueError, match="at least one"):
        certify_monotone(fn, *box, onehot=[()])


@pytest.mark.slow
def test_groups_keep_to_the_budget():
    """A group of 10 does not fit into 3 boxes; one of 300 is more than a chunk."""
    for size, budget, status in ((10, 3, "unknown"), (300, 400, "proved")):
        fn = lambda x: x[0] * (jnp.square(x[1:]).sum() - 0.9)
        ends, group = np.ones(size + 1), [tuple(range(1, size + 1))]
        found = certify_monotone(
            fn, 0 * ends, ends, [1] + [0] * size, budget, onehot=group, bound="interval"
        )
        assert found.status == status and found.boxes <= budget


def test_a_certificate_is_filed_and_checked_later():
    fn = network("relu", 5, positive=True, deep=False)
    found = certify_monotone(
        fn, [-1.0] * WIDTH, [1.0] * WIDTH, [1] * WIDTH, budget=1, bound="interval"
    )
    again = Certificate.from_json(found.to_json())
    assert again.to_json() == found.to_json()
    assert again.verify(fn)
    assert not again.verify(network("relu", 6, positive=True, deep=False))
    with pytest.raises(TypeError, match="truth value"):
        bool(found)
    assert "certified" in str(found)
    assert not again.verify(lambda x: jnp.floor(x).sum())
    for field, value in (("stage", "search"), ("boxes", 0), ("volume_proved", 0.3)):
        assert not dataclasses.replace(again, **{field: value}).verify(fn), field
    assert not dataclasses.replace(again, bounds=again.bounds + 1).verify(fn)
    broken = json.loads(found.to_json()) | {"format": "x"}
    for text in ("no json", "{}", json.dumps(broken)):
        with pytest.raises(ValueError, match="no certificate"):
            Certificate.from_json(text)


def test_a_construction_that_falls_is_not_believed():
    """Its hash is right, its claim is not."""
    fn = lambda x: -(x[0] ** 3)
    found = certify_monotone(fn, [0.5], [1.0], [-1], budget=1, bound="interval")
    forged = dataclasses.replace(found, stage="construction", program=function_hash(fn, 1))
    assert forged.verify(fn)
    assert not dataclasses.replace(forged, directions=-found.directions).verify(fn)
    assert not forged.verify(lambda x: -(x[0] ** 5))


def test_a_counterexample_is_checked():
    fn = lambda x: jnp.square(x[0])
    key = jax.random.key(3)
    found = certify_monotone(fn, [-1.0], [1.0], [1], np.int64(4), key=key, bound="interval")
    found = Certificate.from_json(found.to_json())
    assert found.status == "refuted" and found.verify(fn)
    for point in (None, np.asarray([-2.0]), np.asarray([0.5])):
        assert not dataclasses.replace(found, counterexample=point).verify(fn)


def test_the_hash_sees_constants_wherever_they_stand():
    def looping(w):
        step = jax.jit(lambda c: jnp.tanh(c * jnp.asarray(w)))
        return lambda x: jax.lax.scan(lambda c, _: (step(c), None), x, None, length=2)[0].sum()

    def scaled(k):
        return lambda x: (x * k).sum()

    for make, one, two in ((looping, [1.0, 2.0], [1.0, -2.0]), (scaled, 0.1, 0.1 + 1e-16)):
        assert posed(make(one), 2).digest == posed(make(one), 2).digest
        assert posed(make(one), 2).digest != posed(make(two), 2).digest


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
