"""Tables as Markdown and CSV, and files that are written whole or not at all."""

import numpy as np
import pytest

from monojax import training


def test_tables(tmp_path):
    table = training.Table(["model", "error"], "Errors")
    table.add("a, b", 0.5)
    with pytest.raises(ValueError, match="2 cells, got 1"):
        table.add("c")
    path = table.write(tmp_path, "t", "`command`")
    assert path.read_text().startswith(
        "**Errors**\n\n| model | error |\n|-------|-------|\n| a, b "
    )
    assert (tmp_path / "t.csv").read_text() == 'model,error\n"a, b",0.5\n'
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.csv", "t.md"]
    assert training.interval([1.0, 3.0]) == (2.0, 1.96 / np.sqrt(2))


def test_atomic_writing_keeps_the_old_file_on_failure(tmp_path):
    file = tmp_path / "a"
    training.write_atomically(file, "old")
    with pytest.raises(TypeError):
        training.write_atomically(file, 3)
    assert file.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a"]
