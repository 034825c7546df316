"""The token experiment: deletion orders, areas, a quick run that resumes."""

import dataclasses
import json
import types

import numpy as np
import pytest

from monojax.metrics.intervals import mean_interval
from train.configs.tokens import get_config
from train.tokens import experiment as tokens
from train.tokens import methods as tokens_methods
from train.tokens.data import Problem


def problem(weights):
    """The score is a sum of the weights of what is kept; token 0 may not be deleted."""
    there = np.array([[False, True, True, True], [False, True, True, False]])
    return Problem(
        name="sum",
        title="",
        fn=lambda x, own, shared: x[:, 0] @ shared,
        x=np.ones((2, 4, 1), np.float32),
        own={"there": there},
        shared=np.asarray(weights, np.float32),
        targets=None,
        score=lambda x, own, shared, target, keep: x[:, 0] @ (shared * (keep | ~own["there"])),
        tokens=there,
        query=0,
        skip=0,
        words=None,
        note="",
    )


def test_deletion_takes_the_largest_first_and_only_what_may_go():
    one = problem([8, 1, 4, 2])
    maps = np.array([[99.0, 1, 4, 2], [99.0, 1, 4, 2]])
    curves = tokens_methods.deletion(one, np.arange(2), maps, 3, 2)
    # Two deletable tokens in three steps: 0, round(2/3), round(4/3), 2 are gone.
    np.testing.assert_allclose(curves, [[15, 11, 9, 8], [15, 11, 11, 10]])
    back = tokens_methods.deletion(one, np.arange(2), -maps, 3, 1)
    np.testing.assert_allclose(back, [[15, 14, 12, 8], [15, 14, 14, 10]])
    np.testing.assert_allclose(tokens_methods.area(curves)[0], (15 / 2 + 11 + 9 + 8 / 2) / 3)


def test_chunks_and_bootstrap():
    parts = list(tokens_methods.chunks(np.array([5, 7, 8]), 2))
    np.testing.assert_array_equal(parts, [[5, 7], [8, 8]])
    mean, low, high = mean_interval(np.array([0.0, 1.0] * 50))
    assert mean == 0.5 and 0.38 < low < 0.43 and 0.57 < high < 0.62  # 0.5 -+ 1.96 * 0.05


def test_every_gradient_method_finds_the_weights_of_a_linear_score():
    one = problem([8, 1, -4, 2])
    calls = {"gradient x input": 1, "gradient x input, frozen": 1}
    for name, factor in calls.items():
        explain = tokens_methods.METHODS[name].call
        got = explain(one.fn, one.x[0], None, args=(None, one.shared), layer=None)
        np.testing.assert_allclose(got[:, 0], factor * one.shared)


class Bar:
    count = 0

    def update(self, units):
        self.count += units


def test_run_writes_the_table_and_resumes(tmp_path, monkeypatch):
    """On a linear score, where gradient times input is the best there is."""
    config, bar = get_config("quick"), Bar()
    config.validation, config.test = 1, 1
    config.methods = ("random order", "gradient x input, frozen", "SplitCAM")
    config.vit.layers = ("input",)
    tokens.check(config)
    words = [["a", "b", "c", "d"]] * 2
    one = dataclasses.replace(problem([8, 1, 4, 2]), name="vit", words=words)
    monkeypatch.setattr(tokens, "_problem", lambda *_: one)
    results = tokens.run(config, tmp_path, bar)["vit"]
    assert bar.count == 300 and set(results) == set(config.methods)
    best = results["gradient x input, frozen"]
    assert best == results["SplitCAM"] and best <= results["random order"]
    text = (tmp_path / "tokens.md").read_text()
    assert "SplitCAM" in text and "alpha 0.4" in text and "mode quick" in text
    for name in ("curves.png", "vit.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(tokens, "attributions", None)  # a second run reads what is finished
    again = tokens.run(config, tmp_path, bar)["vit"]
    for name, values in results.items():
        np.testing.assert_array_equal(again[name], values)
    # Version 0.1.0 kept one npz per method in the directory itself: it is taken over.
    for file in (tmp_path / "cells").glob("vit_SplitCAM-*.npz"):
        numbers = json.loads(file.with_suffix(".json").read_text())
        with np.load(file) as curves:
            np.savez(tmp_path / "vit_SplitCAM.npz", **curves, **numbers)
        file.with_suffix(".json").unlink()
    again = tokens.run(config, tmp_path, bar)["vit"]
    np.testing.assert_array_equal(again["SplitCAM"], results["SplitCAM"])


@pytest.mark.slow
def test_quick_mode_runs_whole(tmp_path):
    config = get_config("quick")
    bar = types.SimpleNamespace(update=lambda _: None)
    bar.set_postfix_str = bar.set_description = bar.write = lambda *_, **__: None
    results = tokens.run(config, tmp_path, bar)["vit"]
    assert {name: len(values) for name, values in results.items()} == dict.fromkeys(
        config.methods, config.test
    )


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(problems=("bert",)), "config.problems must be one of"),
        (dict(methods=("SHAP",)), "config.methods must be one of"),
        (dict(methods=("SplitCAM",)), "needs 'gradient x input, frozen'"),
        (dict(test=0), "config.test must be at least 1"),
    ],
)
def test_mistakes_are_found_first(change, message):
    config = get_config()
    config.update(change)
    with pytest.raises(ValueError, match=message):
        tokens.check(config)


def test_unknown_mode_and_data_are_named():
    with pytest.raises(ValueError, match="unknown mode 'fast'"):
        get_config("fast")
    config = get_config("quick")
    config.vit.data = "svhn"
    with pytest.raises(ValueError, match="'svhn'"):
        from train.tokens.data import load_images

        load_images(config.vit)
