"""Tests of the files of comments: what is read, and that nothing in the scored file is taken for a formula."""

import csv
import io

import pytest

from app.comments_file import Comments, read_comments, write_scored
from app.models import Answer

ANSWER = Answer({"not_toxic": 0.25, "toxic": 0.75}, False)
LABELS = ("not_toxic", "toxic")


def test_the_column_with_a_well_known_name_is_read():
    comments = read_comments(b'id,Comment\r\n1,"a, ""b""\nc"\r\n\r\n2,d\r\n', 100)
    assert comments == (["id", "Comment"], [["1", 'a, "b"\nc'], ["2", "d"]], 1, ",")


def test_the_only_column_is_read_whatever_its_name():
    assert read_comments("\ufeffwörter\nhallo; du".encode(), 100) == (["wörter"], [["hallo; du"]], 0, ",")


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_columns_are_told_apart_by_what_the_header_has_between_them(delimiter):
    comments = read_comments(f'id{delimiter}text\n1{delimiter}"one, two; three"\n'.encode(), 100)
    assert comments == (["id", "text"], [["1", "one, two; three"]], 1, delimiter)
    scored = write_scored(comments, [ANSWER], LABELS)
    assert list(csv.reader(io.StringIO(scored, newline=""), delimiter=delimiter))[1] == [
        "1",
        "one, two; three",
        "toxic",
        "0.2500",
        "0.7500",
    ]


@pytest.mark.parametrize("header", ['"a,b,c";text', '"a, ""b"", c";text', 'text;"a\tb\tc"'])
def test_what_stands_between_quotation_marks_of_the_header_separates_no_columns(header):
    row = "one;two" if header.endswith("text") else "two;one"
    comments = read_comments(f"{header}\n{row}\n".encode(), 100)
    assert (comments.rows[0][comments.column], comments.delimiter) == ("two", ";")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no comments"),
        (b"text\n", "no comments"),
        (b"text\n\xff\xfe", "not UTF-8"),
        ("text\nhallo".encode("utf-16"), "not UTF-8"),
        (b"PK\x03\x04\x00\x00text\n", "binary data"),
        (b"id,words\n1,a\n", "no column named text, comment"),
        (b"id,text\n1,a\n2\n", "Row 3 has 1 columns, the header has 2"),
        (b"text\n" + b"x" * 101, "row 2 is longer than 100 characters"),
        (b"text\n" + b"x" * 200_000, "not a CSV file"),
        (b"x" * 200_000 + b"\ntext", "not a CSV file"),
        (b'text\na\n"b\nc\n', r"not a CSV file: unexpected end of data \(line 4\)"),
    ],
)
def test_a_file_that_cannot_be_scored_says_what_is_wrong(content, message):
    with pytest.raises(ValueError, match=message):
        read_comments(content, 100)


def scored(header, rows, answers, labels):
    return write_scored(Comments(header, rows, 0, ","), answers, labels)


def read_back(text):
    return list(csv.reader(io.StringIO(text, newline="")))


def test_the_rows_come_back_with_label_and_scores():
    text = scored(["id", "text"], [["1", "a\n,b"], ["2", " "]], [ANSWER, None], LABELS)
    assert read_back(text) == [
        ["id", "text", "predicted_label", "score_not_toxic", "score_toxic"],
        ["1", "a\n,b", "toxic", "0.2500", "0.7500"],
        ["2", " ", "", "", ""],
    ]


@pytest.mark.parametrize(
    "cell",
    ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "＝1+1", "-"],
)
def test_no_cell_of_the_scored_file_begins_like_a_formula(cell):
    header, row = read_back(scored([cell, "text"], [[cell, "a"]], [ANSWER], LABELS))
    assert header[0] == row[0] == f"'{cell}"


@pytest.mark.parametrize("cell", ["-5", "+3.5", "-1e-3", "a=b", "", "it's", "#=1"])
def test_numbers_and_other_cells_stay_as_they_are(cell):
    header, row = read_back(scored(["n", "text"], [[cell, "a"]], [ANSWER], LABELS))
    assert row[0] == cell


def test_a_label_that_begins_like_a_formula_is_neutralised_too():
    answer = Answer({"=bad": 1.0, "good": 0.0}, False)
    header, row = read_back(scored(["text"], [["a"]], [answer], ("=bad", "good")))
    assert row[1] == "'=bad"
    assert header[2] == "score_=bad"
