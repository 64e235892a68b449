"""The files of comments, and the words of a comment."""

import csv
import re


def read_rows(file):
    """The rows of a csv file in UTF-8 as dictionaries."""
    with open(file, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, strict=True))


def words(text):
    return frozenset(re.findall(r"\w+(?:['’]\w+)*", text.casefold()))
