"""Tests of scoring files larger than memory: every format, an interruption, shards, and what is refused."""

import csv
import json
import os
import shutil
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app import score
from app.models import load_model
from app.rows import open_source
from tests.small_disks import empty, fill

TEXTS = ["I hate you", "See you\ntomorrow, my friend!", "", "You are an idiot."] * 3 + [None]


@pytest.fixture(scope="module")
def expected(served_model):
    """The columns that the scores of the texts are expected in."""
    model = load_model(served_model)
    answers = {text: model.classify([text])[0] for text in set(TEXTS) if text}
    return [
        {"predicted_label": answers[text].label, **{f"score_{name}": p for name, p in answers[text].scores.items()}}
        if text
        else {"predicted_label": None, "score_not_toxic": None, "score_toxic": None}
        for text in TEXTS
    ]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(score, "BLOCK_ROWS", 3)


def write(file, texts=TEXTS):
    """A file of texts with a number each; csv has no missing texts."""
    rows = [{"id": number, "text": text} for number, text in enumerate(texts)]
    if file.suffix == ".parquet":
        schema = pa.schema([("id", pa.int16()), ("text", pa.string())])
        pq.write_table(pa.Table.from_pylist(rows, schema), file)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with open(file, "w", newline="") as stream:
            csv.writer(stream, delimiter=";").writerows([["id", "text"], *(row.values() for row in rows)])
    return file


def read(file):
    if file.suffix == ".parquet":
        return pq.read_table(file).to_pylist()
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text().splitlines()]
    with open(file, newline="") as stream:
        return list(csv.DictReader(stream))


def run(served_model, source, target, *further):
    score.main([str(source), "--model_dir", str(served_model), "--output", str(target), *further])
    return read(target)


@pytest.mark.parametrize(("source", "target"), [("parquet", "parquet"), ("jsonl", "jsonl"), ("parquet", "csv")])
def test_every_row_comes_back_in_its_order_with_label_and_scores(served_model, tmp_path, expected, source, target):
    rows = run(served_model, write(tmp_path / f"in.{source}"), tmp_path / f"out.{target}")
    assert [int(row["id"]) for row in rows] == list(range(len(TEXTS)))
    if target != "csv":
        assert [row["text"] for row in rows] == TEXTS
    for row, columns in zip(rows, expected, strict=True):
        assert (row["predicted_label"] or None) == columns["predicted_label"]
        for name in ("score_not_toxic", "score_toxic"):
            assert (float(row[name]) if row[name] else None) == pytest.approx(columns[name], abs=1e-6)
    assert {path.name for path in tmp_path.iterdir()} == {f"in.{source}", f"out.{target}"}
    if target == "parquet":
        assert pq.read_schema(tmp_path / "out.parquet").field("id").type == pa.int16()


def test_an_interrupted_run_goes_on_and_ends_as_if_it_had_not_been(served_model, tmp_path, monkeypatch):
    source = write(tmp_path / "in.csv")
    whole = run(served_model, source, tmp_path / "whole.csv")
    seen, classify_all = [], score.classify_all

    def stop_at_the_third_block(model, executor, texts):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(texts)
        return classify_all(model, executor, texts)

    monkeypatch.setattr(score, "classify_all", stop_at_the_third_block)
    with pytest.raises(KeyboardInterrupt):
        run(served_model, source, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()
    content = source.read_bytes()
    source.write_bytes(content.replace(b"hate", b"love"))
    with pytest.raises(SystemExit, match="input_sha256"):
        run(served_model, source, tmp_path / "out.csv")
    source.write_bytes(content)
    rest = []
    monkeypatch.setattr(score, "classify_all", lambda *args: rest.append(args[2]) or classify_all(*args))
    assert run(served_model, source, tmp_path / "out.csv") == whole
    assert len(seen) + len(rest) == 5


def test_a_full_disk_ends_in_one_line_and_the_run_goes_on_from_its_finished_blocks(
    served_model, tmp_path, small_disk, monkeypatch
):
    source = write(tmp_path / "in.csv")
    whole = run(served_model, source, tmp_path / "whole.csv")
    files, write_rows = [], score.write_rows

    def fill_the_disk(file, rows, columns):
        files.append(file)
        if len(files) == 3:  # after the header and a block
            fill(small_disk, megabytes_left=0)
        write_rows(file, rows, columns)

    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="No space left.*--output"):
        patch.setattr(score, "write_rows", fill_the_disk)
        run(served_model, source, small_disk / "out.csv")
    assert not (small_disk / "out.csv").exists()
    empty(small_disk)
    assert run(served_model, source, small_disk / "out.csv") == whole


def test_of_two_runs_into_one_file_the_second_is_refused(served_model, tmp_path, monkeypatch):
    source, classify_all = write(tmp_path / "in.csv"), score.classify_all

    def classify_beside_a_second_run(*args):
        with pytest.raises(SystemExit, match=r"--output .*out\.csv"):
            run(served_model, source, tmp_path / "out.csv")
        return classify_all(*args)

    monkeypatch.setattr(score, "classify_all", classify_beside_a_second_run)
    whole = run(served_model, source, tmp_path / "out.csv")
    assert len(whole) == len(TEXTS)

    # A run that has looked for the output before the first one ends.
    open_source, other = score.open_source, tmp_path / "other.csv"
    monkeypatch.setattr(score, "classify_all", classify_all)

    def open_beside_a_first_run(*args):
        monkeypatch.setattr(score, "open_source", open_source)
        assert run(served_model, source, other) == whole
        return open_source(*args)

    monkeypatch.setattr(score, "open_source", open_beside_a_first_run)
    with pytest.raises(SystemExit, match=r"--output .*other\.csv exists"):
        run(served_model, source, other)
    assert {path.name for path in tmp_path.iterdir()} == {"in.csv", "out.csv", "other.csv"}


def test_finished_blocks_of_another_input_are_not_mixed_in(served_model, tmp_path, capsys):
    source = write(tmp_path / "in.csv")
    (tmp_path / "out.csv.parts").mkdir()
    (tmp_path / "out.csv.parts" / "settings.json").write_text('{"input": "other.csv"}')
    with pytest.raises(SystemExit, match=r"out\.csv\.parts .* input"):
        run(served_model, source, tmp_path / "out.csv")


def test_of_a_large_group_of_rows_only_a_part_is_in_memory(tmp_path):
    texts = [os.urandom(250).hex() for _ in range(20_000)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "in.parquet")
    before = pa.total_allocated_bytes()
    in_memory = [pa.total_allocated_bytes() - before for _ in open_source(str(tmp_path / "in.parquet")).rows]
    assert len(in_memory) == len(texts)
    assert max(in_memory) < 500 * len(texts) / 2


def test_shards_have_every_block_once(served_model, tmp_path):
    source = write(tmp_path / "in.parquet")
    shards = [run(served_model, source, tmp_path / f"{i}.parquet", "--shard", f"{i}/2") for i in (1, 2)]
    assert [[row["id"] for row in rows] for rows in shards] == [[0, 1, 2, 6, 7, 8, 12], [3, 4, 5, 9, 10, 11]]


@pytest.mark.parametrize("texts", [["I hate you"], []])
@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_a_shard_without_rows_is_a_file_without_rows(served_model, tmp_path, format, texts):
    target = tmp_path / f"out.{format}"
    assert run(served_model, write(tmp_path / f"in.{format}", texts), target, "--shard", "2/2") == []
    columns = ["id", "text", "predicted_label", "score_not_toxic", "score_toxic"]
    if format == "csv":
        assert target.read_text().strip() == ",".join(columns)
    if format == "parquet":
        assert pq.read_schema(target).names == columns


def test_a_package_that_is_missing_is_named_before_anything_is_scored(served_model, tmp_path, monkeypatch):
    source = write(tmp_path / "in.csv")
    monkeypatch.setattr(score, "classify_all", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SystemExit, match="pip install pyarrow"):
        run(served_model, source, tmp_path / "out.parquet")


def test_thresholds_decide_which_of_several_labels_a_comment_has(several_labels, tmp_path):
    source = write(tmp_path / "in.jsonl", ["I hate you"])
    (row,) = run(several_labels, source, tmp_path / "usual.jsonl")
    assert row["predicted_label"] == "toxic"
    (row,) = run(several_labels, source, tmp_path / "all.jsonl", "--threshold", "not_toxic=0")
    assert row["predicted_label"] == "not_toxic;toxic"


def test_blocks_with_other_thresholds_of_the_model_are_not_mixed_in(several_labels, tmp_path, monkeypatch):
    model, source = tmp_path / "model", write(tmp_path / "in.jsonl")
    shutil.copytree(several_labels, model)

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(score, "classify_all", stop)
        run(model, source, tmp_path / "out.jsonl")
    for name, change, differs in (
        ("thresholds.json", {"thresholds": {"not_toxic": 0.1}}, "thresholds of the model"),
        ("metrics.json", {"max_length": 7}, "max_length"),
        ("tokenizer.json", {"truncation": None}, "tokenizer_sha256"),
    ):
        file = model / name
        before = file.read_text()
        file.write_text(json.dumps({**json.loads(before), **change}))
        with pytest.raises(SystemExit, match=f"differs in {differs}\\."):
            run(model, source, tmp_path / "out.jsonl")
        file.write_text(before)
    settings = next(tmp_path.glob("out.jsonl.parts/*.json"))
    earlier = {name: value for name, value in json.loads(settings.read_text()).items() if name != "max_length"}
    settings.write_text(json.dumps(earlier))  # as an earlier version wrote it
    run(model, source, tmp_path / "out.jsonl")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in.csv", "--output", "out.xlsx"], r"--output .*\.csv, \.jsonl, \.parquet"),
        (["nothing.csv", "--output", "out.csv"], r"nothing\.csv"),
        (["in.csv", "--output", "in.csv"], "in.csv exists"),
        (["in.csv", "--output", "out.csv", "--text_column", "comment"], "--text_column .*id, text.* comment"),
        (["in.csv", "--output", "out.csv", "--shard", "3/2"], "--shard .*'3/2'"),
        (["in.csv", "--output", "out.csv", "--threshold", "toxic=0.5"], "--threshold .*one class"),
        (["uneven.csv", "--output", "out.csv"], r"Line 3 of uneven\.csv has 1 columns"),
        (["broken.jsonl", "--output", "out.csv"], r"Line 2 of broken\.jsonl"),
        (["scored.csv", "--output", "out.csv"], "score_toxic"),
        (["numbers.jsonl", "--output", "out.csv"], r"Row 2 of numbers\.jsonl .*text, found 5"),
    ],
)
def test_what_cannot_be_scored_ends_in_one_line(served_model, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in.csv")
    (tmp_path / "uneven.csv").write_text("id,text\n1,a\n2\n")
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n[1]\n')
    (tmp_path / "numbers.jsonl").write_text('{"text": null}\n{"text": 5}\n')
    (tmp_path / "scored.csv").write_text("text,score_toxic\na,1\n")
    with pytest.raises(SystemExit, match=message):
        score.main([*arguments, "--model_dir", str(served_model)])
