"""Published weights: readers of files, tables of names, reference predictions, identities."""

import json
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import monojax as mj
from monojax.data.photos import imagenet_photos
from monojax.models import VGG16
from monojax.models.efficientnet import EfficientNetLite0, efficientnet_input
from monojax.models.pretrained import PUBLISHED, Entry, convert, export, load_pretrained
from monojax.models.squeezenet import SqueezeNet, squeezenet_input
from monojax.models.tensor_files import read_tensors

NETS = {
    "squeezenet1_1": ("squeezenet11", "squeezenet11_imagenet_f32", squeezenet_input),
    "efficientnet_lite0": (
        "efficientnet_lite0", "efficientnet_lite0_imagenet_f16", efficientnet_input,
    ),
}  # fmt: skip


def safetensors(path, arrays):
    """Writes the format by its definition."""
    header, start = {}, 0
    for name, a in arrays.items():
        kind = {"float32": "F32", "int64": "I64"}[str(a.dtype)]
        span = [start, start + a.nbytes]
        header[name] = {"dtype": kind, "shape": a.shape, "data_offsets": span}
        start += a.nbytes
    text = json.dumps(header).encode()
    body = b"".join(a.tobytes() for a in arrays.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array(7, np.int64),
}


def test_reads_npz_and_safetensors(tmp_path):
    np.savez(tmp_path / "w.npz", **ARRAYS)
    safetensors(tmp_path / "w.safetensors", ARRAYS)
    for name in ("w.npz", "w.safetensors"):
        found = read_tensors(tmp_path / name)
        assert found.keys() == ARRAYS.keys()
        for key, want in ARRAYS.items():
            assert found[key].dtype == want.dtype
            np.testing.assert_array_equal(found[key], want)


def test_damaged_and_unknown_files(tmp_path):
    safetensors(tmp_path / "w.safetensors", ARRAYS)
    content = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "short.safetensors").write_bytes(content[:-4])
    with pytest.raises(ValueError, match="cannot be read as weights: SafetensorError"):
        read_tensors(tmp_path / "short.safetensors")
    with pytest.raises(FileNotFoundError, match="no weights file"):
        read_tensors(tmp_path / "none.npz")
    (tmp_path / "w.bin2").write_bytes(b"")
    with pytest.raises(ValueError, match=r"ends in none of \.npz"):
        read_tensors(tmp_path / "w.bin2")
    text = json.dumps({"a": 3}).encode()
    (tmp_path / "odd.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(ValueError, match="cannot be read as weights"):
        read_tensors(tmp_path / "odd.safetensors")
    (tmp_path / "w.pth").write_bytes(b"legacy")
    with pytest.raises(ValueError, match=r"w\.pth cannot be read .*before version 1\.6"):
        read_tensors(tmp_path / "w.pth")


class Evil:
    """Would run a command when unpickled."""

    def __reduce__(self):
        return (print, ("this must not be printed",))


def test_a_pth_file_cannot_run_code(tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": Evil()}))
    with pytest.raises(ValueError, match=r"holds builtins\.print, not only tensors"):
        read_tensors(tmp_path / "w.pth")
    assert capsys.readouterr().out == ""


@pytest.mark.oracle
def test_pth_files_of_torch(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is an oracle: pip install torch (CPU)")
    state = {
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "half": torch.ones(3, dtype=torch.bfloat16),
        "part": torch.arange(10)[3:7:2],
        "weight": torch.nn.Parameter(torch.zeros(2)),
    }
    torch.save(state, tmp_path / "w.pth")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "nested.pt")
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    torch.save(net.state_dict(), tmp_path / "module.pth")  # an OrderedDict with an attribute
    found = read_tensors(tmp_path / "module.pth")
    assert found.keys() == net.state_dict().keys()
    np.testing.assert_array_equal(found["0.weight"], net[0].weight.detach().numpy())
    for name in ("w.pth", "nested.pt"):
        found = read_tensors(tmp_path / name)
        for key, want in state.items():
            np.testing.assert_array_equal(
                found[key].astype(np.float32), want.detach().float().numpy()
            )


def small_table():
    template = {
        "params": {"conv": {"kernel": jnp.zeros((3, 3, 2, 4))}, "fc": {"kernel": jnp.zeros((5, 6))}}
    }
    table = [
        Entry("conv.weight", "params/conv/kernel", "oihw"),
        Entry("fc.weight", "params/fc/kernel", "linear"),
    ]
    rng = np.random.default_rng(0)
    tensors = {
        "conv.weight": rng.normal(size=(4, 2, 3, 3)).astype(np.float32),
        "fc.weight": rng.normal(size=(6, 5)).astype(np.float32),
    }
    return tensors, table, template


def test_convert_and_export_are_inverse():
    tensors, table, template = small_table()
    variables = convert(tensors, table, template)
    assert variables["params"]["conv"]["kernel"][1, 2, 0, 3] == tensors["conv.weight"][3, 0, 1, 2]
    assert variables["params"]["fc"]["kernel"][4, 0] == tensors["fc.weight"][0, 4]
    back = export(variables, table)
    for name, want in tensors.items():
        np.testing.assert_array_equal(back[name], want)


def test_errors_list_what_does_not_fit():
    tensors, table, template = small_table()
    tensors["extra"] = tensors.pop("fc.weight")
    tensors["conv.weight"] = tensors["conv.weight"][:, :1]
    with pytest.raises(ValueError) as caught:
        convert(tensors, table, template, source="w.npz")
    message = str(caught.value)
    assert message.startswith("w.npz does not fit the model: missing: fc.weight; left over: extra")
    assert "conv.weight (4, 1, 3, 3), expected (3, 3, 2, 4)" in message


def test_a_file_of_another_model(data_dir):
    path = data_dir / "weights" / "squeezenet11_imagenet_f32.npz"
    with pytest.raises(ValueError, match="no file of efficientnet_lite0: it has no tensor 'fc/w'"):
        load_pretrained("efficientnet_lite0", path)
    with pytest.raises(ValueError, match="got 'alexnet'"):
        load_pretrained("alexnet", path)


def test_vgg16_both_directions():
    """Synthetic torchvision tensors there and back; the flattened layer reads channels first."""
    model = VGG16(10, width=2 / 64, dense=(8, 8))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)
    names = [
        f"{module.replace('_', '.')}.{'weight' if leaf == 'kernel' else 'bias'}"
        for module, leaves in variables["params"].items()
        for leaf in leaves
    ]
    published = PUBLISHED["vgg16"]
    tensors = export(variables, published.table(dict.fromkeys(names)))
    assert tensors["features.2.weight"].shape == (2, 2, 3, 3)
    first = variables["params"]["classifier_0"]["kernel"]
    channels = first.shape[0] // 49
    # Channel 1, row 2, column 3: torch counts (c, h, w), we (h, w, c).
    want = first[(2 * 7 + 3) * channels + 1, 5]
    assert tensors["classifier.0.weight"][5, (1 * 7 + 2) * 7 + 3] == want
    back = convert(tensors, published.table(tensors), shapes)
    jax.tree.map(np.testing.assert_array_equal, back, variables)
    built = published.build(tensors)
    assert jax.tree.map(jnp.shape, jax.eval_shape(built.init, jax.random.key(0),
        jnp.zeros((1, 224, 224, 3)))) == jax.tree.map(jnp.shape, shapes)  # fmt: skip


@pytest.fixture(scope="module")
def photos(data_dir):
    return data_dir, *imagenet_photos(data_dir)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.slow
def test_reference_logits(name, photos):
    folder, images, _ = photos
    short, file, prepare = NETS[name]
    model, variables = load_pretrained(name, folder / "weights" / f"{file}.npz")
    reference = np.load(folder / "weights" / "reference_predictions.npz")
    logits = jax.jit(lambda v, x: model.apply(v, prepare(x)))(variables, images[:4])
    # float32 sums in another order; logits reach 50.
    np.testing.assert_allclose(logits, reference[f"{short}_logits_first20"][:4], atol=1e-3)


@pytest.mark.slow  # 250 images
@pytest.mark.parametrize("name", NETS)
def test_reference_predictions(name, photos):
    folder, images, labels = photos
    short, file, prepare = NETS[name]
    model, variables = load_pretrained(name, folder / "weights" / f"{file}.npz")
    reference = np.load(folder / "weights" / "reference_predictions.npz")
    fn = jax.jit(lambda v, x: model.apply(v, prepare(x)))
    logits = np.concatenate([fn(variables, images[i : i + 25]) for i in range(0, 250, 25)])
    top = np.argsort(-logits, 1)[:, :5]
    np.testing.assert_array_equal(top, reference[f"{short}_top5"])
    np.testing.assert_allclose(logits[:20], reference[f"{short}_logits_first20"], atol=1e-3)
    right = {"squeezenet1_1": 0.640, "efficientnet_lite0": 0.884}[name]
    assert np.mean(top[:, 0] == labels) == pytest.approx(right)


@pytest.mark.slow  # full networks at 224 x 224, in float64
@pytest.mark.parametrize("name", NETS)
def test_identities_with_real_weights(name, photos, x64):
    """Spec section 7 on a real photograph: g - h = f, alpha = 0 and 0.5, the sums."""
    folder, images, labels = photos
    _, file, prepare = NETS[name]
    model, variables = load_pretrained(name, folder / "weights" / f"{file}.npz", dtype=jnp.float64)
    fn = lambda x, v: model.apply(v, x[None])[0]
    x, label = prepare(images[0].astype(np.float64)), int(labels[0])
    logits = jax.jit(fn)(x, variables)
    pair = jax.jit(mj.split(fn))(x, variables)
    np.testing.assert_allclose(pair.g - pair.h, logits, atol=1e-10 * np.abs(logits).max())

    layers = {"squeezenet1_1": ["fire5", "conv10"], "efficientnet_lite0": ["block_5", "head"]}[name]
    maps = jax.jit(
        lambda x, alpha: mj.splitting.sensitivities(
            fn, x, label, args=(variables,), layers=[None, *layers], alpha=alpha
        )
    )
    want = jax.jit(jax.grad(lambda x: fn(x, variables)[label]))(x)
    for alpha in (0.0, 0.35, 0.5):
        found = maps(x, alpha)
        at = dict(atol=1e-10 * float(jnp.abs(found[-1].s).max() + jnp.abs(want).max()))
        np.testing.assert_allclose(found[-1].grad, want, **at)
        for one in found.values():
            at = dict(atol=1e-10 * float(jnp.abs(one.s).max() + jnp.abs(one.grad).max()))
            np.testing.assert_allclose(one.g_p - one.h_p, one.grad, **at)
            np.testing.assert_allclose(one.g_p + one.g_n, one.s, **at)
            if alpha == 0.5:
                np.testing.assert_allclose(one.g_p, one.grad / 2, **at)
            if alpha == 0.0:
                for part in (one.g_p, one.g_n, one.h_p, one.h_n):
                    assert part.min() >= -at["atol"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_float32_error_with_real_weights(name, photos):
    """At most 1e-4 of the largest logit, with full re-centring."""
    folder, images, _ = photos
    _, file, prepare = NETS[name]
    model, variables = load_pretrained(name, folder / "weights" / f"{file}.npz")
    fn = lambda x, v: model.apply(v, x[None])[0]
    x = prepare(images[3])
    logits = jax.jit(fn)(x, variables)
    pair = jax.jit(mj.split(fn))(x, variables)
    assert np.abs(pair.g - pair.h - logits).max() <= 1e-4 * np.abs(logits).max()


def test_shapes_of_the_small_networks():
    for model in (SqueezeNet(7), EfficientNetLite0(7)):
        out = jax.eval_shape(
            lambda key, x, m=model: m.init_with_output(key, x)[0],
            jax.random.key(0), jnp.zeros((2, 64, 96, 3)),
        )  # fmt: skip
        assert out.shape == (2, 7)
