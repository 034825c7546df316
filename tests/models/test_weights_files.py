"""Weights files: kinds and wrappers that are read, damage that is named, nothing that is run."""

import json
import os
import zipfile

import ml_dtypes
import numpy as np
import pytest
from fuzz_weights import (
    ARRAYS,
    dictionary,
    fault,
    fuzz,
    number,
    state_dict,
    tensor,
    text,
    write_pth,
    write_safetensors,
)

from monojax.models.tensor_files import read_tensors


def check(found, arrays=ARRAYS):
    assert found.keys() == arrays.keys()
    for name, want in arrays.items():
        assert found[name].dtype == want.dtype
        np.testing.assert_array_equal(found[name], want)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8"])
def test_unsigned_tensors_of_safetensors(tmp_path, dtype):
    safetensors = pytest.importorskip("safetensors.numpy", reason="the extra weights has it")
    arrays = {"a": np.array([0, 1, np.iinfo(dtype).max], dtype), "b": np.ones((2, 3), np.float32)}
    safetensors.save_file(arrays, tmp_path / "w.safetensors")
    check(read_tensors(tmp_path / "w.safetensors"), arrays)


@pytest.mark.parametrize(
    "kind, dtype", [("BF16", ml_dtypes.bfloat16), ("F8_E4M3", ml_dtypes.float8_e4m3fn)]
)
def test_short_floats_of_safetensors(tmp_path, kind, dtype):
    want = np.array([0.5, -2.0, 1.0], dtype)
    head = json.dumps({"a": {"dtype": kind, "shape": [3], "data_offsets": [0, want.nbytes]}})
    content = len(head).to_bytes(8, "little") + head.encode() + want.tobytes()
    (tmp_path / "w.safetensors").write_bytes(content)
    check(read_tensors(tmp_path / "w.safetensors"), {"a": want})


@pytest.mark.parametrize(
    "content",
    [b"\x07" + bytes(7) + b"garbage", b"", b"\xff" * 9, b"\x02" + bytes(7) + b"{]", b"{}" * 50],
)
def test_garbage_headers_name_the_file(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"w\.safetensors cannot be read as weights"):
        read_tensors(path)


@pytest.mark.parametrize("name", ["w.pth", "w.pth.tar", "w.ckpt", "w.pt", "w.bin", "W.PTH"])
def test_endings_of_torch(tmp_path, name):
    check(read_tensors(write_pth(tmp_path / name)))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", ""])
@pytest.mark.parametrize("wrapper", ["", "state_dict", "model", "model_state_dict", "net"])
def test_wrappers_and_prefixes(tmp_path, prefix, wrapper):
    body = state_dict(prefix=prefix)
    if wrapper:
        momentum = dictionary({"0": tensor("0", "FloatStorage", [2], [1], 24)})
        rest = {"epoch": number(3), "arch": text("resnet50"), "optimizer": momentum}
        body = dictionary({**rest, wrapper: body})
    check(read_tensors(write_pth(tmp_path / "w.pth.tar", body)))


def test_a_prefix_that_only_some_names_have_stays(tmp_path):
    arrays = {"module.a": np.zeros(2, np.float32), "b": np.ones(2, np.float32)}
    check(read_tensors(write_safetensors(tmp_path / "w.safetensors", arrays)), arrays)


def test_two_sets_of_tensors_are_refused(tmp_path):
    body = dictionary({"model": state_dict(), "net": state_dict()})
    with pytest.raises(ValueError, match=r"several sets of tensors \(model, net\)"):
        read_tensors(write_pth(tmp_path / "w.pth", body))


@pytest.mark.parametrize(
    "size, stride, offset",
    [
        ([2**40], [0], 0),
        ([2**20, 2**20], [0, 0], 0),
        ([25], [1], 0),
        ([2, 2], [2**40, 1], 0),
        ([2], [1], 23),
        ([2], [-1], 3),
        ([-2], [1], 0),
        ([2**62, 2**62], [0, 0], 0),
    ],
)
def test_a_tensor_beyond_its_storage(tmp_path, size, stride, offset):
    body = dictionary({"a": tensor("0", "FloatStorage", size, stride, 24, offset)})
    path = write_pth(tmp_path / "w.pth", body)
    with pytest.raises(ValueError, match=r"w\.pth cannot be read.*(beyond its storage|negative)"):
        read_tensors(path)
    assert fault(path) == ""


def test_views_of_a_storage(tmp_path):
    whole = ARRAYS["conv.weight"].ravel()
    body = dictionary(
        {
            "transposed": tensor("0", "FloatStorage", [3, 2], [1, 3], 24),
            "every second": tensor("0", "FloatStorage", [4], [2], 24, 3),
            "empty": tensor("0", "FloatStorage", [0, 5], [5, 1], 24),
        }
    )
    found = read_tensors(write_pth(tmp_path / "w.pth", body))
    np.testing.assert_array_equal(found["transposed"], whole[:6].reshape(2, 3).T)
    np.testing.assert_array_equal(found["every second"], whole[3:11:2])
    assert found["empty"].shape == (0, 5)


def header_of_a_large_array():
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }"
    head += b" " * (128 - 10 - len(head) - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head


def test_an_npz_array_that_claims_more_than_it_holds(tmp_path):
    path = tmp_path / "w.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", header_of_a_large_array() + bytes(16))
    with pytest.raises(ValueError, match="longer than its member"):
        read_tensors(path)


@pytest.mark.parametrize("ending", ["npz", "pth"])
def test_a_member_that_claims_more_than_the_archive_holds(tmp_path, ending):
    path = write_pth(tmp_path / "w.pth")
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02")  # of the central directory: sizes at 20 and 24
    content[at + 20 : at + 28] = (2**31).to_bytes(4, "little") * 2
    path = tmp_path / f"w.{ending}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"w\.{ending} cannot be read as weights"):
        read_tensors(path)
    assert fault(path) == ""


def test_a_memo_of_four_gigabytes_is_not_allocated(tmp_path):
    body = text("a") + b"r" + (2**31).to_bytes(4, "little")
    with pytest.raises(ValueError, match="its memo has a place"):
        read_tensors(write_pth(tmp_path / "w.pth", body))


@pytest.mark.parametrize(
    "module, name", [("os", "system"), ("builtins", "eval"), ("numpy", "dtype"), ("torch", "load")]
)
def test_other_classes_are_refused_and_not_run(tmp_path, module, name):
    body = f"c{module}\n{name}\n(".encode() + text("exit 1") + b"tR"
    with pytest.raises(ValueError, match=rf"holds {module}\.{name}, not only tensors"):
        read_tensors(write_pth(tmp_path / "w.pth", body))


def test_the_state_of_a_tensor_cannot_be_set(tmp_path):
    body = dictionary({"a": tensor("0", "FloatStorage", [2], [1], 24) + b"(" + text("x") + b"tb"})
    with pytest.raises(ValueError, match="cannot be read as weights"):
        read_tensors(write_pth(tmp_path / "w.pth", body))


@pytest.mark.parametrize("seed", range(3))
def test_damaged_files_are_read_or_refused(tmp_path, seed):
    count = int(os.environ.get("MONOJAX_FUZZ", "600"))  # thousands in .ci/full
    _, faults = fuzz(count // 3, seed, tmp_path)
    assert not faults, "\n".join(faults)
