"""Tests of the notebook: that it runs from start to end, and that it is committed with what it has shown."""

import ast
import importlib
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
    "even     (2, 4, 6)",
    "22,713,986 parameters become 17,390,594",
    "16 runs, 0 failed",
    "| Student Layer ",
    "| Random (control) ",
    "| Model Type ",
    "| Even, LoRA + distillation ",
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


def test_what_the_notebook_imports_exists(notebook):
    for cell in notebook.cells:
        lines = cell.source.splitlines() if cell.cell_type == "code" else []
        code = "\n".join("" if line.strip().startswith(("!", "%")) else line for line in lines)
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_notebook_runs_from_start_to_end(notebook):
    NotebookClient(notebook, timeout=3000, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    check_outputs(notebook)
