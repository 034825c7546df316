"""Group penalty, total activation, readings and reports against closed forms and differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import monojax as mj
from monojax import groups, models

K, PER = 3, 4
W = K * PER
# float32: sums of some hundred numbers of size 1, with a factor 10 to spare.
RTOL = 2e-5


def maps(seed=0, shape=(5, 2, 3), dtype=jnp.float32):
    """Non-negative maps `[b, h, w, W]`, about half of them zero, as after a ReLU."""
    return jax.nn.relu(jax.random.normal(jax.random.key(seed), (*shape, W), dtype))


def linear(seed=1, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), (K, W), dtype)


def pooled_head(v, a):
    """Average pooling and a linear layer V, for one example."""
    return v @ a.reshape(-1, a.shape[-1]).mean(axis=0)


def softmax_loss(o, labels, mu):
    """-log softmax in numpy float64."""
    o = mu * np.float64(o)
    top = o.max(axis=1, keepdims=True)
    lse = top[:, 0] + np.log(np.exp(o - top).sum(axis=1))
    return np.mean(lse - o[np.arange(len(o)), labels])


LABELS = np.array([0, 2, 1, 1, 0])


@pytest.mark.parametrize("shape", [(5, 2, 3), (5,), (5, 1), (5, 2, 2, 2)])
def test_total_activation_sums_slices_and_positions(shape):
    a = maps(3, shape)
    want = np.float64(a).reshape(shape[0], -1, K, PER).sum(axis=(1, 3))
    np.testing.assert_allclose(mj.total_activation(a, K), want, rtol=RTOL)
    slices = groups.class_slices(W, K)
    again = [np.float64(a)[..., part].reshape(shape[0], -1).sum(axis=1) for part in slices]
    np.testing.assert_allclose(np.stack(again, axis=1), want, rtol=1e-12)


def test_slices_cover_all_maps_once_in_order():
    where = np.concatenate([np.arange(50)[part] for part in groups.class_slices(50, 10)])
    np.testing.assert_array_equal(where, np.arange(50))


@pytest.mark.parametrize("mu", [0.0, 1.0, 50.0])
@pytest.mark.parametrize("jit", [False, True])
def test_linear_head_after_average_pooling_has_a_closed_form(mu, jit):
    """O_k = sum of V[y, w] over the slice, independent of the maps."""
    v = linear()
    call = lambda a, v: mj.group_penalty(a, LABELS, K, mu, head=functools.partial(pooled_head, v))
    o = np.float64(v)[LABELS].reshape(len(LABELS), K, PER).sum(axis=2)
    got = (jax.jit(call) if jit else call)(maps(), v)
    np.testing.assert_allclose(got, softmax_loss(o, LABELS, mu), rtol=RTOL, atol=1e-6)
    np.testing.assert_allclose(call(maps(7), v), got, rtol=RTOL, atol=1e-6)
    slope = jax.grad(call)(maps(), v)
    np.testing.assert_array_equal(slope, 0)  # the penalty shapes V only


def test_sum_pooling_gives_the_positions_times_as_much():
    v, a = linear(), maps()
    head = lambda one: v @ one.sum(axis=(0, 1))
    o = 6 * np.float64(v)[LABELS].reshape(len(LABELS), K, PER).sum(axis=2)
    got = mj.group_penalty(a, LABELS, K, 0.5, head=head)
    np.testing.assert_allclose(got, softmax_loss(o, LABELS, 0.5), rtol=RTOL)


@pytest.mark.parametrize("shape", [(5, 2, 3), (5,)])
def test_activation_form_is_a_softmax_of_means(shape):
    a = maps(2, shape)
    o = np.float64(a).reshape(shape[0], -1, K, PER).mean(axis=(1, 3))
    got = mj.group_penalty(a, LABELS, K, 10.0, form="activation")
    np.testing.assert_allclose(got, softmax_loss(o, LABELS, 10.0), rtol=RTOL)
    assert float(got) > 0


def test_zero_temperature_is_log_of_the_classes():
    head = functools.partial(pooled_head, linear())
    got = mj.group_penalty(maps(), LABELS, K, 0.0, head=head)
    np.testing.assert_allclose(got, np.log(K), rtol=RTOL)


def curved_head(params, a):
    """A head whose gradient depends on the maps."""
    hidden = jnp.tanh(a.reshape(-1, W).mean(axis=0) @ params["w"])
    return params["v"] @ hidden + jnp.square(a).mean() * jnp.arange(float(K))


@pytest.mark.parametrize("form", ["gradient", "activation"])
def test_gradient_agrees_with_finite_differences(form, x64):
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(W, 6))), "v": jnp.asarray(rng.normal(size=(K, 6)))}
    point, unravel = ravel_pytree((params, maps(0, (3, 2, 2), jnp.float64) + 0.1))

    @jax.jit
    def penalty(flat):
        params, a = unravel(flat)
        head = functools.partial(curved_head, params) if form == "gradient" else None
        return mj.group_penalty(a, LABELS[:3], K, 2.0, head=head, form=form)

    exact = jax.grad(penalty)(point)
    direction = jnp.asarray(rng.normal(size=(4, point.size)))
    step = 1e-5  # error step^2 = 1e-10, rounding 1e-16 / 1e-5 = 1e-11
    differences = [
        (penalty(point + step * d) - penalty(point - step * d)) / 2e-5 for d in direction
    ]
    np.testing.assert_allclose(direction @ exact, differences, rtol=1e-6, atol=1e-8)


def test_gradient_logits_agree_with_differences_of_the_head(x64):
    """O_k is the change of the true class's logit when its slice is raised everywhere."""
    rng = np.random.default_rng(1)
    params = {"w": jnp.asarray(rng.normal(size=(W, 6))), "v": jnp.asarray(rng.normal(size=(K, 6)))}
    a, head = maps(4, (5, 2, 2), jnp.float64), functools.partial(curved_head, params)
    got = groups.group_logits(a, jnp.asarray(LABELS), K, head=head)
    for k, part in enumerate(groups.class_slices(W, K)):
        for i, y in enumerate(LABELS):
            up, down = (head(a[i].at[..., part].add(e))[y] for e in (1e-5, -1e-5))
            assert float(got[i, k]) == pytest.approx(float((up - down) / 2e-5), rel=1e-6, abs=1e-8)


def test_vmap_over_heads_and_jit_agree_with_a_loop():
    heads = jnp.stack([linear(seed) for seed in (1, 2)])
    one = lambda v: mj.group_penalty(maps(), LABELS, K, 3.0, head=functools.partial(pooled_head, v))
    np.testing.assert_allclose(jax.jit(jax.vmap(one))(heads), [one(v) for v in heads], rtol=RTOL)


def test_bfloat16_maps_give_a_float32_penalty():
    a, v = maps().astype(jnp.bfloat16), linear().astype(jnp.bfloat16)
    head = functools.partial(pooled_head, v)
    got = mj.group_penalty(a, LABELS, K, 1.0, head=head)
    o = np.float64(v)[LABELS].reshape(len(LABELS), K, PER).sum(axis=2)
    assert got.dtype == jnp.float32
    # The head's slopes pass through bfloat16: 2^-8 per number, sums of 24 of them.
    np.testing.assert_allclose(got, softmax_loss(o, LABELS, 1.0), rtol=0.05)


def test_descent_on_the_penalty_makes_the_maps_tell_the_class():
    """Activation form, maps as free parameters: every example ends in its own slice."""
    a = jax.random.uniform(jax.random.key(0), (5, W))
    slope = jax.jit(jax.grad(lambda a: mj.group_penalty(a, LABELS, K, 5.0, form="activation")))
    for _ in range(50):
        a = jax.nn.relu(a - slope(a))
    np.testing.assert_array_equal(groups.activation_classifier(a, K).labels, LABELS)


def test_activation_classifier_reads_the_largest_slice():
    a = jnp.zeros((3, W)).at[0, 5].set(2.0).at[1, 0].set(1.0).at[1, 11].set(3.0)
    reading = groups.activation_classifier(a, K)
    np.testing.assert_array_equal(reading.labels, [1, 2, 0])  # the last has no activation at all
    np.testing.assert_allclose(reading.shares, [[0, 1, 0], [0.25, 0, 0.75], [1 / 3] * 3])
    np.testing.assert_array_equal(reading.totals, [[0, 2, 0], [1, 0, 3], [0, 0, 0]])


@pytest.mark.parametrize("jit", [False, True])
def test_detection_scores_by_hand(jit):
    totals = jnp.array([[4.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.0, 3.0, 0.0], [0.0, 0.0, 0.0]])
    logits = jnp.log(
        jnp.array([[0.7, 0.2, 0.1], [0.2, 0.2, 0.6], [0.5, 0.4, 0.1], [0.2, 0.3, 0.5]])
    )
    call = jax.jit(groups.detection_scores) if jit else groups.detection_scores
    scores = call(totals, logits)
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75)) / np.log(3)
    np.testing.assert_allclose(scores.s_ent, [1, 0, 1 - entropy, 0], atol=1e-6)
    np.testing.assert_allclose(scores.s_max, [1, 1 / 3, 0.75, 1 / 3], rtol=RTOL)
    np.testing.assert_allclose(scores.s_pred, [1, 1 / 3, 0.25, 1 / 3], rtol=RTOL)
    np.testing.assert_array_equal(scores.agree, [1, 0, 0, 0])
    np.testing.assert_allclose(scores.softmax, [0.7, 0.6, 0.5, 0.5], rtol=RTOL)


def test_class_report_counts_by_hand():
    totals = jnp.array([[3.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 3.0, 0.0], [2.0, 2.0, 0.0]])
    logits = jnp.eye(3)[jnp.array([0, 0, 1, 1])]
    report = jax.jit(groups.class_report)(totals, logits, jnp.array([0, 0, 1, 1]))
    np.testing.assert_array_equal(report.examples, [2, 2, 0])
    np.testing.assert_allclose(report.output_accuracy, [1, 1, np.nan])
    np.testing.assert_allclose(report.activation_accuracy, [0.5, 0.5, np.nan])
    np.testing.assert_allclose(report.agreement, [0.5, 0.5, np.nan])
    np.testing.assert_allclose(report.own_share, [0.375, 0.625, np.nan])
    np.testing.assert_array_equal(report.confusion, [[1, 1, 0], [1, 1, 0], [0, 0, 0]])


@pytest.mark.parametrize("wrong", [-1, 3])
def test_a_traced_label_that_is_no_class_is_no_other_class(wrong):
    """It cannot raise: the means are NaN, the counts lack it."""
    totals = jnp.array([[3.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    report = jax.jit(groups.class_report)(totals, totals, jnp.array([0, wrong]))
    np.testing.assert_array_equal(report.examples, [1, 0, 0])
    np.testing.assert_array_equal(report.confusion, [[1, 0, 0], [0, 0, 0], [0, 0, 0]])
    for means in report[1:5]:
        assert np.isnan(means).all()
    slopes = lambda y: groups.group_logits(totals, y, 3, head=lambda a: a**2)
    np.testing.assert_array_equal(
        jax.jit(slopes)(jnp.array([0, wrong])), [[6.0, 0.0, 0.0], [np.nan] * 3]
    )


def test_shares_of_nan_stay_nan_under_jit():
    totals = jnp.array([[jnp.nan, 1.0], [1.0, 3.0], [0.0, 0.0]])
    shares = np.asarray(jax.jit(groups.class_shares)(totals))
    np.testing.assert_allclose(shares[1:], [[0.25, 0.75], [0.5, 0.5]])
    assert np.isnan(shares[0]).all()


def test_extra_maps_are_as_many_as_asked_and_not_negative():
    module = models.ExtraMaps(W, K)
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 5))
    variables = module.init(jax.random.key(1), x)
    out, state = module.apply(variables, x, train=True, mutable=["batch_stats"])
    assert out.shape == (2, 3, 3, W)
    assert float(out.min()) == 0.0
    moved = jax.tree.map(jnp.subtract, state["batch_stats"], variables["batch_stats"])
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(moved))


HEAD = functools.partial(pooled_head, linear())


@pytest.mark.parametrize(
    "error, message, call",
    [
        (ValueError, "use 2000 or 3000 maps",
         lambda: groups.class_slices(2048, 1000)),
        (ValueError, "use 10 maps", lambda: groups.class_slices(4, 10)),
        (ValueError, "num_classes must be an integer", lambda: groups.class_slices(10, 0)),
        (ValueError, "num_maps must be an integer", lambda: groups.class_slices(2.0, 1)),
        (ValueError, "use 10 or 15 maps", lambda: mj.total_activation(maps(), 5)),
        (ValueError, r"\[b, h, w, maps\]", lambda: mj.total_activation(jnp.ones(W), K)),
        (ValueError, r"\[b, h, w, maps\]", lambda: mj.total_activation(jnp.ones((0, W)), K)),
        (TypeError, "floating", lambda: mj.total_activation(np.ones((2, W), int), K)),
        (ValueError, "1 of 5 examples", lambda: mj.total_activation(maps().at[0].set(np.nan), K)),
        (ValueError, "pass head=", lambda: mj.group_penalty(maps(), LABELS, K, 1.0)),
        (ValueError, "leave head out",
         lambda: mj.group_penalty(maps(), LABELS, K, 1.0, head=HEAD, form="activation")),
        (ValueError, "form must be",
         lambda: mj.group_penalty(maps(), LABELS, K, 1.0, form="slope")),
        (ValueError, "inverse_temperature",
         lambda: mj.group_penalty(maps(), LABELS, K, -1.0, head=HEAD)),
        (ValueError, "inverse_temperature",
         lambda: mj.group_penalty(maps(), LABELS, K, np.nan, head=HEAD)),
        (ValueError, "inverse_temperature",
         lambda: mj.group_penalty(maps(), LABELS, K, np.ones(3), head=HEAD)),
        (ValueError, r"labels must be integers of shape \(5,\)",
         lambda: mj.group_penalty(maps(), LABELS[:4], K, 1.0, head=HEAD)),
        (ValueError, r"labels must lie in \[0, 2\]",
         lambda: mj.group_penalty(maps(), LABELS + 1, K, 1.0, head=HEAD)),
        (ValueError, "head must map the features of one example",
         lambda: mj.group_penalty(maps(), LABELS, K, 1.0, head=lambda a: a.sum())),
        (ValueError, "after the ReLU", lambda: groups.class_shares(-jnp.ones((2, K)))),
        (ValueError, "after the ReLU", lambda: groups.class_shares(jnp.full((2, K), jnp.nan))),
        (ValueError, r"\[b, K\]", lambda: groups.class_shares(jnp.ones(K))),
        (ValueError, "one shape",
         lambda: groups.detection_scores(jnp.ones((2, 3)), jnp.ones((2, 4)))),
        (ValueError, "K >= 2", lambda: groups.detection_scores(jnp.ones((2, 1)), jnp.ones((2, 1)))),
        (ValueError, "one shape",
         lambda: groups.class_report(jnp.ones((2, 3)), jnp.ones((3, 3)), np.zeros(2, int))),
        (ValueError, "labels must lie",
         lambda: groups.class_report(jnp.ones((2, 3)), jnp.ones((2, 3)), np.full(2, 3))),
        (ValueError, "ExtraMaps",
         lambda: models.ExtraMaps(10, K).init(jax.random.key(0), jnp.ones((1, 2, 2, 4)))),
    ],
)  # fmt: skip
def test_bad_input_is_refused(error, message, call):
    with pytest.raises(error, match=message):
        call()


def test_shape_errors_come_under_jit_too():
    with pytest.raises(ValueError, match="use 10 or 15 maps"):
        jax.jit(lambda a: mj.total_activation(a, 5))(maps())
    with pytest.raises(ValueError, match="head must map"):
        jax.jit(lambda a: mj.group_penalty(a, LABELS, K, 1.0, head=lambda one: one))(maps())
