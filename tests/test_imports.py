"""Who imports whom, and what `pip install .` gives to other projects."""

import ast
import graphlib
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = {"run_distillation", "run_lora", "run_comparison", "run_export"}
PACKAGES = {
    "layer_distillation",
    "lora_adapters",
    "text_data",
    "training",
    "comparison",
    "export",
    "app",
    "benchmarks",
    "experiments",
    "tests",
}
# What each imports of the others, no more and no less. A package stands for all of its modules.
IMPORTS = {
    "layer_distillation": set(),
    "layer_mapping": {"layer_distillation"},
    "distill_trainer": {"layer_distillation"},
    "lora_adapters": {"layer_distillation", "layer_mapping"},
    "text_data": {"layer_distillation"},
    "export": {"layer_distillation", "text_data"},
    "app": set(),
    "training": {"distill_trainer", "layer_distillation", "layer_mapping", "lora_adapters", "text_data"},
    "comparison": {
        "distill_trainer",
        "layer_distillation",
        "layer_mapping",
        "lora_adapters",
        "text_data",
        "training",
    },
    "run_distillation": {"layer_distillation", "text_data", "training"},
    "run_lora": {"layer_distillation", "lora_adapters", "text_data", "training"},
    "run_comparison": {"comparison", "layer_distillation", "lora_adapters", "text_data", "training"},
    "run_export": {"export", "layer_distillation", "text_data", "training"},
}
# A module of this name would be imported instead of the package.
TAKEN = {"datasets", "evaluate", "onnx", "peft", "tokenizers"}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
INSTALLED = {*PYPROJECT["tool"]["setuptools"]["py-modules"], *PYPROJECT["tool"]["setuptools"]["packages"]}
# Imported only where a run uses them.
OPTIONAL = ("deepspeed", "lora")


def files_of(name):
    return sorted((ROOT / name).rglob("*.py")) if (ROOT / name).is_dir() else [ROOT / f"{name}.py"]


def imported_modules(path):
    """Dotted names of everything that a file imports, anywhere in it."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return modules


def imported(name):
    """Top-level names of everything that a module or package imports."""
    return {module.split(".")[0] for path in files_of(name) for module in imported_modules(path)} - {name}


def test_the_root_holds_the_commands_and_the_two_public_modules():
    assert {path.stem for path in ROOT.glob("*.py")} == COMMANDS | {"distill_trainer", "layer_mapping"}


@pytest.mark.parametrize("name", IMPORTS)
def test_a_package_imports_what_the_table_says_and_nothing_else_of_the_project(name):
    assert imported(name) & (IMPORTS.keys() | PACKAGES) == IMPORTS[name]


@pytest.mark.parametrize("package", sorted(PACKAGES - {"tests"}))
def test_the_modules_of_a_package_do_not_import_each_other_in_a_circle(package):
    names = {f"{package}.{path.stem}": path for path in files_of(package)}
    tuple(graphlib.TopologicalSorter({n: imported_modules(p) & names.keys() for n, p in names.items()}).static_order())


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_a_packages_docstring_lists_its_modules(package):
    docstring = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text()))
    for path in (ROOT / package).glob("*.py"):
        if not path.stem.startswith(("__", "test_", "conftest")):
            assert f"\n{path.stem} " in docstring or f"\n    {path.stem} " in docstring, path.stem


def test_no_module_is_longer_than_450_lines():
    sources = [path for name in (*IMPORTS, "benchmarks", "experiments") for path in files_of(name)]
    assert {path.name: n for path in sources if (n := len(path.read_text().splitlines())) > 450} == {}


def test_no_module_takes_the_name_of_a_package():
    assert not {path.stem for name in IMPORTS for path in files_of(name)} & TAKEN


def test_what_is_installed_is_what_the_trainer_and_the_mapping_need():
    assert {"distill_trainer", "layer_mapping", "layer_distillation", "lora_adapters"} == INSTALLED


def test_what_is_installed_imports_without_the_rest_of_the_project(tmp_path):
    for name in INSTALLED:
        for path in files_of(name):
            target = tmp_path / path.relative_to(ROOT)
            target.parent.mkdir(exist_ok=True)
            shutil.copy(path, target)
    modules = sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts) for name in INSTALLED for path in files_of(name)
    )
    code = f"import importlib; [importlib.import_module(name) for name in {modules}]"
    subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"],
        cwd=tmp_path,
        check=True,
    )


def test_data_are_read_without_torch():
    code = "import sys, text_data.loading; assert not {'torch', 'transformers'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("name", sorted(INSTALLED))
def test_what_is_installed_needs_only_the_declared_dependencies(name):
    project = PYPROJECT["project"]
    requirements = project["dependencies"] + [r for extra in OPTIONAL for r in project["optional-dependencies"][extra]]
    declared = {requirement.split(">")[0].split("=")[0].replace("-", "_") for requirement in requirements}
    assert imported(name) - set(sys.stdlib_module_names) - IMPORTS.keys() <= declared
