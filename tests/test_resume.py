"""A run that is killed and started again ends as if nothing had happened; a full disk destroys nothing."""

import json
import logging
import os
import shutil
import signal
from functools import partial
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from safetensors.torch import load_file

import run_comparison
import run_distillation
import run_lora
from layer_distillation.errors import UserError
from layer_distillation.record import UNFINISHED_RECORD_FILE
from tests.script_runs import SCRIPT, metrics, read_record, results, run_elsewhere, run_here, run_main, tree, weights
from tests.small_disks import empty, fill, make_read_only
from training import command_line
from training.command_line import run_script
from training.output_folder import COMPLETE_MARK

pytestmark = pytest.mark.usefixtures("script_caches")
KILLED_RUN = Path(__file__).parent / "workers" / "killed_run.py"
ZERO2 = ("--deepspeed", str(SCRIPT.parent / "ds_config.json"))


@pytest.fixture(scope="module")
def common(teacher, files):
    """Arguments of every run here: 24 optimizer steps with dropout, a checkpoint every 4, a log every 3."""
    arguments = ["--teacher_name_or_path", teacher, *files, "--max_steps", "24", "--logging_steps", "3"]
    return [*arguments, "--save_strategy", "steps", "--save_steps", "4", "--save_total_limit", "3"]


@pytest.fixture(scope="module")
def uninterrupted(common, tmp_path_factory):
    """The folder of a run on one process that nothing disturbs."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    run_on(1, common, folder)
    return folder


def run_on(num_processes, arguments, folder):
    arguments = [*arguments, "--per_device_train_batch_size", 8 // num_processes, "--output_dir", folder]
    if num_processes == 1:
        run_here(*arguments)
    else:
        process = run_elsewhere(*arguments, num_processes=num_processes)
        assert process.returncode == 0, process.stderr[-6000:]


def kill_run_on(num_processes, when, step, arguments, folder):
    batch_size = ["--per_device_train_batch_size", 8 // num_processes]
    arguments = ["run_distillation", when, step, *arguments, *batch_size, "--output_dir", folder]
    process = run_elsewhere(*arguments, script=KILLED_RUN, num_processes=num_processes)
    assert process.returncode == -signal.SIGKILL, process.stderr[-6000:]
    assert read_record(folder) is None and (folder / UNFINISHED_RECORD_FILE).is_file()
    half_written = [path for path in folder.glob("checkpoint-*") if not (path / COMPLETE_MARK).is_file()]
    assert [path.name for path in half_written] == ([f"checkpoint-{step}"] if when == "writing" else [])


def logged(folder):
    """Everything that the trainer has logged but times."""
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    by_clock = ("_runtime", "_per_second")
    return [{name: value for name, value in log.items() if not name.endswith(by_clock)} for log in history]


def assert_same_run(folder, expected):
    assert weights(folder) == weights(expected)
    assert metrics(folder) == metrics(expected)
    assert logged(folder) == logged(expected)
    assert results(folder)["epoch"] == results(expected)["epoch"]


@pytest.mark.parametrize(
    ("when", "step", "last_complete", "teacher_cache"), [("step", 14, 12, "true"), ("writing", 8, 4, "false")]
)
def test_a_killed_run_started_again_ends_as_if_it_had_not_been(
    common, uninterrupted, tmp_path, caplog, when, step, last_complete, teacher_cache
):
    caplog.set_level(logging.INFO)
    arguments, expected = [*common, "--teacher_cache", teacher_cache], uninterrupted
    if teacher_cache == "false":
        expected = tmp_path / "uninterrupted"
        run_on(1, arguments, expected)
    kill_run_on(1, when, step, arguments, tmp_path / "killed")
    caplog.clear()
    run_on(1, arguments, tmp_path / "killed")
    assert_same_run(tmp_path / "killed", expected)
    (continued,) = [message for message in caplog.messages if "continued from" in message]
    assert str(tmp_path / "killed" / f"checkpoint-{last_complete}") in continued
    assert ("half-written" in caplog.text) == (when == "writing")


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("when", "step", "options"),
    [("writing", 8, ("--teacher_cache", "false")), ("step", 10, ZERO2)],
    ids=["DDP", "ZeRO-2"],
)
def test_a_run_killed_on_two_processes_ends_as_if_it_had_not_been(common, tmp_path, when, step, options):
    arguments = [*common, *options]
    run_on(2, arguments, tmp_path / "uninterrupted")
    kill_run_on(2, when, step, arguments, tmp_path / "killed")
    if "--deepspeed" not in options:
        with pytest.raises(UserError, match="with other settings"):
            run_here(*arguments, "--per_device_train_batch_size", 4, "--output_dir", tmp_path / "killed")
    run_on(2, arguments, tmp_path / "killed")
    assert_same_run(tmp_path / "killed", tmp_path / "uninterrupted")


def test_a_run_continues_from_the_checkpoint_that_is_named(common, uninterrupted, tmp_path):
    shutil.copytree(uninterrupted / "checkpoint-16", tmp_path / "checkpoint-16")
    arguments = [*common, "--resume_from_checkpoint", tmp_path / "checkpoint-16"]
    run_on(1, arguments, tmp_path / "student")
    assert {path.name for path in (tmp_path / "student").glob("checkpoint-*")} == {"checkpoint-20", "checkpoint-24"}
    assert weights(tmp_path / "student") == weights(uninterrupted)
    assert metrics(tmp_path / "student") == metrics(uninterrupted)


def test_a_named_checkpoint_of_another_run_is_refused(common, uninterrupted, tmp_path):
    arguments = [*common, "--resume_from_checkpoint", uninterrupted / "checkpoint-24"]
    with pytest.raises(UserError, match="other settings.*layers"):
        run_on(1, [*arguments, "--layers", "1"], tmp_path / "student")
    with pytest.raises(UserError, match="after step 24, and this run ends after step 24"):
        run_on(1, arguments, tmp_path / "student")
    assert read_record(tmp_path / "student") is None


def test_an_adapter_and_its_merged_weights_end_as_if_their_runs_had_not_been_killed(teacher, files, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    arguments = ["--teacher_name_or_path", teacher, *files, "--per_device_train_batch_size", 8, "--merge_adapter"]
    arguments += ["--num_train_epochs", 4, "--save_strategy", "epoch", "--init_lora_weights", "pissa"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_main(run_lora, *arguments, "--output_dir", whole)
    for when, step in (("step", 14), ("merging", 0)):
        words = ["run_lora", when, step, *arguments, "--output_dir", killed]
        process = run_elsewhere(*words, script=KILLED_RUN)
        assert process.returncode == -signal.SIGKILL, process.stderr[-6000:]
        assert (read_record(killed) is None) == (when == "step")
        assert not (killed / "merged" / "config.json").exists()
    assert str(killed / "checkpoint-10") in process.stderr
    run_main(run_lora, *arguments, "--output_dir", killed)
    names = {path.relative_to(whole) for path in tree(whole) if "checkpoint" not in str(path)}
    assert {path.relative_to(killed) for path in tree(killed) if "checkpoint" not in str(path)} == names
    for name in ("adapter_model.safetensors", "merged/model.safetensors"):
        expected, found = load_file(whole / name), load_file(killed / name)
        assert expected.keys() == found.keys()
        for key, tensor in expected.items():
            torch.testing.assert_close(found[key], tensor, atol=1e-6, rtol=0)


# ---- Full and read-only disks ----


def test_a_full_disk_is_a_clear_error_and_leaves_what_was_there(teacher, files, small_disk):
    folder = small_disk / "student"
    arguments = ["--teacher_name_or_path", teacher, *files, "--num_train_epochs", "1", "--save_strategy", "epoch"]
    arguments += ["--output_dir", folder]
    run_here(*arguments)
    shutil.rmtree(next(folder.glob("checkpoint-*")))
    before = tree(folder)
    # With 2 MB there is room for records but not for the student, with 6 MB also for the student but no checkpoint.
    for megabytes_left in (0, 2, 6):
        fill(small_disk, megabytes_left)
        process = run_elsewhere(*arguments, "--overwrite_output_dir")
        assert process.returncode == 1
        assert "Traceback" not in process.stderr
        last_line = process.stderr.strip().splitlines()[-1]
        assert last_line.startswith("error: ") and "disk is full" in last_line and "--output_dir" in last_line
        assert before.items() <= tree(folder).items()

    empty(small_disk)
    run_here(*arguments, "--overwrite_output_dir")
    assert weights(folder) == before[folder / "model.safetensors"]


def test_a_full_disk_leaves_an_adapter_and_its_merged_weights_and_results_of_a_later_evaluation(
    teacher, files, small_disk, monkeypatch, capsys
):
    monkeypatch.setattr(command_line, "keep_freed_memory", lambda: None)  # for the whole process
    folder = small_disk / "adapter"
    arguments = ["--output_dir", folder, *files]
    training = [*arguments, "--teacher_name_or_path", teacher, "--max_steps", "1", "--save_strategy", "no"]
    training += ["--merge_adapter"]
    run_main(run_lora, *training)
    before = tree(folder)
    for further in ([*training, "--overwrite_output_dir"], training, [*arguments, "--do_eval", "--do_predict"]):
        fill(small_disk, megabytes_left=0)
        with pytest.raises(SystemExit):
            run_script(partial(run_main, run_lora, *further))
        assert "disk is full" in capsys.readouterr().err
        assert before.items() <= tree(folder).items()
    empty(small_disk)
    run_main(run_lora, *training)
    assert before.items() <= tree(folder).items()


def test_a_read_only_teacher_folder_is_refused_before_the_fine_tuning(make_teacher, files, small_disk, tmp_path):
    make_read_only(small_disk)
    encoder = make_teacher(["bad", "good"], encoder_only=True)
    arguments = ["--teacher_name_or_path", encoder, *files, "--teacher_output_dir", small_disk / "teacher"]
    with pytest.raises(UserError, match=f"--teacher_output_dir {small_disk / 'teacher'} .*read-only"):
        run_here(*arguments, "--output_dir", tmp_path / "student")


def test_a_read_only_output_folder_is_refused_before_anything_is_loaded(files, small_disk):
    make_read_only(small_disk)
    for script in (run_distillation, run_lora, run_comparison):
        arguments = ["--teacher_name_or_path", "nowhere", *files]
        with pytest.raises(UserError, match=f"--output_dir {small_disk / 'student'} .*read-only"):
            run_main(script, *arguments, "--output_dir", small_disk / "student")


def test_a_read_only_teacher_cache_is_read_and_refused_only_if_it_lacks_the_outputs(
    teacher, files, small_disk, tmp_path
):
    arguments = ["--teacher_name_or_path", teacher, *files, "--max_steps", "1", "--teacher_cache_dir", small_disk]
    run_here(*arguments, "--output_dir", tmp_path / "first")
    make_read_only(small_disk)
    run_here(*arguments, "--seed", "1", "--output_dir", tmp_path / "second")
    with pytest.raises(UserError, match="Read-only file system.*--teacher_cache_dir"):
        run_here(*arguments, "--max_train_samples", "20", "--output_dir", tmp_path / "third")
