"""A run that is killed and started again ends as if nothing had happened; a full disk destroys nothing."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

from layer_distillation.record import UNFINISHED_RECORD_FILE, read_record
from tests.script_runs import ALWAYS, SCRIPT, metrics, results, run_here, run_script, tree, weights
from training.output_folder import COMPLETE_MARK

pytestmark = pytest.mark.usefixtures("script_caches")
KILLED_RUN = Path(__file__).parent / "workers" / "killed_run.py"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


@pytest.fixture(scope="module")
def common(teacher, files):
    """Arguments of every run here: 24 optimizer steps with dropout, a checkpoint every 4, a log every 3."""
    arguments = ["--teacher_name_or_path", teacher, *files, "--max_steps", "24", "--logging_steps", "3"]
    return [*arguments, "--save_strategy", "steps", "--save_steps", "4", "--save_total_limit", "3"]


@pytest.fixture(scope="module")
def uninterrupted(common, tmp_path_factory):
    """The folder of a run that nothing disturbs, with the same teacher folder name as the killed one."""
    folders = {}

    def run(teacher_cache, num_processes, engine=()):
        key = teacher_cache, num_processes, engine
        if key not in folders:
            folders[key] = folder = tmp_path_factory.mktemp("uninterrupted")
            run_script_on(num_processes, [*common, "--teacher_cache", teacher_cache, *engine], folder)
        return folders[key]

    return run


def run_script_on(num_processes, arguments, folder):
    batch_size = str(8 // num_processes)
    arguments = [*arguments, "--per_device_train_batch_size", batch_size, "--output_dir", folder]
    if num_processes == 1:
        run_here(*arguments)
    else:
        process = run_script(*arguments, launcher=TORCHRUN)
        assert process.returncode == 0, process.stderr[-6000:]


def kill_run_on(num_processes, when, step, arguments, folder):
    launcher = TORCHRUN if num_processes > 1 else []
    batch_size = str(8 // num_processes)
    arguments = [*arguments, "--per_device_train_batch_size", batch_size, "--output_dir", folder, *ALWAYS]
    command = [sys.executable, *launcher, KILLED_RUN, when, str(step), *arguments]
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parent)}
    process = subprocess.run(command, cwd=SCRIPT.parent, env=environment, capture_output=True, text=True)
    killed = "Signal 9 (SIGKILL)" in process.stderr if launcher else process.returncode == -signal.SIGKILL
    assert killed, process.stderr[-6000:]


def logged(folder):
    """Everything that the trainer has logged but times."""
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    by_clock = ("_runtime", "_per_second")
    return [{name: value for name, value in log.items() if not name.endswith(by_clock)} for log in history]


ZERO2 = ("--deepspeed", str(SCRIPT.parent / "ds_config.json"))
CASES = [(1, "true", "step", 14), (1, "false", "writing", 8), (1, "true", "writing", 20), (1, "false", "step", 9)]
DISTRIBUTED_CASES = [(2, "true", "step", 14, ()), (2, "false", "writing", 8, ()), (2, "true", "step", 10, ZERO2)]


@pytest.mark.parametrize(
    ("num_processes", "teacher_cache", "when", "step", "engine"),
    [
        *((*case, ()) for case in CASES),
        *(pytest.param(*case, marks=pytest.mark.distributed) for case in DISTRIBUTED_CASES),
    ],
)
def test_a_killed_run_started_again_ends_as_if_it_had_not_been(
    common, uninterrupted, tmp_path, caplog, num_processes, teacher_cache, when, step, engine
):
    caplog.set_level(logging.INFO)
    expected = uninterrupted(teacher_cache, num_processes, engine)
    arguments, folder = [*common, "--teacher_cache", teacher_cache, *engine], tmp_path / "killed"
    kill_run_on(num_processes, when, step, arguments, folder)
    assert read_record(folder) is None and (folder / UNFINISHED_RECORD_FILE).is_file()
    half_written = [path for path in folder.glob("checkpoint-*") if not (path / COMPLETE_MARK).is_file()]
    assert [path.name for path in half_written] == ([f"checkpoint-{step}"] if when == "writing" else [])

    run_script_on(num_processes, arguments, folder)
    assert weights(folder) == weights(expected)
    assert metrics(folder) == metrics(expected)
    assert logged(folder) == logged(expected)
    assert results(folder)["epoch"] == results(expected)["epoch"]
    if num_processes == 1:
        last = (step - 1 if when == "writing" else step) // 4 * 4
        assert f"An interrupted run is continued from {folder / f'checkpoint-{last}'}." in caplog.text
        assert ("is half-written and passed over" in caplog.text) == (when == "writing")


@pytest.mark.distributed
def test_a_run_is_not_continued_on_another_number_of_processes(common, tmp_path):
    kill_run_on(1, "step", 9, common, tmp_path / "killed")
    arguments = [*common, "--per_device_train_batch_size", "8", "--output_dir", tmp_path / "killed"]
    process = run_script(*arguments, launcher=TORCHRUN)
    assert process.returncode == 1
    assert "holds a run with other settings" in process.stderr


def test_a_run_continues_from_the_checkpoint_that_is_named(common, uninterrupted, tmp_path):
    expected = uninterrupted("true", 1)
    shutil.copytree(expected / "checkpoint-16", tmp_path / "checkpoint-16")
    arguments = ["--resume_from_checkpoint", tmp_path / "checkpoint-16"]
    run_script_on(1, [*common, *arguments, "--teacher_cache", "true"], tmp_path / "student")
    assert weights(tmp_path / "student") == weights(expected)
    assert metrics(tmp_path / "student") == metrics(expected)


# ---- Full and read-only disks ----


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 24 MB: a run of a tiny teacher takes about half of it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"only root may mount a disk of a given size: {mount.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk, megabytes_left):
    size = (shutil.disk_usage(disk).free // 1_000_000 - megabytes_left) * 1_000_000
    (disk / "filler").write_bytes(b"0" * size)


@pytest.mark.parametrize("megabytes_left", [0, 2, 6])
def test_a_full_disk_is_a_clear_error_and_leaves_what_was_there(teacher, files, small_disk, tmp_path, megabytes_left):
    # With 2 MB there is room for records but not for the student, with 6 MB also for the student but no checkpoint.
    folder = small_disk / "student"
    arguments = ["--teacher_name_or_path", teacher, *files, "--num_train_epochs", "1", "--save_strategy", "epoch"]
    run_here(*arguments, "--output_dir", folder)
    shutil.rmtree(next(folder.glob("checkpoint-*")))
    before = tree(folder)
    fill(small_disk, megabytes_left)
    process = run_script(*arguments, "--output_dir", folder)
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    last_line = process.stderr.strip().splitlines()[-1]
    assert last_line.startswith("error: the disk is full (") and "--output_dir on another disk" in last_line
    after = tree(folder)
    assert before.items() <= after.items()

    (small_disk / "filler").unlink()
    run_here(*arguments, "--output_dir", folder)
    assert weights(folder) == before[folder / "model.safetensors"]


def test_a_read_only_teacher_folder_is_refused_before_the_fine_tuning(make_teacher, files, small_disk, tmp_path):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    encoder = make_teacher(["bad", "good"], encoder_only=True)
    arguments = ["--teacher_name_or_path", encoder, *files, "--teacher_output_dir", small_disk / "teacher"]
    with pytest.raises(ValueError, match="--teacher_output_dir .* is to be written to, but .* is read-only"):
        run_here(*arguments, "--output_dir", tmp_path / "student")


def test_a_read_only_output_folder_is_refused_before_anything_is_loaded(teacher, files, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    process = run_script("--teacher_name_or_path", teacher, *files, "--output_dir", small_disk / "student")
    assert process.returncode == 1
    assert process.stderr.strip().splitlines()[-1] == (
        f"error: --output_dir {small_disk / 'student'} is to be written to, but {small_disk} is read-only. "
        "Choose another."
    )


def test_a_read_only_teacher_cache_is_read_and_refused_only_if_it_lacks_the_outputs(
    teacher, files, small_disk, tmp_path
):
    arguments = ["--teacher_name_or_path", teacher, *files, "--max_steps", "1", "--teacher_cache_dir", small_disk]
    run_here(*arguments, "--output_dir", tmp_path / "first")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    run_here(*arguments, "--seed", "1", "--output_dir", tmp_path / "second")
    with pytest.raises(ValueError, match="cannot be kept in .*: .*Read-only file system.*--teacher_cache_dir"):
        run_here(*arguments, "--max_train_samples", "20", "--output_dir", tmp_path / "third")
