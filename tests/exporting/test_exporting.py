"""Exports: the model's values in a process without monojax, and every mistake told."""

import json
import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import drawn

import monojax as mj
from monojax import layers
from monojax.exporting import file as export_file
from monojax.exporting import loaded

pytest.importorskip("flatbuffers", reason="jax.export writes with flatbuffers")

D = (1, 0, -1)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(7, 3)).astype(np.float32)
IMAGES = RNG.normal(size=(7, 8, 8, 4)).astype(np.float32)
NETWORKS = {
    "aol": (layers.AOLDense(4), (X,)),
    "aol conv": (layers.AOLConv(4), (IMAGES,)),
    "bilipnet": (layers.BiLipNet((4,), 0.25, 4.0), (X,)),
    "blnn": (mj.BLNN((8,), 0.5, 3.0), (X,)),
    "cayley": (layers.CayleyDense(4), (X,)),
    "cayley conv": (layers.CayleyConv(4), (IMAGES,)),
    "chain": (layers.Chain((layers.SpectralDense(4), layers.Rotation())), (X,)),
    "conv blnn": (mj.ConvBLNN((8,), 0.5, 3.0), (IMAGES,)),
    "conv icnn": (layers.ConvICNN((4,), 3, (1,)), (IMAGES,)),
    "convex": (layers.ConvexMLP((4, 3, 2)), (X,)),
    "dc": (layers.DCNetwork((4, 2)), (X,)),
    "head": (layers.MonotoneHead(3), (X,)),
    "icnn": (layers.ICNN((4, 3)), (X,)),
    "lipschitz": (layers.LipschitzMLP((4, 2), 3.0), (X,)),
    "lmn": (layers.LMN((4, 1), 2.0, D), (X,)),
    "mlp": (layers.MonotoneMLP((4, 4, 2), D), (X,)),
    "monlip": (layers.MonLipDense((4,), 0.5, 2.0), (X,)),
    "nonnegative": (layers.NonNegativeDense(4), (X,)),
    "norm": (layers.NormDense(4), (X,)),
    "pairwise icnn": (layers.PairwiseICNN((4, 4)), (X, X[:, :2])),
    "partial blnn": (mj.PartialBLNN((8,), 0.5, 3.0), (X, X[:, :2])),
    "partial icnn": (layers.PartialICNN((4, 4)), (X, X[:, :2])),
    "sandwich": (layers.SandwichDense(4), (X,)),
    "sandwich conv": (layers.SandwichConv(4), (IMAGES,)),
    "sll": (layers.SLLDense(3), (X,)),
    "sll conv": (layers.SLLConv(4), (IMAGES,)),
    "smnn": (layers.ScalableMonotoneNetwork((4, 3), D, (3, 2), (2, 4), outputs=2), (X,)),
    "smooth min-max": (layers.SmoothMinMax(3, 2, D, 2), (X,)),
    "spectral": (layers.SpectralDense(4), (X,)),
}
# What a user writes who has jax and not monojax.
ELSEWHERE = """
import json, sys, zipfile
import jax, jax.export, numpy as np
values = {}
for path in sys.argv[2:]:
    with zipfile.ZipFile(path) as file:
        program = jax.export.deserialize(bytearray(file.read("program.bin")))
        metadata = json.loads(file.read("metadata.json"))
    inputs = dict(np.load(path + ".inputs.npz"))
    for rows in (1, 7):
        some = [inputs[name][:rows] for name in sorted(inputs)]
        values[f"{metadata['name']} {rows}"] = np.asarray(jax.jit(program.call)(*some))
assert "monojax" not in sys.modules and "flax" not in sys.modules
np.savez(sys.argv[1], **values)
"""


def elsewhere(folder, names):
    """Values of networks in a fresh process without monojax, and here."""
    want, files = {}, []
    for number, name in enumerate(names):
        module, inputs = NETWORKS[name]
        variables = drawn(module, *inputs)
        file = folder / f"{number}.mjx"
        mj.export(file, module, variables, inputs, metadata={"name": name})
        np.savez(f"{file}.inputs.npz", **{f"x{i}": x for i, x in enumerate(inputs)})
        files.append(str(file))
        run = jax.jit(module.apply)
        for rows in (1, 7):
            some = [x[:rows] for x in inputs]
            want[f"{name} {rows}"] = np.asarray(run(variables, *some))
    out = folder / "values.npz"
    command = [sys.executable, "-c", ELSEWHERE, str(out), *files]
    subprocess.run(command, check=True, cwd=folder, timeout=500)
    return want, dict(np.load(out))


def compare(want, found):
    assert want.keys() == found.keys()
    for name, values in want.items():
        assert values.shape == found[name].shape
        error = np.abs(values - found[name]).max() / np.abs(values).max()
        assert error <= 1e-6, (name, error)


def test_no_folder_of_the_author_is_inside(made):
    with zipfile.ZipFile(made) as file:
        assert b".py" not in file.read("program.bin")


@pytest.mark.slow
def test_values_in_a_process_without_monojax(tmp_path):
    compare(*elsewhere(tmp_path, ["lmn", "partial icnn"]))


@pytest.mark.slow
def test_values_of_every_guaranteed_network_in_a_process_without_monojax(tmp_path):
    here = {name for name in layers.__all__ if isinstance(getattr(layers, name), type)}
    tried = {type(module).__name__ for module, _ in NETWORKS.values()}
    assert here - tried <= {"Rotation"}  # inside the chain
    compare(*elsewhere(tmp_path, list(NETWORKS)))


@pytest.fixture(scope="module")
def lmn():
    module, (x,) = NETWORKS["lmn"]
    return module, drawn(module, x)


@pytest.fixture(scope="module")
def made(lmn, tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "model.mjx"
    # Of a function that costs no time; whether it is the module's is told by verify(fn).
    certificate = mj.certify_monotone(lambda x: x[0] - x[2], [-1.0] * 3, [1.0] * 3, D, budget=1)
    told = {"feature_names": ["age", "size", "rate"], "certificate": certificate, "made by": "us"}
    return mj.export(path, *lmn, X, metadata=told)


def test_what_is_promised_is_inside(made, lmn):
    model = mj.load_exported(made)
    told = model.metadata
    assert told["module"] == "monojax.layers.LMN" and told["monojax"] == mj.__version__
    assert told["platforms"] == ["cpu", "cuda", "tpu"] and told["jax"] == jax.__version__
    assert told["inputs"] == [{"shape": ["b", 3], "dtype": "float32"}]
    assert told["bounds"] == [0, 4] and told["norms"] == ["one", "any"]
    assert told["directions"] == [1, 0, -1] and told["feature_names"] == ["age", "size", "rate"]
    assert told["made by"] == "us"
    certificate = mj.Certificate.from_json(told["certificate"])
    assert certificate.status == "proved" and certificate.directions.tolist() == [1, 0, -1]
    for rows in (1, 7):
        want = lmn[0].apply(lmn[1], X[:rows])
        np.testing.assert_allclose(model(X[:rows]), want, rtol=1e-6, atol=1e-6)
    # Rows of a table are float64.
    np.testing.assert_allclose(model(np.float64(X[:2])), model(X[:2]))


def test_derivatives_are_in_the_file(made, lmn):
    model = mj.load_exported(made)
    assert model.metadata["differentiable"]
    total = lambda f: jax.jit(jax.grad(lambda x: f(x).sum()))(jnp.asarray(X))
    want = total(lambda x: lmn[0].apply(lmn[1], x))
    np.testing.assert_allclose(total(model), want, rtol=1e-5, atol=1e-6)


def refusals(made, lmn, tmp_path):
    """What is wrong, how it is told."""
    new = tmp_path / "new.mjx"
    put = lambda example=X, **options: mj.export(new, *lmn, example, **options)
    model = mj.load_exported(made)
    named = lambda names: put(metadata={"feature_names": names})
    certificate = {"certificate": '{"status": "proved", "directions": [1, 1, 1]}'}
    return {
        "exists; nothing was written": lambda: mj.export(made, *lmn, X),
        "a batch": lambda: put(np.float32(1)),
        "platforms must be one of": lambda: put(platforms=("gpu",)),
        "platforms must be a tuple": lambda: put(platforms="cpu"),
        "one text per input": lambda: named(["age", "size"]),
        "2 different ones": lambda: named(["age", "age", "rate"]),
        "a list of texts": lambda: named("age"),
        "contradict those of the module": lambda: put(metadata={"directions": [1, 1, -1]}),
        "is about": lambda: put(metadata=certificate),
        "text of its to_json": lambda: put(metadata={"certificate": "proved"}),
        "written by mj.export itself": lambda: put(metadata={"bounds": [0, 1]}),
        r"shape \[b, 3\] for a batch of b examples, got \(7, 2\)": lambda: model(X[:, :2]),
        "give x.None.": lambda: model(X[0]),
        "must hold numbers": lambda: model(np.array([["a", "b", "c"]])),
        "takes 1 inputs, each an array .*, got 2": lambda: model(X, X),
    }


def test_mistakes_are_told_and_nothing_is_written(made, lmn, tmp_path):
    for text, call in refusals(made, lmn, tmp_path).items():
        with pytest.raises((ValueError, FileExistsError), match=text):
            call()
    for value, error in ({1: object()}, "JSON"), ({"x": float("nan")}, "JSON"):
        with pytest.raises(TypeError, match=error):
            mj.export(tmp_path / "new.mjx", *lmn, X, metadata=value)
    with pytest.raises(TypeError, match="module must be a linen module"):
        mj.export(tmp_path / "new.mjx", lambda x: x, {}, X)
    assert list(tmp_path.iterdir()) == []


def changed(made, path, **changes):
    """The export with other metadata."""
    with zipfile.ZipFile(made) as old, zipfile.ZipFile(path, "w") as new:
        metadata = json.loads(old.read(export_file.METADATA)) | changes
        new.writestr(export_file.METADATA, json.dumps(metadata))
        new.writestr(export_file.PROGRAM, old.read(export_file.PROGRAM))
    return path


def test_files_that_cannot_be_opened_here(made, lmn, tmp_path, monkeypatch):
    other = tmp_path / "text"
    other.write_text("no export")
    cases = {
        "is no exported model": other,
        "has format 'monojax export 9'": changed(made, tmp_path / "a", format="monojax export 9"),
        "is damaged": changed(made, tmp_path / "b", sha256="0"),
        "made for cuda, tpu, and jax runs on cpu": mj.export(
            tmp_path / "c", *lmn, X, platforms=("cuda", "tpu")
        ),
        "computes in 64 bits": changed(
            made, tmp_path / "d", inputs=[{"shape": ["b", 3], "dtype": "float64"}]
        ),
    }
    for text, path in cases.items():
        with pytest.raises(ValueError, match=text):
            mj.load_exported(path)
    with pytest.raises(FileNotFoundError, match="no exported model"):
        mj.load_exported(tmp_path / "nothing")
    # On a machine with GPUs, a file for CPUs alone.
    alone = mj.export(tmp_path / "e", *lmn, X, platforms=("cpu",))
    monkeypatch.setattr(loaded, "running_on", lambda: "cuda")
    with pytest.raises(ValueError, match=r"made for cpu, and jax runs on cuda.*'cuda'\)"):
        mj.load_exported(alone)


def test_overwrites_exports_only(made, lmn, tmp_path):
    path = mj.export(tmp_path / "sub" / "model.mjx", *lmn, X)
    assert mj.export(path, *lmn, X, overwrite=True, metadata={"n": 2}) == path
    assert mj.load_exported(path).metadata["n"] == 2
    (tmp_path / "thesis.txt").write_text("dear to me")
    with pytest.raises(FileExistsError, match=r"thesis\.txt exists"):
        mj.export(tmp_path / "thesis.txt", *lmn, X, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "dear to me"


@pytest.mark.slow
def test_float64_models_keep_their_digits(x64, tmp_path):
    module = layers.LMN((4, 1), 2.0, D)
    x = np.float64(X)
    variables = module.init(jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)
    model = mj.load_exported(mj.export(tmp_path / "m", module, variables, x))
    assert model.metadata["inputs"][0]["dtype"] == "float64"
    np.testing.assert_allclose(model(x), module.apply(variables, x), rtol=1e-14)
