"""Tests of the notebook: that it runs from start to end, and that it is committed with what it has shown."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "walkthrough.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def shown_text(notebook):
    texts = [output.get("text", "") + output.get("data", {}).get("text/markdown", "") for output in outputs(notebook)]
    return "\n".join(texts)


SHOWN = (
    "train: 1089 comments",
    "odd      (1, 3, 5)",
    "22,713,986 parameters become 17,390,594",
    "16 runs",
    "| Student Layer ",
    "| Random (control) ",
    "| Model Type ",
    "| Odd, LoRA + distillation ",
    " points of test ",
)


def check_outputs(notebook):
    text = shown_text(notebook)
    for part in SHOWN:
        assert part in text, part
    assert sum("image/png" in output.get("data", {}) for output in outputs(notebook)) == 5
    assert not any(
        output.output_type in ("error", "stream") and output.get("name") != "stdout" for output in outputs(notebook)
    )


def test_the_notebook_is_committed_with_its_outputs_and_small(notebook):
    check_outputs(notebook)
    assert NOTEBOOK.stat().st_size < 1_000_000
    assert notebook.metadata.kernelspec.name == "python3"
    assert "site-packages" not in shown_text(notebook), "a path of the machine it ran on"


def test_what_the_notebook_imports_exists_and_takes_the_arguments_that_it_gives(notebook):
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    code = ast.parse(re.sub(r"(?m)^(\s*)[!%].*", r"\1pass", "\n".join(sources)))
    imported = {}
    for node in ast.walk(code):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            imported |= {alias.name: getattr(module, alias.name) for alias in node.names}
    calls = [node for node in ast.walk(code) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    checked = [call for call in calls if call.func.id in imported]
    for call in checked:
        given = {keyword.arg: None for keyword in call.keywords}
        inspect.signature(imported[call.func.id]).bind(*call.args, **given)
    assert len(checked) > 10


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_notebook_runs_from_start_to_end(notebook):
    NotebookClient(notebook, timeout=3000, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    check_outputs(notebook)
