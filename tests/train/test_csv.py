"""A person's own CSV: dialects, mistakes, the page, and new rows scored."""

import csv
import json
import re

import numpy as np
import pytest

pytest.importorskip("ml_collections", reason="the experiments need the extra train")
pytest.importorskip("matplotlib", reason="the experiments need the extra train")
pytest.importorskip("sklearn", reason="the estimators need the extra sklearn")

from train.__main__ import CONFIGS, main
from train.arguments import parse
from train.configs.csv import get_config
from train.tabular import judging, learners, own, scoring
from train.tabular.dialect import CsvError, find_decimal, number, parse_sheet, split_names
from train.tabular.table import Schema, build_table, filled, seen

PLAIN = "size,age,place,price\n" + "".join(
    f"{20 + 3 * i},{i % 17},{'north' if i % 3 else 'south'},{100 + 7.5 * i - i % 17}\n"
    for i in range(60)
)


def config(**changes):
    c = get_config("quick")
    c.update(target="price", increasing="size", decreasing="age")
    c.update(changes)
    return c


def built(text, **changes):
    data = text if isinstance(text, bytes) else text.encode()
    return build_table(parse_sheet(data, "f.csv"), config(**changes), "f.csv")


# --- reading ----------------------------------------------------------------------------------

DIALECTS = {
    "comma": PLAIN.encode(),
    "bom": b"\xef\xbb\xbf" + PLAIN.encode(),
    "utf16": PLAIN.encode("utf-16"),
    "semicolon": PLAIN.replace(",", ";").encode(),
    "tab": PLAIN.replace(",", "\t").encode(),
    "pipe": PLAIN.replace(",", "|").encode(),
    "decimal comma": PLAIN.replace(",", ";").replace(".", ",").encode(),
    "quoted decimal comma": re.sub(r"(\d+)\.(\d+)", r'"\1,\2"', PLAIN).encode(),
    "windows lines": PLAIN.replace("\n", "\r\n").encode(),
    "no last line end, blank lines": ("\n" + PLAIN.replace("\n", "\n\n", 3)).rstrip().encode(),
    "spaces": PLAIN.replace(",", ", ").encode(),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_gives_the_same_table(dialect):
    want, got = built(PLAIN), built(DIALECTS[dialect])
    assert got.schema.columns == want.schema.columns and got.schema.task == "regression"
    np.testing.assert_array_equal(got.y, want.y)
    assert (got.x == want.x).all() and got.notes == ()
    assert want.y[1] == 106.5 and want.x[1].tolist() == [23.0, 1.0, "north"]


def test_cp1252_quoted_headers_and_names_with_commas():
    text = '"Größe (m²)","Lage, Straße";Preis €\n'.replace(";", ",")
    text += "".join(f'{i},"a, b"\n'.replace("\n", f",{i * 2}\n") for i in range(1, 30))
    text = text.replace('3,"a, b"', '3,"süd"')
    options = {"target": "Preis €", "increasing": '"Größe (m²)"', "decreasing": ""}
    sheet = parse_sheet(text.encode("cp1252"), "f.csv")
    assert sheet.encoding == "cp1252" and sheet.names[1] == "Lage, Straße"
    table = build_table(sheet, config(**options), "f.csv")
    assert table.schema.columns[0].direction == 1
    assert table.schema.columns[1].levels == ("a, b", "süd")
    alone = built(text.replace("Größe (m²)", "a, b"), target="Preis €", increasing="a, b",
                  decreasing="")  # fmt: skip
    assert alone.schema.columns[0].name == "a, b"


@pytest.mark.parametrize(
    ("text", "point", "comma"),
    [
        ("12", 12.0, 12.0),
        ("-3.5e2", -350.0, None),
        ("3,5", None, 3.5),
        ("1,234.5", 1234.5, None),
        ("1.234,5", None, 1234.5),
        ("1,234", 1234.0, 1.234),
        ("0,234", None, 0.234),
        ("12 kg", None, None),
        ("1.2.3", None, None),
        ("inf", None, None),
        ("٣", None, None),
    ],
)
def test_numbers(text, point, comma):
    assert (number(text, "."), number(text, ",")) == (point, comma)


def test_a_decimal_sign_is_never_guessed():
    cell = lambda *texts: [("x", text) for text in texts]
    assert find_decimal(cell("1", "2"), "f") == "."
    assert find_decimal(cell("1,234", "3,5"), "f") == ","
    assert find_decimal(cell("1.234"), "f", ",") == "."
    with pytest.raises(CsvError, match=r"'1,234' in x may hold .*--config.decimal=,"):
        find_decimal(cell("1,234"), "f")
    with pytest.raises(CsvError, match=r"'1.234' in x may hold"):
        find_decimal(cell("1.234"), "f", ";")
    with pytest.raises(CsvError, match=r"'1.5' in x has a decimal point and '2,5' in x"):
        find_decimal(cell("1.5", "2,5"), "f")


@pytest.mark.parametrize(
    "text, want", [("a,b", ["a", "b"]), (' "a, b" ,c', ["a, b", "c"]), ("", [])]
)
def test_names_of_an_option(text, want):
    assert split_names(text) == want


def test_options_that_are_texts_may_look_like_numbers():
    argv = ["--config", "csv", "--config.target=2024", "--config.increasing='a','b'"]
    config, _ = parse(argv, CONFIGS)
    assert config.target == "2024" and config.increasing == "'a','b'"


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "f.csv is empty"),
        (b" \n\n", "f.csv is empty"),
        (b"a,b\n", "no row below"),
        (b"a\n1\n", "1 named column"),
        (b"a,b\n1,2\n1,2,3\n", "line 3: 3 cells where the header has 2"),
        (b"a,b,a\n1,2,3\n", "two columns named 'a'"),
        (b'a,b\n"1,2\n', "line 2: unexpected end of data"),
        (b"PK\x03\x04zip", "spreadsheet"),
        (b"a,b\n1,\x00\n", "it is no text"),
    ],
)
def test_files_that_are_no_table(data, match):
    with pytest.raises(CsvError, match=match):
        parse_sheet(data, "f.csv")


def test_unknown_encodings():
    with pytest.raises(CsvError, match="unknown encoding 'utf9'"):
        parse_sheet(b"a,b\n1,2\n", "f.csv", "utf9")
    with pytest.raises(CsvError, match=r"no text in ascii; give --config.encoding"):
        parse_sheet("ä,b\n1,2\n".encode(), "f.csv", "ascii")


# --- columns and target -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"target": ""}, "give --config.target=NAME; the columns of f.csv are: size, age"),
        ({"target": "prize"}, "no column 'prize'; did you mean price"),
        ({"increasing": "sice"}, "config.increasing: f.csv has no column 'sice'; did you mean"),
        ({"decreasing": "size"}, "'size' cannot be increasing and decreasing"),
        ({"increasing": "price"}, "the target 'price' has a direction"),
        ({"increasing": "place"}, "'place' has a direction but 'south' in line 2 is no number"),
        ({"categorical": "size"}, "'size' is categorical and has a direction"),
        ({"ignore": "age"}, "'age' has a direction and is to be ignored"),
        (
            {"increasing": "", "decreasing": ""},
            "no column with a direction.*numbers are: size, age",
        ),
        ({"target": "place"}, None),
        ({"task": "classification"}, "has 60 classes"),
    ],
)
def test_mistakes_in_names(changes, match):
    if match is None:
        assert built(PLAIN, **changes).schema.classes == ("north", "south")
        return
    with pytest.raises(CsvError, match=match):
        built(PLAIN, **changes)


def rows(target, count=60):
    lines = [f"{i},{target(i)}" for i in range(count)]
    return "size,price\n" + "\n".join(lines) + "\n"


ONE = {"decreasing": ""}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (rows(lambda i: "abc"[i % 3]), "'price' is not numeric: 'a' in line 2 .3 different"),
        (rows(lambda i: f"{i} EUR"), "is not numeric: '0 EUR' in line 2"),
        (rows(lambda i: 5), "'price' is '5' in every row"),
        (rows(lambda i: "yes"), "'price' is 'yes' in every row"),
        (rows(lambda i: "NA"), "has no value in any row"),
        (
            rows(lambda i: i).replace("\n7,", "\nseven,"),
            "holds numbers|has a direction but 'seven'",
        ),
        (rows(lambda i: i).replace("size", "other"), "no column 'size'"),
        ("size,price\n" + "3,1\n3,2\n" * 30, "the same in every row"),
    ],
)
def test_targets_and_columns_that_cannot_be_learnt(text, match):
    with pytest.raises(CsvError, match=match):
        built(text, **ONE)


def test_numbers_beside_few_texts_are_not_a_category():
    text = PLAIN.replace("\n23,1,", "\n23,one,")
    with pytest.raises(CsvError, match="'age' holds numbers, but 'one' in line 3 is no number"):
        built(text, decreasing="")
    table = built(text, decreasing="", missing="one")
    assert np.isnan(table.x[1, 1]) and table.schema.columns[1].gaps


def test_what_is_left_out_is_told():
    head, *lines = PLAIN.strip().split("\n")
    lines[4] = lines[4].rsplit(",", 1)[0] + ",?"
    text = f",{head},id,fixed\n" + "".join(f"{i},{x},k{i},1\n" for i, x in enumerate(lines))
    table = built(text)
    assert table.notes == (
        "column 1 has no name and is left out",
        "1 row(s) without a value of 'price' are left out",
        "column 'id' has 59 different texts and is left out",
        "column 'fixed' is the same in every row and is left out",
    )
    assert [c.name for c in table.schema.columns] == ["size", "age", "place"]
    assert table.x.shape == (59, 3)


def test_two_classes_and_which_is_which():
    text = rows(lambda i: "no" if i % 3 else "yes")
    table = built(text, **ONE)
    assert table.schema.task == "classification" and table.schema.classes == ("no", "yes")
    assert table.y[:3].tolist() == [1, 0, 0]
    other = built(text, positive="no", **ONE)
    assert other.schema.classes == ("yes", "no") and other.y[:3].tolist() == [0, 1, 1]
    with pytest.raises(CsvError, match="no class 'maybe'; it has 'no' and 'yes'"):
        built(text, positive="maybe", **ONE)
    coded = built(rows(lambda i: [10, 9][i % 2]), **ONE)
    assert coded.schema.classes == ("9", "10") and coded.y[:2].tolist() == [1, 0]
    assert built(rows(lambda i: i % 2), task="regression", **ONE).schema.task == "regression"


def test_a_schema_comes_back_from_json():
    schema = built(PLAIN.replace("\n23,1,", "\n23,?,")).schema
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema


def test_what_a_part_has_not_seen_is_filled_from_it():
    table = built(PLAIN.replace("\n23,1,", "\n?,1,").replace("north,", ",", 1))
    assert [c.gaps for c in table.schema.columns] == [True, False, True]
    part = np.asarray([[1.0, 5.0, "south"], [3.0, 7.0, "south"], [9.0, 6.0, "south"]], object)
    known = seen(table.schema, part)
    assert [(c.gaps, c.low, c.high, c.levels) for c in known.columns] == [
        (False, 1.0, 9.0, None),
        (False, 5.0, 7.0, None),
        (False, 0.0, 0.0, ("south",)),
    ]
    new = np.asarray([[np.nan, 2.0, "north"], [4.0, 2.0, None]], object)
    got = filled(known, part, new)
    assert got.tolist() == [[3.0, 2.0, "south"], [4.0, 2.0, "south"]] and new[1, 2] is None


# --- the protocol -----------------------------------------------------------------------------


def test_parts_and_folds_keep_the_classes():
    y = (np.arange(100) % 4 == 0).astype(float)
    train, test = judging.split(y, "classification", 0.2, 0)
    assert sorted([*train, *test]) == list(range(100)) and y[test].sum() == 5 and len(test) == 20
    fold = judging.fold_of(y, "classification", 5, 0)
    assert [y[fold == k].sum() for k in range(5)] == [5] * 5


def test_scores_against_closed_forms():
    y, p = np.array([0.0, 1, 1, 0]), np.array([0.2, 0.9, 0.4, 0.4])
    found = judging.scores("classification", p, y)
    want = -np.log([0.8, 0.9, 0.4, 0.6]).mean()
    assert found == pytest.approx({"log loss": want, "accuracy": 0.75, "AUROC": 0.875})
    y, f = np.array([1.0, 2, 3]), np.array([1.0, 2, 5])
    found = judging.scores("regression", f, y)
    assert found == pytest.approx({"RMSE": (4 / 3) ** 0.5, "MAE": 2 / 3, "R2": -1.0})
    value, low, high = judging.difference("regression", np.ones(9), np.full(9, 4.0), 20, 0)
    assert (value, low, high) == (-1, -1, -1)


def test_trees_see_one_column_per_category():
    table = built(PLAIN)
    assert learners.encode(table.schema, table.x)[1].tolist() == [23, 1, 1, 0]
    assert learners.encoded_directions(table.schema) == [1, -1, 0, 0]


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
