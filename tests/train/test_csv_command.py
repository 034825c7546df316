"""The command on a table of a person: a page, new rows, mistakes."""

import csv
import json
import re

import numpy as np
import pytest

pytest.importorskip("ml_collections", reason="the experiments need the extra train")
pytest.importorskip("matplotlib", reason="the experiments need the extra train")
pytest.importorskip("sklearn", reason="the estimators need the extra sklearn")

from csv_tables import ONE, PLAIN, config, rows

from train.__main__ import main
from train.configs.csv import get_config
from train.tabular import own, scoring
from train.tabular.dialect import parse_sheet

# --- the command ------------------------------------------------------------------------------

FAST = ["--config.methods=('lmn',)", "--config.peers=False"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished run on a table with a category and missing cells."""
    place = tmp_path_factory.mktemp("csv")
    text = PLAIN.replace("\n23,1,", "\n23,?,").replace("price", "price <€> & $")
    text += "".join(f"{i},?,north,{100 + i}\n" for i in range(20, 60, 4))
    (place / "t.csv").write_text(text, encoding="utf-8")
    argv = ["--config=csv:quick", f"--config.file={place / 't.csv'}"]
    argv += ["--config.target=price <€> & $", "--config.increasing=size", *FAST]
    argv += ["--config.decreasing=age", f"--workdir={place / 'run'}"]
    assert main(argv) == 0
    return place, argv


@pytest.mark.slow
def test_a_run_leaves_one_page_that_needs_nothing(done):
    place, _ = done
    page = (place / "run" / "report.html").read_text(encoding="utf-8")
    assert "price &lt;€&gt; &amp; $" in page and "price <" not in page
    assert page.count("data:image/png;base64,") == 2
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)|https?://|<script|@import|url\(", page)
    assert "must not rise as it rises" in page and "csv:predict" in page
    record = json.loads((place / "run" / "model.json").read_text())
    assert record["model"] == "lmn" and record["status"] == "proved"
    assert '"proved"' in (place / "run" / "certificate.json").read_text()
    with open(place / "run" / "results.csv", encoding="utf-8") as file:
        table = list(csv.reader(file))
    assert [row[0] for row in table[1:]] == ["LMN network (chosen)", "network, unconstrained"]
    assert table[1][1] == "certified (construction)"


@pytest.mark.slow
def test_the_same_command_computes_nothing_again_and_another_file_is_refused(done, capsys):
    place, argv = done
    before = (place / "run" / "report.html").read_bytes()
    made = {p: p.stat().st_mtime_ns for p in (place / "run" / "cells").iterdir()}
    assert main(argv) == 0
    assert {p: p.stat().st_mtime_ns for p in (place / "run" / "cells").iterdir()} == made
    assert (place / "run" / "report.html").read_bytes() == before
    text = (place / "t.csv").read_text(encoding="utf-8")
    (place / "t.csv").write_text(text.replace("\n23,", "\n24,"), encoding="utf-8")
    capsys.readouterr()
    assert main(argv) == 1 and "has changed since" in capsys.readouterr().err
    (place / "t.csv").write_text(text, encoding="utf-8")
    assert (place / "run" / "report.html").read_bytes() == before


def predicted(place, text, name, capsys):
    (place / f"{name}.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    argv = ["--config=csv:predict", f"--config.model={place / 'run'}"]
    argv += [f"--config.file={place / name}.csv", f"--workdir={place / name}"]
    code = main(argv)
    shown = capsys.readouterr()
    if code:
        return code, shown.err
    with open(place / name / "predictions.csv", encoding="utf-8") as file:
        return code, list(csv.reader(file, delimiter=";" if b";" in text[:30] else ","))


NEW = """place,age,size,more
north,3,50,x
south,,60,x
west,3,60,x
north,3,many,x
north,3,900,x
north,3,,x
"""


@pytest.mark.slow
def test_new_rows_are_scored_or_the_reason_is_told(done, capsys):
    place, _ = done
    code, found = predicted(place, NEW.encode(), "new", capsys)
    assert code == 0
    assert found[0] == ["place", "age", "size", "more", "predicted price <€> & $", "remark"]
    value = [row[4] for row in found[1:]]
    assert [bool(v) for v in value] == [True, True, False, False, True, False]
    assert [row[5] for row in found[1:]] == [
        "",
        "",
        "unknown category 'west' in 'place'",
        "'many' in 'size' is no number",
        "'size' lies outside of 20 to 197",
        "'size' is missing, as in no row that was learnt from",
    ]
    schema = scoring.load_model(place / "run")[0]
    want = scoring.predictions(place / "run", schema, np.array([[50.0, 3.0, "north"]], object))
    assert float(value[0]) == pytest.approx(want[0], rel=1e-5)
    german = NEW.replace(",", ";").replace("50", "50,0").encode()
    code, other = predicted(place, german, "german", capsys)
    assert code == 0 and other[1][4].replace(",", ".") == value[0]


@pytest.mark.slow
def test_new_files_that_cannot_be_scored(done, capsys):
    place, _ = done
    code, error = predicted(place, b"place,aged,size\nnorth,1,2\n", "lacks", capsys)
    assert code == 1 and "lacks 1 column(s) that the model reads: age ('age': did you" in error
    assert not (place / "lacks").exists()
    assert predicted(place, b"", "empty", capsys)[1].count("is empty") == 1
    argv = ["--config=csv:predict", f"--config.model={place}", f"--config.file={place}/t.csv"]
    assert main([*argv, f"--workdir={place / 'no'}"]) == 1
    assert "holds no model.json" in capsys.readouterr().err
    assert main(["--config=csv:predict", f"--config.model={place / 'run'}"]) == 1
    assert "give --config.file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"file": "nowhere.csv"}, "there is no file 'nowhere.csv'"),
        ({"methods": ("lnm",)}, "did you mean 'lmn'"),
        ({"certify_budget": 0}, "config.certify_budget must be at least 1"),
        ({"folds": 1}, "config.folds must be at least 2"),
        ({"test_share": 0.0}, "config.test_share must be > 0"),
        ({"test_share": 0.95}, "config.test_share must be below 0.9"),
        ({"task": "clasification"}, "did you mean 'classification'"),
        ({"decimal": ";"}, "config.decimal must be one of"),
    ],
)
def test_mistakes_in_the_config(changes, match):
    with pytest.raises(ValueError, match=match):
        own.check(config(**changes))


def test_tables_that_are_too_small(tmp_path):
    (tmp_path / "t.csv").write_text(rows(lambda i: i, 39))
    with pytest.raises(ValueError, match="39 rows with a target; at least 40"):
        own.check(config(file=str(tmp_path / "t.csv"), **ONE))
    (tmp_path / "t.csv").write_text(rows(lambda i: int(i > 56)))
    with pytest.raises(ValueError, match="the smaller class of 'price' has 3 rows"):
        own.check(config(file=str(tmp_path / "t.csv"), **ONE))


def test_without_a_file_it_is_auto_mpg():
    c = get_config("quick")
    own.check(c)
    table = own.load(c)[1]
    assert table.x.shape == (398, 7) and table.schema.directions.count(-1) == 3
    assert table.schema.columns[6].levels == ("1", "2", "3") and table.schema.columns[2].gaps


@pytest.mark.parametrize(
    "method",
    [
        pytest.param("lmn", marks=pytest.mark.slow),
        pytest.param("penalty", marks=pytest.mark.full),  # its certificate takes a minute
    ],
)
def test_two_classes_with_trees(tmp_path, method):
    """The whole command on a table whose rule is known; a penalty may or may not be certified."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    label = np.where(x[:, 0] - x[:, 1] + 0.3 * rng.normal(size=200) > 0, "ja", "nein")
    lines = [f"{a:.3f};{b:.3f};{c}" for (a, b), c in zip(x, label, strict=True)]
    text = "links;rechts;kauft?\n" + "\n".join(lines).replace(".", ",")
    (tmp_path / "t.csv").write_bytes(text.encode("cp1252"))
    argv = ["--config=csv:quick", f"--config.file={tmp_path / 't.csv'}", "--config.target=kauft?"]
    argv += ["--config.increasing=links", "--config.decreasing=rechts", "--config.positive=ja"]
    argv += ["--config.max_epochs=30", f"--config.methods=('{method}',)"]
    assert main([*argv, f"--workdir={tmp_path / 'run'}"]) == 0
    numbers = {
        path.name.rsplit("-", 1)[0]: json.loads(path.read_text())
        for path in (tmp_path / "run" / "cells").glob("*.json")
    }
    assert numbers[method]["test"]["accuracy"] > 0.8
    allowed = ("proved",) if method == "lmn" else ("proved", "refuted", "unknown")
    assert numbers[method]["status"] in allowed
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert ("WITHOUT a certificate" in page) == (numbers[method]["status"] != "proved")
    for name in set(numbers) & {"xgboost_constrained", "histgb_constrained"}:
        assert numbers[name]["violations"] == 0 and numbers[name]["test"]["accuracy"] > 0.8
    assert "probability of kauft?=ja" in scoring.as_csv(
        parse_sheet(text.encode("cp1252"), "t"),
        scoring.load_model(tmp_path / "run")[0],
        np.full(200, 0.5),
        [""] * 200,
    )
