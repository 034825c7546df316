"""Files that are missing, bad or another: told, and the disk is left alone."""

import gzip
import hashlib
import re

import numpy as np
import pytest
from tabular_names import EXTERNAL

from monojax.data import TABULAR_SETS, load_tabular
from monojax.data import tabular as tabular_module
from monojax.data.csv_table import Column, Layout, read_table, split_column
from monojax.data.tabular_sets import BY_NAME

WITH_BENCHMARK = ("auto_mpg", "heart", "compas", "blog_feedback")


LAYOUT = Layout(
    columns=(Column("a", "m", +1), Column("colour", levels=("red", "blue"))),
    target=Column("y"),
    split=split_column("unused"),
)
GOOD = "a,colour,y,split\n1.5,red,0,train\n2,blue,1,test\n,red,1,unused\n"


@pytest.mark.parametrize("compress", [False, True])
def test_read_table_on_a_small_file(compress):
    content = gzip.compress(GOOD.encode()) if compress else GOOD.encode()
    table = read_table(content, "f.csv", LAYOUT)
    assert [f.name for f in table.features] == ["a", "colour=red", "colour=blue"]
    np.testing.assert_array_equal(table.x, [[1.5, 1, 0], [2, 0, 1]])
    assert table.part.tolist() == ["train", "test"] and table.dropped == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("colour", "color", r"f\.csv has no column \['colour'\]; its columns are .*'color'"),
        ("2,blue", ",blue", r"column 'a', data row 2: '' is not a finite number"),
        ("2,blue", "nan,blue", r"column 'a', data row 2: 'nan' is not a finite"),
        ("2,blue", "two,blue", r"column 'a', data row 2: 'two' is not a finite"),
        ("2,blue", "2,green", r"column 'colour', data row 2: 'green' is not one of the levels"),
        ("1,test", "1,tset", r"'split' has 'tset', expected one of"),
        ("2,blue,1,test", "2,blue,1", r"data row 2 has 3 cells, the header 4"),
    ],
)
def test_a_bad_file_is_named_with_column_and_row(old, new, message):
    with pytest.raises(ValueError, match=message):
        read_table(GOOD.replace(old, new, 1).encode(), "f.csv", LAYOUT)


# Refusals


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("auto-mpg", "'auto_mpg'"),
        ("lending", "'lending_club'"),
        ("iris", "one of 'auto_mpg'"),
    ],
)
def test_unknown_set_lists_the_sets_and_near_names(name, message):
    with pytest.raises(ValueError, match=message):
        load_tabular(name)


@pytest.mark.parametrize("name", [n for n in TABULAR_SETS if n not in WITH_BENCHMARK])
def test_benchmark_protocol_is_refused_where_there_is_none(name):
    with pytest.raises(ValueError, match=r"has no benchmark protocol: .* Use protocol='clean'"):
        load_tabular(name, protocol="benchmark")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"protocol": "dirty"}, r"'clean', 'benchmark'.*'dirty'")]
    + [({"validation": v}, r"share in \(0, 1\)") for v in (0.0, 1.0, -0.2, 20, float("nan"))]
    + [({"seed": seed}, "seed must be a non-negative integer") for seed in (-1, 0.5, True)],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        load_tabular("auto_mpg", **options)


@pytest.mark.parametrize("name", EXTERNAL)
def test_without_a_folder_the_error_says_what_to_get_and_where_to_put_it(name, monkeypatch):
    monkeypatch.delenv("MONOJAX_DATA", raising=False)
    spec = BY_NAME[name]
    with pytest.raises(FileNotFoundError) as error:
        load_tabular(name)
    for part in (spec.file, spec.sha256, spec.source, f"DIR/tabular/{spec.file}", "MONOJAX_DATA"):
        assert part in str(error.value)


def test_a_folder_that_does_not_exist(tmp_path, monkeypatch):
    monkeypatch.delenv("MONOJAX_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"data_dir names .*nowhere.*not a folder"):
        load_tabular("heart", data_dir=tmp_path / "nowhere")
    monkeypatch.setenv("MONOJAX_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"MONOJAX_DATA names .*nowhere"):
        load_tabular("heart")
    monkeypatch.setenv("MONOJAX_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "tabular"))):
        load_tabular("heart")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_and_a_wrong_file_leave_the_disk_alone(tmp_path):
    path = tmp_path / "tabular" / "heart.csv"
    with pytest.raises(FileNotFoundError, match=f"{re.escape(str(path))} is missing"):
        load_tabular("heart", data_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []
    path.parent.mkdir()
    path.write_bytes(b"age,sex\n1,2\n")
    with pytest.raises(ValueError) as error:
        load_tabular("heart", data_dir=tmp_path)
    found = hashlib.sha256(b"age,sex\n1,2\n").hexdigest()
    for part in (str(path), found, BY_NAME["heart"].sha256):
        assert part in str(error.value)
    assert path.read_bytes() == b"age,sex\n1,2\n" and list(path.parent.iterdir()) == [path]


def test_a_file_with_a_missing_column_is_refused_through_the_front_door(tmp_path, monkeypatch):
    """Were the digest right, the missing column would still be named."""
    path = tmp_path / "tabular" / "heart.csv"
    path.parent.mkdir()
    path.write_bytes(b"age,sex,split\n1,2,train\n")
    monkeypatch.setattr(tabular_module, "external_bytes", lambda *_: path.read_bytes())
    with pytest.raises(ValueError, match=r"tabular/heart\.csv has no column .*'chol'.*'target'"):
        load_tabular("heart", data_dir=tmp_path)


def test_a_blog_file_without_an_array_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "blog.npz"
    np.savez(path, X_train_T=np.zeros((280, 2)), y_train=np.zeros(2))
    monkeypatch.setattr(tabular_module, "external_bytes", lambda *_: path.read_bytes())
    with pytest.raises(ValueError, match=r"no array \['X_test_T', 'y_test', 'test_date'\]"):
        load_tabular("blog_feedback", data_dir=tmp_path)
    arrays = {"y_train": np.zeros(2), "X_test_T": np.zeros((280, 1)), "y_test": np.zeros(1)}
    np.savez(path, X_train_T=np.zeros((2, 280)), test_date=np.zeros(1), **arrays)
    with pytest.raises(ValueError, match=r"X_train_T must have shape \(280, 2\), got \(2, 280\)"):
        load_tabular("blog_feedback", data_dir=tmp_path)
