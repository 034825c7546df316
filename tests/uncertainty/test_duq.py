"""The DUQ head: kernels and loss against float64 numpy, centroids against their recursion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import monojax as mj
from monojax.penalties import gradient_norm_penalty
from monojax.uncertainty import kernel_loss, log_kernels

RTOL = 2e-5  # float32: a mean of a few squares, and functions right to a unit or two
RNG = np.random.default_rng(0)
H, Y = RNG.normal(size=(12, 5)).astype(np.float32), np.arange(12) % 3
HEAD = mj.DUQ(3, embedding=4, length_scale=0.5)


@pytest.fixture(scope="module")
def variables():
    return HEAD.init(jax.random.key(0), H)


def update(head, variables, h, y, **options):
    """The variables after one update, and what it returned."""
    found, moved = head.apply(variables, h, y, method="update", mutable=["centroids"], **options)
    return {**variables, **moved}, found


def in_numpy(z, e, sigma):
    gaps = np.asarray(z, np.float64) - np.asarray(e, np.float64)
    return -np.square(gaps).mean(axis=-1) / (2 * sigma**2)


@pytest.mark.parametrize("jit", [False, True])
def test_kernels_and_loss_in_closed_form(variables, jit):
    kernel = np.asarray(variables["params"]["kernel"], np.float64)
    e = np.asarray(HEAD.apply(variables, method="centroids"))
    np.testing.assert_allclose(e, variables["centroids"]["sum"] / 20, rtol=1e-6)
    want = in_numpy(np.einsum("np,cmp->ncm", H, kernel), e, 0.5)
    call = lambda v, h, method: HEAD.apply(v, h, method=method)
    call = jax.jit(call, static_argnames="method") if jit else call
    np.testing.assert_allclose(call(variables, H, method="log_kernels"), want, rtol=RTOL)
    np.testing.assert_allclose(call(variables, H, method="__call__"), np.exp(want), rtol=1e-4)
    own = Y[:, None] == np.arange(3)
    bce = -np.where(own, want, np.log(-np.expm1(want))).mean()
    found = HEAD.apply(variables, H, Y, method="loss")
    np.testing.assert_allclose(found, bce, rtol=RTOL)
    some = np.r_[np.ones(6), np.zeros(6)]
    found = HEAD.apply(variables, H, Y, method="loss", weights=some)
    bce = -np.where(own, want, np.log(-np.expm1(want)))[:6].mean()
    np.testing.assert_allclose(found, bce, rtol=RTOL)


def test_loss_and_gradient_stay_finite_where_kernels_underflow():
    at = lambda z: kernel_loss(log_kernels(z, jnp.zeros((2, 1)), 0.1), jnp.array([0, 1]))
    both = jax.jit(jax.value_and_grad(at))
    far = jnp.full((2, 1, 1), 1e6)
    for z in (far, jnp.zeros((2, 1, 1)), jnp.full((2, 1, 1), 1e-6)):
        value, slope = both(z)
        assert np.isfinite(value) and np.isfinite(slope).all()
    assert float(at(far)) == pytest.approx(1e12 / (2 * 0.01) / 2, rel=1e-4)


def test_centroids_are_moving_averages(variables):
    kernel = np.asarray(variables["params"]["kernel"], np.float64)
    count, total = np.full(3, 20.0), np.asarray(variables["centroids"]["sum"], np.float64)
    moved = variables
    run = jax.jit(lambda v, h, y: update(HEAD, v, h, y))
    for turn in range(3):
        h, y = H[turn:], Y[turn:]
        moved, number = run(moved, h, y)
        embedded = np.einsum("np,cmp->ncm", h, kernel)
        assert number.tolist() == np.bincount(y, minlength=3).tolist()
        for c in range(3):
            total[c] = 0.99 * total[c] + 0.01 * embedded[y == c, c].sum(axis=0)
        count = 0.99 * count + 0.01 * np.bincount(y, minlength=3)
    np.testing.assert_allclose(moved["centroids"]["count"], count, rtol=1e-5)
    want = total / count[:, None]
    np.testing.assert_allclose(HEAD.apply(moved, method="centroids"), want, rtol=1e-4, atol=1e-5)
    assert moved["centroids"]["examples"].sum() == 12 + 11 + 10
    assert "params" not in HEAD.apply(variables, H, Y, method="update", mutable=["centroids"])[1]


def test_a_class_without_examples_keeps_its_centroid_for_ever(variables):
    start = HEAD.apply(variables, method="centroids")
    only = jnp.zeros(12, int)

    def turn(v, _):
        return update(HEAD, v, H, only)[0], None

    moved = jax.jit(lambda v: jax.lax.scan(turn, v, length=20_000)[0])(variables)
    e = HEAD.apply(moved, method="centroids")
    # Sum and count fade together: rounding of 700 products, then neither moves.
    np.testing.assert_allclose(e[1:], start[1:], rtol=1e-3)
    assert moved["centroids"]["examples"].tolist() == [240_000, 0, 0]
    assert float(moved["centroids"]["count"].min()) > 0.0099
    weights = np.zeros(12)  # rows that only fill a batch move nothing
    same, number = update(HEAD, moved, H, only, weights=weights)
    np.testing.assert_allclose(HEAD.apply(same, method="centroids"), e, rtol=1e-5)
    assert number.tolist() == [0, 0, 0]


def test_no_gradient_flows_into_the_centroids(variables):
    loss = lambda v: HEAD.apply(v, H, Y, method="loss")
    floats = {**variables, "centroids": {**variables["centroids"]}}
    examples = floats["centroids"].pop("examples")
    with_all = lambda v: loss({**v, "centroids": {**v["centroids"], "examples": examples}})
    slopes = jax.jit(jax.grad(with_all))(floats)
    assert np.abs(slopes["params"]["kernel"]).max() > 0
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(slopes["centroids"]))


def test_the_identity_head_has_no_parameters_and_keeps_distances():
    head = mj.DUQ(3, head="identity", length_scale=1.0)
    variables = head.init(jax.random.key(0), H)
    assert "params" not in variables
    for _ in range(3):
        variables, _ = update(head, variables, H, Y)
    e = np.asarray(head.apply(variables, method="centroids"))
    want = in_numpy(H[:, None], e[None], 1.0)
    np.testing.assert_allclose(head.apply(variables, H, method="log_kernels"), want, rtol=RTOL)
    certainty = head.apply(variables, H, method="certainty")
    np.testing.assert_allclose(certainty, np.exp(want).max(axis=1), rtol=1e-4)
    with pytest.raises(ValueError, match="width 4, the centroids 5"):
        head.apply(variables, H[:, :4])


def test_half_precision_features_are_computed_in_float32(variables):
    h = jnp.asarray(H, jnp.bfloat16)
    found = HEAD.apply(variables, h)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, HEAD.apply(variables, h.astype(jnp.float32)))


def test_float64(x64):
    head = mj.DUQ(3, head="identity")
    variables = head.init(jax.random.key(0), H.astype(np.float64))
    e = head.apply(variables, method="centroids")
    found = head.apply(variables, H.astype(np.float64), method="log_kernels")
    np.testing.assert_allclose(found, in_numpy(H[:, None], e[None], 0.1), rtol=1e-12)


def test_the_two_sided_penalty_in_closed_form():
    x = jnp.asarray(H)
    a = np.array([0.5, -2.0, 0.0, 1.0, 0.3])
    fn = lambda x: jnp.sin(x @ jnp.asarray(a, x.dtype))
    slopes = np.abs(np.cos(H.astype(np.float64) @ a)) * np.linalg.norm(a)
    penalty = jax.jit(lambda x, norm: gradient_norm_penalty(fn, x, norm=norm))
    for norm in (1.0, 0.0):
        want = np.mean((slopes - norm) ** 2)
        np.testing.assert_allclose(penalty(x, norm), want, rtol=1e-4)
    flat = jax.value_and_grad(lambda w: gradient_norm_penalty(lambda x: w * x[0] ** 2, 0 * x))
    value, slope = jax.jit(flat)(1.0)
    assert float(value) == 1 and float(slope) == 0  # not NaN where the length is 0


@pytest.mark.slow
def test_the_penalty_of_kernels_trains(variables):
    """What DUQ's regulariser asks: the slope of the sum of kernels, in the parameters' gradient."""
    fn = lambda v: lambda x: HEAD.apply(v, x).sum()
    params, rest = variables["params"], variables["centroids"]
    loss = lambda p: gradient_norm_penalty(fn({"params": p, "centroids": rest}), jnp.asarray(H))
    value, slope = jax.jit(jax.value_and_grad(loss))(params)
    assert np.isfinite(value) and np.abs(slope["kernel"]).max() > 0
    step = 1e-3 * slope["kernel"] / np.linalg.norm(slope["kernel"])
    moved = loss({"kernel": params["kernel"] + step}) - loss({"kernel": params["kernel"] - step})
    assert float(moved) == pytest.approx(2e-3 * np.linalg.norm(slope["kernel"]), rel=0.1)


def test_the_head_is_saved_as_a_folder(variables, tmp_path):
    pytest.importorskip("orbax.checkpoint", reason="saving needs orbax")
    mj.save(tmp_path / "head", HEAD, variables)
    module, loaded = mj.load(tmp_path / "head")
    assert module == HEAD
    np.testing.assert_array_equal(module.apply(loaded, H), HEAD.apply(variables, H))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda v: HEAD.apply(v, H, Y + 1, method="loss"), r"labels must lie in \[0, 2\]"),
        (lambda v: HEAD.apply(v, H, Y[:5], method="loss"), "labels must be integers of shape"),
        (lambda v: HEAD.apply(v, H, Y + 0.5, method="loss"), "labels must be integers"),
        (lambda v: HEAD.apply(v, H, Y, method="loss", weights=np.ones(3)), "weights"),
        (lambda v: HEAD.apply(v, H, method="certainty"), "certainty before training"),
        (lambda v: HEAD.apply(v, H, Y, method="update"), "mutable"),
        (lambda v: HEAD.apply(v, Y), "features must be floating"),
        (lambda v: mj.DUQ(3).init(jax.random.key(0), H), "embedding"),
        (lambda v: mj.DUQ(3, 4, head="identity").init(jax.random.key(0), H), "must be None"),
        (lambda v: mj.DUQ(3, 4, head="W").init(jax.random.key(0), H), "head"),
        (lambda v: mj.DUQ(3, 4, length_scale=0.0).init(jax.random.key(0), H), "length_scale"),
        (lambda v: mj.DUQ(3, 4, momentum=1.0).init(jax.random.key(0), H), "momentum"),
        (lambda v: mj.DUQ(0, 4).init(jax.random.key(0), H), "num_classes"),
        (lambda v: log_kernels(np.ones((4, 2, 3)), np.ones((5, 3)), 0.1), "embedded must have"),
        (lambda v: gradient_norm_penalty(lambda x: x, jnp.ones((3, 2))), "2 outputs"),
        (lambda v: gradient_norm_penalty(jnp.sum, jnp.ones(3)), r"\[n, d\]"),
    ],
)
def test_bad_input_is_named(variables, call, match):
    with pytest.raises(ValueError, match=match):
        call(variables)


def test_narrow_labels_name_one_class_under_jit():
    log_k = -jnp.ones((1, 300))
    label = np.array([5], np.uint8)
    assert float(jax.jit(kernel_loss)(log_k, label)) == pytest.approx(
        float(kernel_loss(log_k, label)), rel=1e-6
    )


def test_rows_that_fill_a_batch_may_be_anything(variables):
    log_k = jnp.array([[-1.0, -2.0], [jnp.nan, -jnp.inf]])
    weights = np.array([1.0, 0.0])
    loss = lambda k: kernel_loss(k, np.array([0, 1]), weights=weights)
    value, slope = jax.value_and_grad(loss)(log_k)
    assert value == kernel_loss(log_k[:1], np.array([0])) and np.isfinite(slope).all()
    with pytest.raises(ValueError, match="weights must have shape"):
        update(HEAD, variables, H, Y, weights=np.ones(1))
