"""Tests of label columns as people have them: what they mean, several columns, and the order that a type declares."""

import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from layer_distillation.errors import UserError
from layer_distillation.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from text_data.answers import hard_labels, label_indicators
from text_data.arguments import DataArguments
from text_data.labels import LabelMap
from text_data.loading import load_data
from text_data.names import join_names, split_names

NAN = float("nan")


@pytest.fixture
def load(tmp_path):
    """Loads a column of labels from a table or a data frame (parquet), a list (json lines) or text (a csv file)."""

    def load_labels(labels, name="label", delimiter=",", **arguments):
        path = tmp_path / "train.parquet"
        if isinstance(labels, pa.Array | pa.ChunkedArray):
            pq.write_table(pa.table({"text": [f"text {i}" for i in range(len(labels))], name: labels}), path)
        elif isinstance(labels, pd.Series):
            pd.DataFrame({"text": [f"text {i}" for i in range(len(labels))], name: labels}).to_parquet(path)
        elif isinstance(labels, list):
            path = path.with_suffix(".jsonl")
            path.write_text("".join(json.dumps({"text": f"text {i}", name: v}) + "\n" for i, v in enumerate(labels)))
        else:
            path = path.with_suffix(".csv")
            cells = [cell.replace('"', '""') for cell in labels.split("|")]
            rows = [f'text {i}{delimiter}"{cell}"\n' for i, cell in enumerate(cells)]
            path.write_text(f"text{delimiter}{name}\n" + "".join(rows))
        data = load_data(DataArguments(train_file=str(path), validation_file=str(path), **arguments), seed=0)
        return data.labels, data.splits["train"]["label"][:]

    return load_labels


def refused(load, labels, *parts, **arguments):
    with pytest.raises(UserError) as error:
        load(labels, **arguments)
    assert [part for part in parts if part not in str(error.value)] == [], str(error.value)


# ---- What labels mean ----


@pytest.mark.parametrize(
    ("labels", "readings"),
    [
        ("1.0|1|0", (SINGLE_LABEL, REGRESSION)),
        ([0.0, 1.0, 2.0], (SINGLE_LABEL, REGRESSION)),
        (pa.array([0.0, 1.0, 2.0]), (SINGLE_LABEL, REGRESSION)),
        ("['a']|['a', 'b']|[]", (SINGLE_LABEL, MULTI_LABEL)),
        ("[1, 0]|[0, 1]", (SINGLE_LABEL, MULTI_LABEL)),
        ("['a' 'b']|['a']", (SINGLE_LABEL, MULTI_LABEL)),  # an array of numpy
        ('{"a": 1}|{"a": 0}', (SINGLE_LABEL, MULTI_LABEL)),
        ("rude;threat|rude|threat", (SINGLE_LABEL, MULTI_LABEL)),
        ("rude, threat|insult, rude|insult, threat", (SINGLE_LABEL, MULTI_LABEL)),
        ("rude|fine|rude;threat", (SINGLE_LABEL, MULTI_LABEL)),
        ([[0.2, 0.8], [0.5, 0.5]], (SINGLE_LABEL, MULTI_LABEL)),
        ([{"a": 0.33, "b": 0.67}, {"a": 1, "b": 0}], (SINGLE_LABEL, MULTI_LABEL)),
        ("2.5|nan|1", ("row 2", "'nan'", SINGLE_LABEL)),
        ("2,5|nan|1,5", ("row 2", "'nan'", SINGLE_LABEL)),
        ("3|1,2|2", ("'1,2'", REGRESSION, MULTI_LABEL)),
        # Exactly one label in every row.
        ([["toxic"], ["fine"]], (SINGLE_LABEL, MULTI_LABEL)),
        ([[10], [9]], (SINGLE_LABEL, MULTI_LABEL)),
        ('["toxic"]|["fine"]', (SINGLE_LABEL, MULTI_LABEL)),
        ([[0, 1, 0], [1, 0, 0]], (SINGLE_LABEL, MULTI_LABEL)),
        ([{"toxic": 1, "fine": 0}, {"toxic": 0, "fine": 1}], (SINGLE_LABEL, MULTI_LABEL)),
    ],
)
def test_labels_with_two_readings_are_refused_with_both_and_the_option(labels, readings, load):
    refused(load, labels, "--problem_type", *readings, "train.")


@pytest.mark.parametrize(
    ("labels", "problem_type", "names", "ids"),
    [
        ("1.0|1|0", SINGLE_LABEL, ("0", "1"), [1, 1, 0]),
        ([10.0, 9.0, 2.0], SINGLE_LABEL, ("2", "9", "10"), [2, 1, 0]),
        ("1.0|1|0", REGRESSION, ("score",), [1.0, 1.0, 0.0]),
        ("3|1,2|2", REGRESSION, ("score",), [3.0, pytest.approx(1.2), 2.0]),
        ("3|1,2|2,1|3", MULTI_LABEL, ("1", "2", "3"), [[0, 0, 1], [1, 1, 0], [1, 1, 0], [0, 0, 1]]),
        ([1, 2, 4], REGRESSION, ("score",), [1.0, 2.0, 4.0]),
        # As lists in json: csv cells that spell lists are lists.
        ("['a']|b|['a']", SINGLE_LABEL, ("a", "b"), [0, 1, 0]),
        ("[1, 0]|[0, 1]", SINGLE_LABEL, ("0", "1"), [0, 1]),
        ("[10, 2]|[2]|[]", MULTI_LABEL, ("2", "10"), [[1, 1], [1, 0], [0, 0]]),
        ("[10]|[9]", MULTI_LABEL, ("9", "10"), [[0, 1], [1, 0]]),
        ("[2.5]|[1.0]", REGRESSION, ("score",), [2.5, 1.0]),
        ("['b']|(\"a\", 'b')|[]", MULTI_LABEL, ("a", "b"), [[0, 1], [1, 1], [0, 0]]),
        ('["x, y"]|["z", "x, y"]|[]', MULTI_LABEL, ("x, y", "z"), [[1, 0], [1, 1], [0, 0]]),
        ("[1, 0]|[0, 1]", MULTI_LABEL, ("0", "1"), [[1, 0], [0, 1]]),
        ("rude;threat|rude|[]|;", MULTI_LABEL, ("rude", "threat"), [[1, 1], [1, 0], [0, 0], [0, 0]]),
        ("b, a|a|b", MULTI_LABEL, ("a", "b"), [[1, 1], [1, 0], [0, 1]]),
        # Names of several words.
        ("a b|a|b;a", MULTI_LABEL, ("a", "a b", "b"), [[0, 1, 0], [1, 0, 0], [1, 0, 1]]),
        ("a b|a c|d", MULTI_LABEL, ("a b", "a c", "d"), [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        ([[0.25, 0.75], [1.0, 0.0]], MULTI_LABEL, ("0", "1"), [[0.25, 0.75], [1, 0]]),
        ([[0, 1], [1, 0]], SINGLE_LABEL, ("0", "1"), [1, 0]),
        ([["toxic"], ["fine"]], SINGLE_LABEL, ("fine", "toxic"), [1, 0]),
        ([["toxic"], ["fine"]], MULTI_LABEL, ("fine", "toxic"), [[0, 1], [1, 0]]),
        ('["toxic"]|["fine"]', SINGLE_LABEL, ("fine", "toxic"), [1, 0]),
        ("[10]|[9]", SINGLE_LABEL, ("9", "10"), [1, 0]),
        ([[10], [9]], SINGLE_LABEL, ("9", "10"), [1, 0]),
        ([[10], [9]], MULTI_LABEL, ("9", "10"), [[0, 1], [1, 0]]),
        ([[10], [9]], REGRESSION, ("score",), [10.0, 9.0]),
        ([[-1], [1], [0]], SINGLE_LABEL, ("-1", "0", "1"), [0, 2, 1]),
        ([[2.5], [1.0]], REGRESSION, ("score",), [2.5, 1.0]),
        ("2.5|nan|1", SINGLE_LABEL, ("1", "2.5", "nan"), [1, 2, 0]),
        ([{"toxic": 1, "fine": 0}, {"toxic": 0, "fine": 1}], SINGLE_LABEL, ("toxic", "fine"), [0, 1]),
    ],
)
def test_the_problem_type_decides_between_readings(labels, problem_type, names, ids, load):
    assert load(labels, problem_type=problem_type) == (LabelMap(problem_type, names), ids)


@pytest.mark.parametrize(
    ("labels", "arguments", "parts"),
    [
        ("a|b", {"problem_type": REGRESSION}, ("row 1", "'a'")),
        ("True|False", {"problem_type": REGRESSION}, ("row 1", "'True'")),
        ("1.5|2.5", {"problem_type": MULTI_LABEL}, ("--problem_type", "1.5", "--label_column_name")),
        ("0.5|2.5", {"problem_type": SINGLE_LABEL}, ("row 2", "'2.5'", "--problem_type", REGRESSION)),
        ([["a"], ["b", "a"]], {"problem_type": SINGLE_LABEL}, ("--problem_type", "row 2", "['b', 'a']")),
        ([["a"], ["b"]], {"problem_type": REGRESSION}, ("row 1", "'a'")),
        ([["a"], ["a", "b"]], {"problem_type": REGRESSION}, ("--problem_type", "['a']")),
        ("['a']|['a', 'b']|[]", {"problem_type": SINGLE_LABEL}, ("row 2", "['a', 'b']", "--label_order")),
        ("['a']|['a' 'b']", {"problem_type": SINGLE_LABEL}, ("row 2", "['a' 'b']")),
        # One cell with another mark would make names of all others.
        ("a, b|a|b|a;b", {"problem_type": MULTI_LABEL}, ("'a, b'", '["a, b"]')),
        ("a, b|a|b|c;d", {"problem_type": MULTI_LABEL}, ("'c;d'", '["c;d"]')),
        ([[0.2, 0.9], [1.0, 0.0]], {"problem_type": SINGLE_LABEL}, ("row 1", "[0.2, 0.9]", MULTI_LABEL)),
        ([[0, 1], [1, 0]], {"problem_type": REGRESSION}, ("--problem_type", "2")),
        ("['a']|b", {"problem_type": MULTI_LABEL}, ("row 2", "'b'")),
        ("['a' 'b']|['a']", {"problem_type": MULTI_LABEL}, ("row 1", "['a' 'b']")),
        ("a;b||a", {"problem_type": MULTI_LABEL}, ("row 2", "[]")),
        ("a, b|c", {"problem_type": MULTI_LABEL}, ("'a, b'", '["a, b"]')),
        ("a b|a|b", {"problem_type": MULTI_LABEL}, ("'a b'", '["a b"]')),
        ([1, 2], {"problem_type": MULTI_LABEL}, ("--problem_type", "1", "--label_column_name")),
        ([[], []], {}, ("lengths [0]",)),
        ("1,234|2,500|17", {"problem_type": REGRESSION}, ("'1,234'", "thousands")),
        ("a|b", {"problem_type": "classification"}, ("--problem_type", "'classification'", MULTI_LABEL)),
        ("2.5|1", {"label_order": "a,b"}, ("--label_order", REGRESSION)),
    ],
)
def test_labels_that_are_not_what_the_problem_type_says_are_refused_with_the_row(labels, arguments, parts, load):
    refused(load, labels, *parts, **arguments)


@pytest.mark.parametrize(("label", "names"), [("ab", ("a", "b")), ([None, None], ("x", "y"))])
def test_labels_are_in_the_column_labels_only_if_the_column_label_is_empty(label, names, tmp_path):
    file = tmp_path / "train.jsonl"
    rows = [{"text": f"text {i}", "label": label[i], "labels": "xy"[i]} for i in range(2)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = load_data(DataArguments(train_file=str(file), validation_file=str(file)), seed=0)
    assert (data.labels.names, data.splits["train"]["label"][:]) == (names, [0, 1])


def test_the_label_order_may_settle_what_the_labels_mean(load):
    assert load("1.0|1|0", label_order="1,0") == (LabelMap(SINGLE_LABEL, ("1", "0")), [0, 0, 1])
    assert load("a;b|a|b", label_order="b,a,a;b") == (LabelMap(SINGLE_LABEL, ("b", "a", "a;b")), [2, 1, 0])
    lists = ("['a']", "['a', 'b']")
    read = load("|".join(lists), label_order=join_names(lists), problem_type=SINGLE_LABEL)
    assert read == (LabelMap(SINGLE_LABEL, lists), [0, 1])
    names = ("praise, thanks", "complaint, returns")
    for order in ('["praise, thanks", "complaint, returns"]', '"praise, thanks", "complaint, returns"'):
        assert load("|".join(names), label_order=order) == (LabelMap(SINGLE_LABEL, names), [0, 1])


@pytest.mark.parametrize(
    "names", [("a", "b"), ("a, b", "c"), ('say "x"', "y"), (" a", "b"), ("[a]", "b"), ("é", ""), ("a\nb", "c")]
)
def test_names_are_joined_as_they_are_split(names):
    assert split_names(join_names(names)) == names


# ---- Types of columns ----


@pytest.mark.parametrize(
    ("labels", "names", "ids"),
    [
        (pd.Series(pd.Categorical(["neg", "pos"], categories=["pos", "neu", "neg"])), ("pos", "neu", "neg"), [2, 0]),
        # as polars writes an Enum
        (
            pa.array(["b", "a"]).dictionary_encode().cast(pa.dictionary(pa.int32(), pa.string(), True)),
            ("b", "a"),
            [0, 1],
        ),
        (pa.array(["b", "a"]).dictionary_encode(), ("a", "b"), [1, 0]),
        (pa.array(["b", "a"], pa.string_view()), ("a", "b"), [1, 0]),
        (pa.array([2, 0], pa.decimal128(5, 2)), ("0", "2"), [1, 0]),
        (pa.array([10, 9], pa.uint8()), ("9", "10"), [1, 0]),
    ],
)
def test_the_order_of_a_type_counts_and_other_classes_are_sorted(labels, names, ids, load):
    assert load(labels) == (LabelMap(SINGLE_LABEL, names), ids)


def test_equal_numbers_are_one_class_and_codes_with_leading_zeros_are_not_numbers(load):
    assert load("+1|-1|1|+1") == (LabelMap(SINGLE_LABEL, ("-1", "1")), [1, 0, 1, 1])
    assert load("+1|-1|+1") == (LabelMap(SINGLE_LABEL, ("-1", "+1")), [1, 0, 1])
    several = (LabelMap(MULTI_LABEL, ("1", "2")), [[1, 1], [1, 0], [0, 1]])
    assert load("+1;2|1|2", problem_type=MULTI_LABEL) == load([["+1", "2"], ["1"], ["2"]]) == several
    assert load("01|1|2")[0].names == ("01", "1", "2")
    assert load("1.0|1|n/a|2.50|2.5", problem_type=SINGLE_LABEL)[0].names == ("1", "2.5", "n/a")
    assert load("+1|1|2", label_order="+1,1,2")[0].names == ("+1", "1", "2")
    # Fractions may be versions.
    assert load("3.1|3.10|other", problem_type=SINGLE_LABEL)[0].names == ("3.1", "3.10", "other")
    assert load(f"{'9' * 25}|{'9' * 24}8")[0].names == (f"{'9' * 24}8", "9" * 25)
    refused(load, f"{'9' * 5000}|1", "row 1", "train.csv")


@pytest.fixture
def load_splits(tmp_path):
    """Loads labels of train, validation and test (`None`: no such split): a list (json lines) or text (a csv file)."""

    def load(*splits, problem_type=None):
        files = {}
        for name, labels in zip(("train", "validation", "test"), splits, strict=True):
            texts = [f"text {i}" for i in range(9)]
            if isinstance(labels, str):
                files[f"{name}_file"] = file = tmp_path / f"{name}.csv"
                file.write_text("text,label\n" + "".join(f'{t},"{c}"\n' for t, c in zip(texts, labels.split("|"))))
            elif labels is not None:
                files[f"{name}_file"] = file = tmp_path / f"{name}.jsonl"
                file.write_text("".join(json.dumps({"text": t, "label": v}) + "\n" for t, v in zip(texts, labels)))
        arguments = {name: str(file) for name, file in files.items()}
        return load_data(DataArguments(**arguments, problem_type=problem_type), seed=0)

    return load


@pytest.mark.parametrize(
    ("train", "validation", "test", "problem_type", "names", "ids"),
    [
        # Numbers of classes in one split are numbers of classes in all, whatever each looks like alone.
        ([[0, 2], [1], []], [[1], [2]], None, None, "0 1 2", [[0, 1, 0], [0, 0, 1]]),
        ([[0, 2], [1]], [[0, 1], [1, 0]], None, None, "0 1 2", [[1, 1, 0]] * 2),
        ([[0, 2], [1, 2]], [[1]], None, None, "0 1 2", [[0, 1, 0]]),
        ([[1, 0, 1], [0, 0, 1]], [[0, 1, 0]], None, None, "0 1 2", [[0, 1, 0]]),
        ("[0, 2]|[1]", "[0, 1]|[1, 0]", None, MULTI_LABEL, "0 1 2", [[1, 1, 0]] * 2),
        # Unknown labels of a test split decide nothing.
        ([[0, 2], [1]], [[1]], [[-1], [-1]], None, "0 1 2", [[0, 1, 0]]),
        ([[1, 0, 1], [0, 0, 1]], [[0, 1, 0]], [[-1]], None, "0 1 2", [[0, 1, 0]]),
        ([[0], [1]], [[1]], [[-1]], SINGLE_LABEL, "0 1", [1]),
        ("1|0", "1.0", "-1", None, "0 1", [1]),
        # A label that a split does not have is unknown.
        ([{"a": 1, "b": 1}, {"a": 0, "b": 1}], [{"b": 0}], None, None, "a b", [[NAN, 0]]),
    ],
)
def test_what_labels_are_is_decided_once_for_all_splits(
    train, validation, test, problem_type, names, ids, load_splits
):
    data = load_splits(train, validation, test, problem_type=problem_type)
    assert data.labels.names == tuple(names.split())
    np.testing.assert_array_equal(data.splits["validation"]["label"][:], ids)
    assert test is None or "label" not in data.splits["test"].column_names


def test_a_test_split_has_its_labels_also_where_no_row_has_one(load_splits):
    data = load_splits([["a", "b"], ["a"]], [["a"]], [[], []])
    assert data.splits["test"]["label"][:] == [[0, 0], [0, 0]]
    data = load_splits("+1|-1|+1", [1, -1], [-1])
    assert (data.labels.names, data.splits["test"]["label"][:]) == (("-1", "1"), [0])


@pytest.mark.parametrize(
    ("train", "validation", "problem_type", "parts"),
    [
        ([[0], [1]], [[0, 1]], None, ("train.jsonl and", "validation.jsonl", "lengths [1, 2]")),
        ([[1, 0, 0], [1, 1, 0]], [[1, 0]], None, ("validation.jsonl", "lengths [2, 3]")),
        ("[1, 0, 0]|[1, 1, 0]", "[1, 0]", MULTI_LABEL, ("validation.csv", "lengths [2, 3]")),
        ([[0, 2], [1], [-1]], [[1]], None, ("train.jsonl", "row 3")),
        # Positions are no names.
        ([["a"], ["b", "a"]], [[1, 0]], None, ("validation.jsonl", "a, b", "0, 1")),
        ([{"a": 1, "b": 1}, {"a": 0, "b": 1}], [[1, 0]], None, ("validation.jsonl", "a, b", "0, 1")),
    ],
)
def test_lists_that_can_be_read_in_no_way_in_all_splits_are_refused(
    train, validation, problem_type, parts, load_splits
):
    with pytest.raises(UserError) as error:
        load_splits(train, validation, None, problem_type=problem_type)
    assert [part for part in parts if part not in str(error.value)] == [], str(error.value)


def test_lists_of_unlike_lengths_with_numbers_above_one_hold_the_numbers_of_classes(load):
    assert load([[10, 2], [2], []]) == (LabelMap(MULTI_LABEL, ("2", "10")), [[1, 1], [1, 0], [0, 0]])
    for shares in ([[1, 0], [1]], [[0, 2], [1, 0]]):
        refused(load, shares, "lengths", "Use lists of names")


def test_lists_of_ordered_categories_keep_the_order(load):
    values = pa.DictionaryArray.from_arrays(pa.array([1, 0, 1], pa.int8()), ["z", "b"], ordered=True)
    names, ids = load(pa.ListArray.from_arrays([0, 1, 3], values))
    assert (names, ids) == (LabelMap(MULTI_LABEL, ("z", "b")), [[0, 1], [1, 1]])


def test_fractions_in_decimals_and_decimal_commas_are_scores(load):
    assert load(pa.array([Decimal("0.25"), Decimal("3")]))[0].problem_type == REGRESSION
    for delimiter in ",;\t":
        for cells, scores in (("0,25|-3|1,5", [0.25, -3.0, 1.5]), ("0,5|1,0|2,2|3", [0.5, 1.0, np.float32(2.2), 3.0])):
            labels, values = load(cells, delimiter=delimiter)
            assert (labels.problem_type, values) == (REGRESSION, scores)
        labels, values = load("0,25|1|0,5", delimiter=delimiter, problem_type=SINGLE_LABEL)
        assert labels == LabelMap(SINGLE_LABEL, ("not_label", "label"), is_soft=True)
        assert values == [[0.75, 0.25], [0, 1], [0.5, 0.5]]
    for delimiter in ";\t":
        assert load("b|a", delimiter=delimiter) == (LabelMap(SINGLE_LABEL, ("a", "b")), [1, 0])


def test_the_rows_of_a_json_object_are_read_from_the_field_that_is_named(tmp_path, load):
    path = tmp_path / "data.json"
    path.write_text(json.dumps({"version": 1, "data": [{"text": "x", "label": "b"}, {"text": "y", "label": "a"}]}))
    files = {"train_file": str(path), "validation_file": str(path)}
    data = load_data(DataArguments(**files, json_field="data"), seed=0)
    assert (data.labels.names, data.splits["train"]["label"][:]) == (("a", "b"), [1, 0])
    for field, part in ((None, "--json_field data"), ("version", "'version'")):
        with pytest.raises(UserError, match=part):
            load_data(DataArguments(**files, json_field=field), seed=0)


# ---- A column for each label, and shares ----

LABELS = {"toxic": [1, 0, None, 1], "insult": [True, False, None, None], "threat": [0.25, 1.0, 0.5, None]}
COLUMNS = ",".join(LABELS)
SHARES = [[1, 1, 0.25], [0, 0, 1], [NAN, NAN, 0.5], [1, NAN, NAN]]
CSV = "id,comment_text,toxic,insult,threat\n1,one,1,TRUE,0.25\n2,two,0,False,1\n3,three,-1,,0.5\n4,four,1.0,,\n"


def test_columns_of_labels_from_csv_json_parquet_and_a_data_set_are_shares_with_unknown_ones_masked(tmp_path):
    frame = {"comment_text": ["one", "two", "three", "four"], **LABELS}
    (tmp_path / "t.csv").write_text(CSV)
    (tmp_path / "t.jsonl").write_text(
        "".join(json.dumps({name: values[row] for name, values in frame.items()}) + "\n" for row in range(4))
    )
    pq.write_table(pa.table(frame), tmp_path / "t.parquet")
    (tmp_path / "folder").mkdir()
    for split in ("train", "validation"):
        pq.write_table(pa.table(frame), tmp_path / "folder" / f"{split}.parquet")
    sources = [
        {"train_file": str(tmp_path / f"t.{e}"), "validation_file": str(tmp_path / "t.csv")}
        for e in ("csv", "jsonl", "parquet")
    ]
    for source in (*sources, {"dataset_name": str(tmp_path / "folder")}):
        data = load_data(DataArguments(**source, label_column_name=COLUMNS), seed=0)
        assert (data.labels, data.text_columns) == (LabelMap(MULTI_LABEL, tuple(LABELS)), ("comment_text",))
        for split in ("train", "validation"):
            np.testing.assert_array_equal(data.splits[split]["label"][:], np.float32(SHARES))
    data = load_data(DataArguments(**sources[0], label_column_name=COLUMNS, label_order="threat,toxic,insult"), seed=0)
    assert data.labels.names == ("threat", "toxic", "insult")
    assert data.splits["train"]["label"][0] == [0.25, 1, 1]


def test_an_object_a_text_is_a_label_for_each_key(load):
    labels, shares = load([{"toxic": 1, "threat": 0}, {"toxic": 0.5}, {"threat": 1}])
    assert labels == LabelMap(MULTI_LABEL, ("toxic", "threat"))
    np.testing.assert_array_equal(shares, np.float32([[1, 0], [0.5, NAN], [NAN, 1]]))


@pytest.mark.parametrize(
    ("labels", "parts"),
    [
        ([{"toxic": 1}, {"threat": 1}, {"threat": 0}], ("'toxic'", "1 in 1 of 3", "Write 0")),
        ([{"toxic": 1, "threat": 1}, {"toxic": 1, "threat": None}, {"toxic": 0}], ("'threat'", "1 in 1 of 3")),
        ([{"toxic": 1, "threat": None}, {"toxic": 0, "threat": -1}], ("'threat'", "none in 0 of 2")),
    ],
)
def test_a_label_that_is_known_where_texts_have_it_alone_is_refused(labels, parts, load):
    refused(load, labels, "train.jsonl", *parts)


def test_a_label_that_every_text_has_is_read_with_a_warning(load, caplog):
    assert load([["a", "b"], ["a"]]) == (LabelMap(MULTI_LABEL, ("a", "b")), [[1, 1], [1, 0]])
    assert [message.count("'a'") for message in caplog.messages] == [1]


def test_one_column_of_fractions_is_a_soft_binary_label_where_the_option_says_classification(load):
    for labels in ("0.25|1|0", [0.25, 1.0, 0.0]):
        assert load(labels, name="toxicity", label_column_name="toxicity")[0].problem_type == REGRESSION
        read = load(labels, name="toxicity", label_column_name="toxicity", problem_type=SINGLE_LABEL)
        names = LabelMap(SINGLE_LABEL, ("not_toxicity", "toxicity"), is_soft=True)
        assert read == (names, [[0.75, 0.25], [0, 1], [1, 0]])
    order = {"label_order": "fine,toxic", "problem_type": SINGLE_LABEL}
    assert load([0.25, 1.0], **order)[0].names == ("fine", "toxic")


def test_shares_that_sum_to_one_are_soft_single_labels_where_the_option_says_so(load):
    labels, shares = load([[0.2, 0.3, 0.5], [1, 0, 0]], problem_type=SINGLE_LABEL, label_order="a,b,c")
    assert labels == LabelMap(SINGLE_LABEL, ("a", "b", "c"), is_soft=True)
    np.testing.assert_allclose(shares, [[0.2, 0.3, 0.5], [1, 0, 0]], rtol=1e-6)
    hard = load([[0, 1], [1, 0]], problem_type=SINGLE_LABEL, label_order="a,b")
    assert hard == (LabelMap(SINGLE_LABEL, ("a", "b")), [1, 0])


@pytest.mark.parametrize(
    ("header", "row", "arguments", "parts"),
    [
        ("text,a,b", "x,1,2", {}, ("row 1", "'b'", "'2'", "--label_column_name")),
        ("text,a,b", "x,1,yes", {}, ("row 1", "'b'", "'yes'")),
        ("text;a;b", "x;0,5;1,5", {}, ("row 1", "'b'", "'1,5'")),
        ("text,a,b", "x,nan,inf", {}, ("row 1", "'b'", "'inf'")),
        ("text,a,c", "x,1,0", {}, ("'b'", "text, a, c")),
        ("text,c,d", "x,1,0", {}, ("'a' and 'b'", "text, c, d")),
        ("text,a,b", "x,,", {}, ("'a' and 'b'",)),
        ("text,a,b", "x,1,1", {"label_order": "a,c"}, ("--label_order", "a,b", "a,c")),
        ("text,a,b", "x,1,1", {"problem_type": SINGLE_LABEL}, ("row 1", "[1.0, 1.0]")),
    ],
)
def test_columns_that_hold_anything_else_are_refused_with_row_and_column(header, row, arguments, parts, tmp_path):
    path = tmp_path / "train.csv"
    path.write_text(f"{header}\n{row}\n")
    with pytest.raises(UserError) as error:
        load_data(
            DataArguments(train_file=str(path), validation_file=str(path), label_column_name="a,b", **arguments), 0
        )
    assert [part for part in (*parts, "train.csv") if part not in str(error.value)] == [], str(error.value)


def test_a_test_split_without_the_columns_or_with_hidden_labels_has_none(tmp_path):
    files = {"train": CSV, "validation": CSV, "test": "id,comment_text\n1,one\n"}
    for test in (files["test"], "comment_text,toxic,insult,threat\none,-1,-1,-1\n"):
        for name, content in (files | {"test": test}).items():
            (tmp_path / f"{name}.csv").write_text(content)
        paths = {f"{name}_file": str(tmp_path / f"{name}.csv") for name in files}
        data = load_data(DataArguments(**paths, label_column_name=COLUMNS), seed=0)
        assert data.splits["test"].column_names == ["comment_text"]


@pytest.mark.parametrize("option", ["max_train_samples", "max_eval_samples", "max_predict_samples"])
def test_limits_that_leave_no_known_label_are_refused(option, tmp_path):
    (tmp_path / "t.csv").write_text("text,a,b\none,-1,-1\ntwo,1,0\nthree,0,1\n")
    files = dict.fromkeys(("train_file", "validation_file", "test_file"), str(tmp_path / "t.csv"))
    with pytest.raises(UserError, match=f"1 examples.*--{option}"):
        load_data(DataArguments(**files, label_column_name="a,b", **{option: 1}), seed=0)
    load_data(DataArguments(**files, label_column_name="a,b", **{option: 2}), seed=0)


def test_hard_labels_are_what_most_annotators_say():
    assert hard_labels(np.array([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]]), SINGLE_LABEL).tolist() == [1, 1, 0]
    np.testing.assert_array_equal(hard_labels(np.array([[0.5, 0.4], [NAN, 1]]), MULTI_LABEL), [[1, 0], [NAN, 1]])
    assert hard_labels(np.array([2, 0]), SINGLE_LABEL).tolist() == [2, 0]
    assert hard_labels(np.array([0.3]), REGRESSION).tolist() == [0.3]


def test_indicators_say_for_every_label_what_hard_labels_say():
    for labels in (np.array([1, 1, 0]), np.array([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]])):
        assert label_indicators(labels, SINGLE_LABEL, 2).tolist() == [[0, 1], [0, 1], [1, 0]]
    found = label_indicators(np.array([[0.5, 0.4], [NAN, 1]]), MULTI_LABEL, 2)
    np.testing.assert_array_equal(found, [[1, 0], [NAN, 1]])
