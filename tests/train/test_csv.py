"""A person's own CSV, read: dialects, names, mistakes, parts and scores."""

import json
import re

import numpy as np
import pytest

pytest.importorskip("ml_collections", reason="the experiments need the extra train")
pytest.importorskip("matplotlib", reason="the experiments need the extra train")
pytest.importorskip("sklearn", reason="the estimators need the extra sklearn")

from csv_tables import ONE, PLAIN, config, rows

from train.__main__ import CONFIGS
from train.arguments import parse
from train.tabular import judging, learners
from train.tabular.dialect import CsvError, find_decimal, number, parse_sheet, split_names
from train.tabular.table import Schema, build_table, filled, seen


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
