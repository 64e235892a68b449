"""Tests of rows from and to files: columns, types, and values that formats treat differently."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.rows import join_files, open_source, write_rows


def write_lines(file, *rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_every_row_has_the_columns_of_the_first_in_their_order(tmp_path):
    source = open_source(write_lines(tmp_path / "in.jsonl", {"id": 1, "text": "a"}, {"text": "b", "id": 2}))
    write_rows(tmp_path / "out.csv", list(source.rows), source.columns)
    assert (tmp_path / "out.csv").read_text().splitlines() == ["id,text", "1,a", "2,b"]


@pytest.mark.parametrize("row", [{"text": "b"}, {"id": 2, "text": "b", "note": ""}, {"id": 2, "comment": "b"}])
def test_a_row_with_other_columns_is_refused_by_its_number(tmp_path, row):
    source = open_source(write_lines(tmp_path / "in.jsonl", {"id": 1, "text": "a"}, row))
    with pytest.raises(ValueError, match=r"Row 2 of .*in\.jsonl"):
        list(source.rows)


def test_columns_of_a_csv_file_are_told_apart_outside_of_quotation_marks(tmp_path):
    (tmp_path / "in.csv").write_text('"a,b,c";text\n1;d\n')
    assert list(open_source(str(tmp_path / "in.csv")).rows) == [{"a,b,c": "1", "text": "d"}]


@pytest.mark.parametrize("name", ["in.csv", "in.parquet"])
def test_two_columns_of_one_name_are_refused(tmp_path, name):
    if name == "in.csv":
        (tmp_path / name).write_text("text,n,n\na,1,2\n")
    else:
        columns = [pa.array(["a"]), pa.array([1]), pa.array([2])]
        pq.write_table(pa.Table.from_arrays(columns, ["text", "n", "n"]), tmp_path / name)
    with pytest.raises(ValueError, match="column twice: text, n, n"):
        open_source(str(tmp_path / name))


def test_any_text_comes_back_from_csv(tmp_path):
    texts = ["a\rb", "\r", "a\r\nb", "a\nb", 'a"b', "a,b;c", "", " ", "x" * 200_000, "\u2028"]
    write_rows(
        tmp_path / "part.csv",
        [{"id": str(i), "text": text} for i, text in enumerate(texts)],
        {"id": None, "text": None},
    )
    join_files([tmp_path / "part.csv", tmp_path / "part.csv"], tmp_path / "out.CSV")
    limit = csv.field_size_limit()
    source = open_source(str(tmp_path / "out.CSV"))
    assert [row["text"] for row in source.rows] == texts + texts
    assert csv.field_size_limit() == limit


def test_half_a_surrogate_pair_is_replaced_wherever_it_stands(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": "a\\ud83d b", "more": [{"k\\udc00": "\\ud83d\\ude00"}]}\n')
    assert list(open_source(str(tmp_path / "in.jsonl")).rows) == [{"text": "a? b", "more": [{"k?": "\U0001f600"}]}]


def test_parts_of_parquet_get_the_types_that_fit_all_of_them(tmp_path):
    columns = {"note": None, "length": None, "label": "string", "score": "double"}
    blocks = [
        [],
        [{"note": None, "length": 1, "label": None, "score": None}],
        [{"note": "a", "length": 2.5, "label": "toxic", "score": 0.75}],
    ]
    parts = [tmp_path / f"{number}.parquet" for number in range(3)]
    for part, rows in zip(parts, blocks, strict=True):
        write_rows(part, rows, columns)
    join_files(parts, tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == [row for rows in blocks for row in rows]
    types = dict(zip(columns, [pa.string(), pa.float64(), pa.string(), pa.float64()], strict=True))
    assert pq.read_schema(tmp_path / "out.parquet") == pa.schema(types)
    join_files(parts[:1], tmp_path / "empty.parquet")
    assert pq.read_schema(tmp_path / "empty.parquet").field("label").type == pa.string()


@pytest.mark.parametrize("values", [[2**70, 1], [1, 2**70]])
def test_a_number_too_large_for_parquet_is_refused_with_its_column(tmp_path, values):
    with pytest.raises(ValueError, match=r"column n .*\.jsonl"):
        write_rows(tmp_path / "out.parquet", [{"n": value} for value in values], {"n": None})


@pytest.mark.parametrize("values", [[1, "a"], ["a", 1], [[1], "a"]])
def test_a_column_of_several_types_is_refused_for_parquet(tmp_path, values):
    with pytest.raises(ValueError, match=r"column n .*\.jsonl"):
        write_rows(tmp_path / "out.parquet", [{"n": value} for value in values], {"n": None})
    parts = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    for part, value in zip(parts, values, strict=True):
        write_rows(part, [{"n": value}], {"n": None})
    with pytest.raises(ValueError, match=r"column .*\.jsonl"):
        join_files(parts, tmp_path / "out.parquet")


def test_whole_numbers_that_decimals_of_another_part_cannot_hold_are_refused_with_what_to_do(tmp_path):
    parts = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    for part, value in zip(parts, [2**60 + 1, 0.5], strict=True):
        write_rows(part, [{"n": value}], {"n": None})
    with pytest.raises(ValueError, match=r"1152921504606846977.*\.jsonl"):
        join_files(parts, tmp_path / "out.parquet")


def test_a_file_of_another_format_is_not_taken_for_a_data_set_of_the_hub(tmp_path):
    (tmp_path / "comments.tsv").write_text("text\na\n")
    with pytest.raises(ValueError, match=r"\.csv, \.jsonl, \.parquet, found .*comments\.tsv"):
        open_source(str(tmp_path / "comments.tsv"))


@pytest.mark.parametrize("name", ["in.csv", "in.jsonl"])
def test_a_file_that_is_not_utf_8_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"text\xff")
    with pytest.raises(ValueError, match=rf"{name} must be .*UTF-8"):
        list(open_source(str(tmp_path / name)).rows)
