"""Tests of `command_line`: argument files, where each value came from, secrets, and how errors end a script."""

import inspect
import json
import math
import os
import platform
import subprocess
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from transformers import TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.errors import UserError
from text_data.arguments import DataArguments
from training import output_folder
from training.arguments import StudentArguments
from training.command_line import check_trainer_arguments, keep_freed_memory, parse_arguments, run_script


@dataclass
class ModelSettings:
    depth: int = field(default=6, metadata={"help": "Layers."})
    model_name: str | None = field(default=None, metadata={"help": "Name."})
    task_name: str | None = field(default=None, metadata={"help": "Task."})
    use_cache: bool = field(default=True, metadata={"help": "Cache."})
    hub_token: str | None = field(default=None, metadata={"help": "Secret."})


@dataclass
class RunSettings:
    learning_rate: float = field(default=0.1, metadata={"help": "Rate."})
    output_dir: str = field(default="out", metadata={"help": "Folder."})

    def __post_init__(self):
        if self.learning_rate <= 0:
            raise UserError("--learning_rate must be > 0")


@pytest.fixture
def argument_file(tmp_path):
    def write(content, name="arguments.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


@pytest.fixture
def parse(argument_file):
    default_file = Path(argument_file({"depth": 2, "learning_rate": 0.5}, "default.json"))
    return lambda *argv: parse_arguments((ModelSettings, RunSettings), argv, default_file)


# ---- Values and their sources ----


def test_without_arguments_the_default_file_is_read(parse):
    settings = parse()
    model, running = settings.arguments
    assert (model.depth, running.learning_rate, running.output_dir) == (2, 0.5, "out")
    assert settings.sources == {"depth": "default.json", "learning_rate": "default.json"}


def test_what_deepspeeds_launcher_puts_first_counts_for_nothing(parse, argument_file):
    assert parse("--local_rank=1") == parse()
    file = argument_file({"depth": 3})
    assert parse("--local_rank=0", file, "--depth", "4") == parse(file, "--depth", "4")


def test_one_option_added_to_no_arguments_changes_that_option_alone(parse):
    settings = parse("--model_name", "bert")
    model, running = settings.arguments
    assert (model.depth, model.model_name, running.learning_rate) == (2, "bert", 0.5)
    assert settings.sources == {"depth": "default.json", "learning_rate": "default.json", "model_name": "command line"}


@pytest.mark.parametrize("words", [["--task_name", "rte"], ["--task-name=rte"], ["--depth", "3", "--task_n", "rte"]])
def test_an_option_that_names_data_or_a_teacher_leaves_the_default_file_unread(parse, words):
    settings = parse(*words)
    assert settings.arguments[1].learning_rate == 0.1
    assert "default.json" not in settings.sources.values()


def test_the_command_line_overrides_the_file_of_arguments(parse, argument_file):
    file = argument_file({"depth": 3, "model_name": None, "use_cache": False, "learning_rate": "2e-1"})
    settings = parse(file, "--depth", "4", "--output_dir=there")
    model, running = settings.arguments
    assert (model.depth, model.use_cache, running.learning_rate, running.output_dir) == (4, False, 0.2, "there")
    assert settings.sources == {
        **dict.fromkeys(("model_name", "use_cache", "learning_rate"), "arguments.json"),
        **dict.fromkeys(("depth", "output_dir"), "command line"),
    }


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--model-name", "there"], "model_name", "there"),
        (["--model_n", "there"], "model_name", "there"),  # argparse takes unambiguous abbreviations
        (["--no_use_cache"], "use_cache", False),
        (["--use_cache", "false"], "use_cache", False),
        (["--depth=6"], "depth", 6),  # given, though equal to the default
    ],
)
def test_however_an_argument_is_written_its_source_is_known_by_its_full_name(parse, argv, name, value):
    settings = parse(*argv)
    assert settings.sources[name] == "command line"
    assert settings.given()[name] == value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"dept": 3, "a": 1}, "arguments.json.*: a, dept"),
        ("[1]", "arguments.json.* one JSON object"),
        ('{"depth": 3', "arguments.json is not JSON: .*line 1"),
    ],
)
def test_a_wrong_file_of_arguments_is_refused(parse, argument_file, content, message):
    with pytest.raises(UserError, match=message):
        parse(argument_file(content))


def test_a_missing_file_of_arguments_is_refused_by_name(parse):
    with pytest.raises(UserError, match="nowhere.json"):
        parse("nowhere.json")


def test_unknown_arguments_on_the_command_line_are_refused_by_name(parse):
    with pytest.raises(UserError, match="--dpeth 3.*--help"):
        parse("--dpeth", "3")


def test_a_value_of_the_wrong_type_ends_with_a_usage_message(parse, capsys):
    with pytest.raises(SystemExit) as error:
        parse("--depth", "many")
    assert error.value.code == 2
    assert "argument --depth: invalid int value: 'many'" in capsys.readouterr().err


def test_checks_of_the_arguments_themselves_are_raised(parse):
    with pytest.raises(UserError, match="--learning_rate"):
        parse("--learning_rate", "0")


def test_every_argument_file_of_the_project_is_read(tmp_path, monkeypatch):
    from comparison.arguments import ComparisonArguments
    from layer_distillation.arguments import DistillationTrainingArguments
    from lora_adapters.arguments import LoraArguments, LoraTrainingArguments
    from run_export import ExportArguments
    from training.arguments import StudentArguments, TeacherArguments

    shared = (TeacherArguments, DataArguments)
    comparison = (*shared, LoraArguments, ComparisonArguments, DistillationTrainingArguments)
    lora = (*shared, StudentArguments, LoraArguments, LoraTrainingArguments)
    distillation = (*shared, StudentArguments, DistillationTrainingArguments)
    root = Path(__file__).resolve().parent.parent
    files = sorted(file for folder in ("defaults", "examples") for file in (root / folder).glob("*.json"))
    files = [file for file in files if not file.name.startswith("ds_")]  # DeepSpeed's own format
    assert files
    monkeypatch.chdir(tmp_path)
    for file in files:
        given = json.loads(file.read_text())
        for name in ("train_file", "validation_file", "test_file"):  # which users download or make
            if name in given:
                Path(given[name]).parent.mkdir(parents=True, exist_ok=True)
                Path(given[name]).write_text("text,label\n")
        types = lora if file.stem == "run_lora" else distillation
        types = comparison if file.stem == "run_comparison" or file.name.startswith("compare_") else types
        types = (ExportArguments, DataArguments) if file.stem == "run_export" else types
        known = {name for cls in types for name in cls.__dataclass_fields__}
        assert given.keys() <= known, file
        parse_arguments(types, [str(file), *(["--bf16", "false"] if "bf16" in known else [])], file)


# ---- What is shown and kept ----


def test_settings_are_explained_with_their_sources(parse):
    lines = parse("--depth", "4").explanation(always=("output_dir",)).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["depth", "4", "command", "line"],
        ["learning_rate", "0.5", "default.json"],
        ["output_dir", "out", "default"],
    ]


@pytest.mark.parametrize("error", [RuntimeError, ValueError])
def test_logs_that_cannot_be_written_are_refused_before_anything_is_trained(tmp_path, monkeypatch, error):
    def not_installed():
        raise error("requires tensorboard")

    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "tensorboard", not_installed)
    with pytest.raises(UserError, match="--report_to tensorboard .*--report_to none"):
        check_trainer_arguments(TrainingArguments(output_dir=str(tmp_path), report_to=["tensorboard"]))
    with pytest.raises(UserError, match="--report_to tensorbord.* not supported.*tensorboard"):
        check_trainer_arguments(TrainingArguments(output_dir=str(tmp_path), report_to=["tensorbord"]))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_evaluation_that_rounds_the_weights_is_refused(tmp_path, precision):
    args = TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True, **{f"{precision}_full_eval": True})
    with pytest.raises(UserError, match=f"--{precision}_full_eval .*--{precision} "):
        check_trainer_arguments(args)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gradient_accumulation_steps", 0),
        ("per_device_train_batch_size", 0),
        ("per_device_eval_batch_size", 0),
        ("learning_rate", math.nan),
        ("learning_rate", -0.1),
        ("num_train_epochs", math.inf),
        ("weight_decay", -0.1),
        ("seed", -1),
    ],
)
def test_numbers_that_no_training_can_have_are_refused(tmp_path, name, value):
    args = TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True, **{name: value})
    with pytest.raises(UserError, match=f"--{name} must be a finite number >= [01], found {value}"):
        check_trainer_arguments(args)


@pytest.mark.parametrize("checkpoint", ["true", "model"])
def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path, monkeypatch, checkpoint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    args = TrainingArguments(output_dir="out", report_to=[], use_cpu=True, resume_from_checkpoint=checkpoint)
    with pytest.raises(UserError, match=f"--resume_from_checkpoint {checkpoint} is no checkpoint: .*checkpoint-N"):
        check_trainer_arguments(args)


def test_tokens_are_neither_shown_nor_kept(parse):
    settings = parse("--local_rank=1", "--hub_tok=hf_abc", "--model_name", "two words")
    assert "hf_abc" not in settings.explanation(always=())
    assert settings.given() == {"depth": 2, "learning_rate": 0.5, "model_name": "two words"}
    assert settings.command == "python default.py --hub_tok=HUB_TOKEN --model_name 'two words'"


def test_the_words_of_the_process_are_read_where_none_are_passed(monkeypatch, argument_file):
    monkeypatch.setattr(sys, "argv", ["folder/run_something.py", "--depth", "4"])
    settings = parse_arguments((ModelSettings,), None, Path(argument_file({})))
    assert settings.given() == {"depth": 4}
    assert settings.command == "python folder/run_something.py --depth 4"


def test_given_settings_can_be_kept_as_json(argument_file):
    file = Path(argument_file({}))
    settings = parse_arguments((TrainingArguments,), ["--lr_scheduler_type", "cosine"], file)
    assert json.loads(json.dumps(settings.given())) == {"lr_scheduler_type": "cosine"}


# ---- Errors ----


def test_an_error_from_a_check_of_ours_ends_in_one_line(tmp_path, capsys):
    (tmp_path / "stranger").touch()
    with pytest.raises(SystemExit) as error:
        run_script(lambda: output_folder.check_output_dir(tmp_path))
    assert error.value.code == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"error: --output_dir {tmp_path} is not empty")
    assert output.err.count("\n") == 1


def a_library_refuses():
    json.loads("{")


def the_code_is_wrong():
    raise ValueError("not meant for a user")


@pytest.mark.parametrize("mistake", [a_library_refuses, the_code_is_wrong])
def test_errors_of_libraries_and_mistakes_in_the_code_keep_their_traceback(mistake):
    with pytest.raises(ValueError):
        run_script(mistake)


def test_help_shows_every_default(capsys, argument_file):
    with pytest.raises(SystemExit):
        parse_arguments((DistillationTrainingArguments,), ["--help"], Path(argument_file({})))
    help_text = capsys.readouterr().out
    assert "--temperature" in help_text
    assert "object at" not in help_text


@pytest.mark.parametrize(("words", "expected"), [(["--bf16"], True), (["--bf16", "false"], False)])
def test_bf16_is_a_flag_and_takes_a_value(tmp_path, argument_file, words, expected):
    words += ["--use_cpu", "--output_dir", str(tmp_path)]
    (training_args,) = parse_arguments((DistillationTrainingArguments,), words, Path(argument_file({}))).arguments
    assert training_args.bf16 is expected


def test_lists_in_a_file_become_comma_separated_and_wrong_values_are_refused(tmp_path):
    file = tmp_path / "run.json"
    file.write_text('{"layers": [6, 1, 3], "num_student_layers": null}')
    (student_args,) = parse_arguments((StudentArguments,), [str(file)], Path("unused.json")).arguments
    assert student_args.layers == "6,1,3"
    names = ("praise, thanks", "complaint")
    file.write_text(json.dumps({"label_order": names}))
    (data_args,) = parse_arguments((DataArguments,), [str(file)], Path("unused.json")).arguments
    assert data_args.ordered_label_names == names
    file.write_text('{"num_student_layers": 2.5}')
    with pytest.raises(SystemExit):
        parse_arguments((StudentArguments,), [str(file)], Path("unused.json"))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries decide on their own")
def test_freed_memory_is_kept_for_the_next_allocation_unless_the_environment_decides():
    script = f"""
import ctypes, os, resource, sys

{inspect.getsource(keep_freed_memory)}

def page_faults_of_a_block():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = b"x" * 48_000_000
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
print(min(page_faults_of_a_block() for _ in range(5)))
"""
    faults = {}
    for name, variables in {"kept": {}, "decided": {"MALLOC_ARENA_MAX": "2"}}.items():
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")} | variables
        run = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        faults[name] = int(run.stdout)
    assert faults["kept"] < 10 < faults["decided"]  # of 48 MB in pages of 4 KB, or of 2 MB


@pytest.mark.parametrize("name", ["run_distillation", "run_lora"])
def test_the_default_file_goes_with_every_option_that_may_be_added(name):
    """A value in it that only repeats a default could contradict an option."""
    values = json.loads((Path(output_folder.__file__).parent.parent / "defaults" / f"{name}.json").read_text())
    of_student = {item.name: values[item.name] for item in fields(StudentArguments) if item.name in values}
    StudentArguments(**of_student, student_name_or_path="an-encoder")


def test_lists_in_a_file_reach_the_arguments_of_trainer_as_lists(argument_file, tmp_path):
    content = {
        "output_dir": str(tmp_path),
        "report_to": ["tensorboard", "wandb"],
        "optim_target_modules": ["query", "a,b"],
        "label_names": ["labels", "scores"],
        "include_for_metrics": [],
    }
    (args,) = parse_arguments((TrainingArguments,), [argument_file(content)], Path("default.json")).arguments
    assert args.report_to == ["tensorboard", "wandb"] and args.optim_target_modules == ["query", "a,b"]
    assert args.label_names == ["labels", "scores"] and args.include_for_metrics == []
    content |= {"report_to": "none", "optim_target_modules": "[qk]uery"}
    (args,) = parse_arguments((TrainingArguments,), [argument_file(content)], Path("default.json")).arguments
    assert args.report_to == [] and args.optim_target_modules == "[qk]uery"
    with pytest.raises(SystemExit):  # with a usage message
        parse_arguments((TrainingArguments,), [argument_file({"learning_rate": [1, 2]})], Path("default.json"))
