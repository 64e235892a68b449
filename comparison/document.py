"""A document of headings, text, tables and figures, written as Markdown and as an HTML page.

write_document(folder, "report", [Heading("Results", 1), Text("..."), Table(rows), Figure("figures/bars", "...")])
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.tables import markdown_table


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Bullets:
    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    rows: Sequence[dict[str, str]]


@dataclass(frozen=True)
class Figure:
    """An image.

    Attributes:
        path: relative to the document, without extension.
        caption: what the image shows.
    """

    path: str
    caption: str


@dataclass(frozen=True)
class Code:
    text: str


Block = Heading | Text | Bullets | Table | Figure | Code


def to_markdown(blocks: Sequence[Block]) -> str:
    """Returns the document as Markdown, with figures as PNG."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Text(text):
            return text
        case Bullets(items):
            return "\n".join(f"- {item}" for item in items)
        case Table(rows):
            return markdown_table(rows)
        case Figure(path, caption):
            return f"![{caption}]({path}.png)\n\n*{caption}*"
        case Code(text):
            return f"```\n{text}\n```"


STYLE = """body { font: 16px/1.5 sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
td, th { padding: .3rem .7rem; text-align: left; }
tr { border-bottom: 1px solid #ccc; } img { max-width: 100%; } figure { margin: 1rem 0; } pre { overflow-x: auto; }"""


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """Returns the document as a page that needs no other file than its figures, which are SVG."""
    body = "\n".join(_html(block) for block in blocks)
    head = f"<meta charset='utf-8'>\n<title>{html.escape(title)}</title>\n<style>{STYLE}</style>"
    return f"<!DOCTYPE html>\n<html lang='en'>\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n"


def _html(block: Block) -> str:
    escape = html.escape
    match block:
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Text(text):
            return f"<p>{escape(text)}</p>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"
        case Table(rows):
            columns = list(dict.fromkeys(column for row in rows for column in row))
            head = "".join(f"<th>{escape(column)}</th>" for column in columns)
            lines = ("".join(f"<td>{escape(row.get(column, '-'))}</td>" for column in columns) for row in rows)
            return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
        case Figure(path, caption):
            image = f"<img src='{escape(path)}.svg' alt='{escape(caption)}'>"
            return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"
        case Code(text):
            return f"<pre>{escape(text)}</pre>"


def write_document(folder: str | Path, name: str, blocks: Sequence[Block]) -> None:
    """Writes `NAME.md` and `NAME.html`; the first block is the title."""
    (Path(folder) / f"{name}.md").write_text(to_markdown(blocks))
    (Path(folder) / f"{name}.html").write_text(to_html(blocks[0].text, blocks))
