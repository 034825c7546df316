"""A small table of words and numbers, for tests of the CSV command."""

import pytest

pytest.importorskip("ml_collections", reason="the experiments need the extra train")
pytest.importorskip("matplotlib", reason="the experiments need the extra train")
pytest.importorskip("sklearn", reason="the estimators need the extra sklearn")

from train.configs.csv import get_config

PLAIN = "size,age,place,price\n" + "".join(
    f"{20 + 3 * i},{i % 17},{'north' if i % 3 else 'south'},{100 + 7.5 * i - i % 17}\n"
    for i in range(60)
)


def config(**changes):
    c = get_config("quick")
    c.update(target="price", increasing="size", decreasing="age")
    c.update(changes)
    return c


def rows(target, count=60):
    lines = [f"{i},{target(i)}" for i in range(count)]
    return "size,price\n" + "\n".join(lines) + "\n"


ONE = {"decreasing": ""}
