"""The ImageNet fine-tuning on eight simulated devices of one process."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pods import FAKE

from monojax import training
from train.__main__ import CONFIGS, main
from train.arguments import parse
from train.imagenet import experiment as imagenet
from train.imagenet import model as imagenet_model

pytest.importorskip("grain", reason="the input needs grain (extra data)")
pytest.importorskip("PIL", reason="the input needs pillow (extra data)")
NUM = 44  # images of FAKE
# Compiled once for the file.
program = functools.cache(lambda: imagenet_model.train_program(config(), NUM))
fresh = functools.cache(lambda: imagenet_model.initial_state(config(), NUM))
needs_8 = pytest.mark.skipif(
    jax.local_device_count() < 8, reason="needs 8 devices (tests/conftest.py simulates them)"
)


def start():
    """A state of one's own: steps donate theirs."""
    return jax.tree.map(jnp.copy, fresh())


def config(*overrides, base=FAKE):
    return parse([*base, *overrides], CONFIGS)[0]


@pytest.mark.slow
@needs_8
def test_a_run_writes_its_files_and_is_not_repeated(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(imagenet, "train_program", lambda config, num: program())
    monkeypatch.setattr(imagenet, "initial_state", lambda config, num: start())
    argv = [*FAKE, f"--workdir={tmp_path / 'run'}"]
    assert main(argv) == 0
    lines = training.read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5]  # 2 * 44 // 16
    last = [line for line in lines if "eval_count" in line][-1]
    assert last["eval_count"] == NUM  # 3 batches of 16: the last has 12
    timed = [line for line in lines if "step_seconds" in line]
    assert timed and all(line["images_per_second_per_device"] > 0 for line in timed)
    assert all(0 <= line["wait_share"] <= 1 for line in timed)
    first = next(line for line in lines if "loss" in line)
    assert first["loss"] == pytest.approx(first["cross_entropy"] + 5 * first["penalty"], rel=1e-5)
    assert json.loads((tmp_path / "run" / "imagenet.json").read_text())["eval_count"] == NUM
    table = (tmp_path / "run" / "imagenet.md").read_text()
    assert "ResNet-18, width 4, 20 maps" in table and f"{last['eval_accuracy']:.2f}" in table
    assert main(argv) == 0 and training.read_metrics(tmp_path / "run") == lines
    assert main([*argv, "--config.lr=0.1"]) == 1
    assert "lr is 0.0001 there and 0.1 now" in capsys.readouterr().err


@pytest.mark.slow  # compiles the step a second time
@needs_8
def test_eight_devices_take_the_step_of_one():
    """Synchronised statistics: the step does not see how the batch is divided."""
    cfg = config()
    state = start()
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(256, size=(16, 32, 32, 3), dtype=np.uint8),
        "label": rng.integers(10, size=16).astype(np.int32),
    }
    hosts = training.AllHosts()
    many, metrics = program()(hosts.unpack(state), hosts.send(batch, False))
    many = hosts.pack(many)
    loss = functools.partial(imagenet_model.loss_fn, imagenet_model.build_model(cfg, None), cfg)
    step = training.jit_step(loss, imagenet_model.make_optimizer(cfg, NUM))
    begin = jax.device_get(state.params)
    one, wanted = step(state, {**batch, "stop": np.float32(0)})
    for key in wanted:
        np.testing.assert_allclose(hosts.read(metrics[key]), wanted[key], rtol=1e-4, err_msg=key)
    flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    update = flat(jax.device_get(one.params)) - flat(begin)
    difference = np.linalg.norm(flat(many.params) - flat(one.params))
    # Sums in another order: float32 rounding of the update, some digits lost where batch norm's
    # backward pass cancels (2 images a device); per-device statistics would give 0.3 or more.
    assert difference <= 1e-3 * np.linalg.norm(update)
    assert difference <= 1e-6 * np.linalg.norm(flat(one.params))
    for leaf, other in zip(
        jax.tree.leaves(many.model_state), jax.tree.leaves(one.model_state), strict=True
    ):
        np.testing.assert_allclose(leaf, other, rtol=1e-4, atol=1e-6)


def test_bfloat16_computes_and_float32_keeps():
    cfg = config("--config.model.dtype=bfloat16")
    state, batch = imagenet_model.abstract_inputs(cfg, NUM, 8)
    state, batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), (state, batch)
    )
    model = imagenet_model.build_model(cfg, None)
    step = functools.partial(
        training.train_step,
        functools.partial(imagenet_model.loss_fn, model, cfg),
        imagenet_model.make_optimizer(cfg, NUM),
    )
    after, metrics = jax.eval_shape(step, state, batch)
    for tree in (after.params, after.model_state, after.opt_state, metrics):
        for leaf in jax.tree.leaves(tree):
            assert leaf.dtype in (jnp.float32, jnp.int32)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.bfloat16)
    variables = {"params": state.params, **state.model_state}
    maps = jax.eval_shape(functools.partial(model.apply, method="features"), variables, images)
    assert maps.dtype == jnp.bfloat16 and maps.shape == (2, 1, 1, 20)


@pytest.mark.parametrize("scaling, first", [("none", 0.1), ("linear", 0.1 * 32 / 256)])
def test_the_rate_drops_after_its_epochs(scaling, first):
    cfg = config(
        "--config.lr=0.1",
        "--config.lr_drops=(2,5)",
        f"--config.lr_scaling={scaling}",
        "--config.batch_size=32",
    )
    rate = imagenet_model.learning_rate(cfg, 100)  # 3.125 batches an epoch
    got = [float(rate(step)) for step in (0, 5, 7, 14, 16)]
    np.testing.assert_allclose(got, np.array([1, 1, 0.2, 0.2, 0.04]) * first, rtol=1e-6)


def test_the_decay_is_added_to_the_gradient():
    """Two steps of PyTorch's SGD by hand: v = 0.9 v + (g + wd w), w = w - lr v."""
    cfg = config("--config.lr=0.5", "--config.weight_decay=0.1")
    optimizer = imagenet_model.make_optimizer(cfg, NUM)
    w, v = np.array([1.0, -2.0]), np.zeros(2)
    params = {"w": jnp.asarray(w, jnp.float32)}
    state = optimizer.init(params)
    for gradient in (np.array([0.5, 0.25]), np.array([-1.0, 2.0])):
        updates, state = optimizer.update({"w": jnp.asarray(gradient)}, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        v = 0.9 * v + gradient + 0.1 * w
        w = w - 0.5 * v
    np.testing.assert_allclose(params["w"], w, rtol=1e-6)


def test_published_weights_leave_the_new_layers_fresh():
    part = lambda value: {"kernel": np.full(2, value)}
    fresh = {
        "params": {name: part(0) for name in ("conv1", "extra", "fc")},
        "batch_stats": {name: part(0) for name in ("bn1", "extra")},
    }
    published = {"params": {"conv1": part(1), "fc": part(1)}, "batch_stats": {"bn1": part(1)}}
    got = imagenet_model.take_over(fresh, published)
    value = lambda kind, name: got[kind][name]["kernel"][0]
    assert (value("params", "conv1"), value("batch_stats", "bn1")) == (1, 1)
    assert value("params", "extra") == value("params", "fc") == value("batch_stats", "extra") == 0
    published["params"]["conv1"] = {"kernel": np.ones(3)}
    with pytest.raises(ValueError, match="no params/conv1 of the model's shape"):
        imagenet_model.take_over(fresh, published)


@pytest.mark.parametrize(
    "override, match",
    [
        ("data.source=photo", "did you mean 'photos'"),
        ("model.depth=20", "config.model.depth must be one of 18, 34, 50, got 20"),
        ("model.dtype=float16", "did you mean 'bfloat16'"),
        ("form=gradients", "did you mean 'gradient'"),
        ("lr_scaling=line", "did you mean 'linear'"),
        ("gamma=-1", "config.gamma must be at least 0"),
        ("batch_size=0", "config.batch_size must be at least 1"),
        ("batch_size=100", "2 epochs of 44 images do not fill a batch of 100"),
        ("model.maps=25", "25 feature maps do not divide.*10 classes; use 20 or 30"),
        ("weights=nowhere.pth", "config.weights names nowhere.pth, which is no file"),
        ("data.source=folder", "register at image-net.org"),
        ("data.source=tfds", "no prepared imagenet2012/train.*register at image-net.org"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(override, match, tmp_path, capsys):
    argv = [*FAKE, f"--config.{override}", f"--workdir={tmp_path / 'run'}"]
    if "tfds" in override:
        pytest.importorskip("tensorflow_datasets", reason="needs tensorflow-datasets")
        argv.append(f"--config.data.dir={tmp_path}")
    assert main(argv) in (1, 2)
    error = capsys.readouterr().err
    assert re.search(match, error), error
    assert ("=fake" in error) == ("tfds" in override)  # other data help where data are missing only
    assert ("=tfds" in error) == (override == "data.source=folder")
    assert not (tmp_path / "run").exists()


@needs_8
def test_a_batch_that_does_not_divide_by_the_devices(tmp_path, capsys):
    for key, batch, near in (("batch_size", 20, 16), ("eval_batch_size", 36, 32)):
        argv = [*FAKE, f"--config.{key}={batch}", f"--workdir={tmp_path / 'run'}"]
        assert main(argv) == 1
        said = capsys.readouterr().err
        assert f"config.{key} = {batch} does not divide by {jax.device_count()} devices" in said
        assert f"use for example {near}" in said
    assert not (tmp_path / "run").exists()


def test_half_a_coordinator_is_refused(tmp_path, capsys):
    for flags in (["--num_hosts=2"], ["--coordinator=localhost:1"], ["--host=0"]):
        assert main([*FAKE, *flags, f"--workdir={tmp_path / 'run'}"]) == 1
        assert "coordinator" in capsys.readouterr().err
    assert main(["--config=main:quick", "--coordinator=localhost:1"]) == 1
    error = capsys.readouterr().err
    assert "--config main:quick runs on one host; on several runs only imagenet" in error
    assert "Leave out --coordinator" in error and "unset JAX_COORDINATOR_ADDRESS" in error
    assert not jax.distributed.is_initialized()
