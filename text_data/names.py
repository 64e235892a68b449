"""Lists of names as one word of a command line.

split_names("not_toxic, toxic")                  # ("not_toxic", "toxic")
split_names('["praise, thanks", "complaint"]')   # ("praise, thanks", "complaint")
split_words(["praise", "complaint,question"])    # ["praise", "complaint", "question"]
join_names(("praise, thanks", "complaint"))      # '["praise, thanks", "complaint"]'
"""

import csv
import json
from collections.abc import Iterable


def split_names(names: str | None) -> tuple[str, ...]:
    """Splits names at commas, or reads a JSON list. Names with commas may also stand in double quotes, as in csv."""
    if not names:
        return ()
    if names.lstrip().startswith("["):
        try:
            return tuple(map(str, json.loads(names)))
        except json.JSONDecodeError:
            pass  # a name may begin with a bracket
    return tuple(name.strip() for name in next(csv.reader([names], skipinitialspace=True)))


def split_words(words: Iterable[str]) -> list[str]:
    """Splits the words of an argument that takes several, each as `split_names` does: argument files join them to one.

    Leaves repetitions out.
    """
    return list(dict.fromkeys(name for word in words for name in split_names(word) if name))


def join_names(names: Iterable[str], separator: str = ",") -> str:
    """Writes names so that `split_names` reads them: with commas, or as a JSON list if a name needs it."""
    names = list(names)
    joined = separator.join(names)
    try:
        is_read_back = list(split_names(joined)) == names
    except csv.Error:  # a name has a line break
        is_read_back = False
    return joined if is_read_back else json.dumps(names, ensure_ascii=False)
