"""Who imports whom: the table of the design, and the modules that `pip install .` gives to other projects."""

import ast
import importlib
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {path.stem: path for path in sorted(ROOT.glob("*.py"))}
SCRIPTS = {name for name in SOURCES if name.startswith("run_") and name != "run_folder"}
MAY_IMPORT = {
    "distill_losses": set(),
    "layer_mapping": set(),
    "text_classification": set(),
    "teacher_cache": set(),
    "command_line": set(),
    "run_folder": set(),
    "reporting": set(),
    "bootstrap": set(),
    "calibration": set(),
    "layer_similarity": {"teacher_cache"},
    "document": {"reporting"},
    "engines": set(),
    "layer_outputs": {"layer_mapping"},
    "layer_losses": {"distill_losses", "layer_mapping", "layer_outputs"},
    "distill_trainer": {"distill_losses", "engines", "layer_losses", "layer_outputs"},
    "exporting": {"teacher_cache"},
    "teacher": {"distill_trainer", "engines", "run_folder", "teacher_cache", "text_classification"},
    "evaluation": {"distill_losses", "distill_trainer", "teacher_cache", "text_classification"},
    "lora": {
        *("distill_trainer", "layer_mapping", "run_folder", "teacher", "teacher_cache", "text_classification"),
    },
    "training_run": {
        *("command_line", "distill_trainer", "evaluation", "layer_losses", "layer_mapping", "reporting"),
        *("run_folder", "teacher", "teacher_cache", "text_classification"),
    },
    "layer_search": {
        *("distill_losses", "distill_trainer", "engines", "layer_mapping", "layer_similarity", "reporting"),
        *("run_folder", "teacher_cache", "training_run"),
    },
    "student": {
        *("distill_trainer", "engines", "layer_mapping", "layer_search", "reporting", "run_folder", "teacher"),
        *("teacher_cache", "training_run"),
    },
    "comparison": {
        *("distill_trainer", "evaluation", "layer_mapping", "lora", "run_folder", "student", "teacher"),
        *("text_classification", "training_run"),
    },
    "comparison_plan": {
        *("comparison", "distill_trainer", "layer_mapping", "lora", "reporting", "run_folder", "student"),
        "training_run",
    },
    "comparison_results": {
        *(
            "bootstrap",
            "calibration",
            "comparison",
            "evaluation",
            "layer_mapping",
            "layer_similarity",
            "lora",
            "run_folder",
        ),
        *("teacher", "teacher_cache", "training_run"),
    },
    "comparison_report": {"bootstrap", "comparison_results", "document", "reporting"},
    "figures": {"bootstrap", "calibration", "comparison_report", "comparison_results"},
    # A script imports everything but scripts.
    **dict.fromkeys(SCRIPTS, SOURCES.keys() - SCRIPTS),
}
# In a flat layout a module of this name would be imported instead of the package.
TAKEN = {"datasets", "evaluate", "onnx", "peft", "tokenizers"}
INSTALLED = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["py-modules"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# DeepSpeed is imported only where a run uses it.
DEPENDENCIES = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["deepspeed"]


def imported(path):
    """Top-level names of everything a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import, which a flat layout cannot have"
            names.add(node.module.split(".")[0])
    return names


def test_every_module_has_its_place_in_the_table():
    assert SOURCES.keys() - MAY_IMPORT.keys() == set()


@pytest.mark.parametrize("name", SOURCES)
def test_a_module_imports_only_what_the_table_allows(name):
    own = imported(SOURCES[name]) & (SOURCES.keys() | {"tests", "benchmarks", "app", "tiny_models"})
    assert own <= MAY_IMPORT[name], f"{name} may import {sorted(MAY_IMPORT[name]) or 'nothing of the project'}"


def test_the_app_imports_nothing_outside_itself():
    for path in (ROOT / "app").rglob("*.py"):
        assert not imported(path) & (SOURCES.keys() | {"tests", "benchmarks"}), path


def test_no_module_takes_the_name_of_a_package():
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert not (SOURCES.keys() | folders) & TAKEN


def test_the_installed_modules_are_the_reusable_ones():
    assert sorted(INSTALLED) == [
        *("distill_losses", "distill_trainer", "engines", "layer_losses", "layer_mapping", "layer_outputs"),
        "teacher_cache",
    ]


def test_the_installed_modules_import_without_the_rest_of_the_project(tmp_path, monkeypatch):
    for name in INSTALLED:
        shutil.copy(SOURCES[name], tmp_path)
    for name in SOURCES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    elsewhere = [path for path in sys.path if Path(path).resolve() not in (ROOT, ROOT / "tests")]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *elsewhere])
    try:
        for name in INSTALLED:
            assert importlib.import_module(name).__file__ == str(tmp_path / f"{name}.py")
        assert not SOURCES.keys() & sys.modules.keys() - set(INSTALLED)
    finally:
        for name in INSTALLED:  # before `monkeypatch` puts the project's own back
            sys.modules.pop(name, None)


@pytest.mark.parametrize("name", INSTALLED)
def test_an_installed_module_needs_only_the_declared_dependencies(name):
    declared = {requirement.split(">")[0].split("=")[0].strip() for requirement in DEPENDENCIES}
    third_party = imported(SOURCES[name]) - set(sys.stdlib_module_names) - SOURCES.keys()
    assert third_party <= declared
