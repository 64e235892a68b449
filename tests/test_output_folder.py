"""Tests of output folders and records: whose folder it is, what an interrupted run resumes from, and the record."""

import json
import logging
import multiprocessing
import os
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import PartialState
from transformers import TrainerControl, TrainerState

from comparison.arguments import ComparisonArguments
from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.atomic_files import replacing
from layer_distillation.errors import UserError
from layer_distillation.record import RECORD_FILE, UNFINISHED_RECORD_FILE, DataRecord, RunRecord, library_versions
from lora_adapters.arguments import LoraArguments
from tests.forked_runs import free_port
from text_data.arguments import DataArguments
from training.arguments import OutputArguments, TeacherArguments
from training.output_folder import (
    COMPLETE_MARK,
    LOCK_FILE,
    WITHOUT_EFFECT,
    CheckpointMarker,
    FolderInUseError,
    check_named_checkpoint,
    check_output_dir,
    checkpoint_to_resume,
    claimed,
    closing_run_folder,
    earlier_records,
    open_run_folder,
)

RECORD = RunRecord(
    name="run",
    command="python run_distillation.py",
    settings={"layers": "2,4"},
    data=DataRecord(source="a/train.csv", labels=("bad", "good"), fingerprints={"train": "f00"}, split_seed=None),
    seed=1,
    libraries={"torch": "2.13.0"},
    circumstances={"teacher": "7ea"},
)
EARLIER = replace(RECORD, seed=0)
ARGUMENTS = (TeacherArguments, DataArguments, LoraArguments, DistillationTrainingArguments)


def add_checkpoint(folder, step, complete=True):
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    if complete:
        (checkpoint / COMPLETE_MARK).touch()
    return str(checkpoint)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- Whose folder ----


def test_missing_and_empty_folders_are_free_and_a_run_of_ours_may_be_used_again(tmp_path):
    check_output_dir(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()
    check_output_dir(tmp_path)
    RECORD.write(tmp_path)
    check_output_dir(tmp_path)
    check_output_dir(tmp_path, must_hold_run=True)


def test_a_strangers_folder_is_refused_and_left_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=f"--output_dir {tmp_path}"):
        check_output_dir(tmp_path)
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}


def test_a_file_is_refused_as_output_dir(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--output_dir .*file"):
        check_output_dir(tmp_path / "file")


def test_of_two_runs_in_one_folder_the_second_is_refused_until_the_first_ends(tmp_path):
    folder = tmp_path / "run"
    args = SimpleNamespace(output_dir=str(folder))
    with claimed(args):
        with pytest.raises(FolderInUseError, match=f"--output_dir {folder}"), claimed(args):
            pass
        check_output_dir(folder)
    assert [path.name for path in folder.iterdir()] == [LOCK_FILE]
    check_output_dir(folder)
    with claimed(args):
        pass


def test_the_main_process_claims_the_folder_for_all_and_its_error_ends_all(tmp_path):
    forked = multiprocessing.get_context("fork")
    answers, port = forked.SimpleQueue(), free_port()
    processes = [forked.Process(target=claim_twice, args=(rank, port, tmp_path, answers)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    first, second = answers.get(), answers.get()
    assert first == second and f"--output_dir {tmp_path}" in first


def claim_twice(rank, port, folder, answers):
    """One of two processes of a run, in whose folder another run begins."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    PartialState._reset_state()
    PartialState(cpu=True)
    args = SimpleNamespace(output_dir=str(folder))
    with claimed(args):
        try:
            with claimed(args):
                pass
        except UserError as error:
            answers.put(str(error))
    torch.distributed.destroy_process_group()


def test_a_run_that_fails_before_it_has_made_anything_leaves_the_folder_as_it_was(tmp_path):
    args = SimpleNamespace(output_dir=str(tmp_path))
    EARLIER.write(tmp_path)
    with claimed(args):
        pass
    before = contents(tmp_path)
    for makes, left in ((False, set()), (True, {UNFINISHED_RECORD_FILE, "checkpoint-1/model.safetensors"})):
        with pytest.raises(KeyboardInterrupt), claimed(args):
            open_run_folder(tmp_path, RECORD, keep_checkpoints=False)
            if makes:
                add_checkpoint(tmp_path, 1, complete=False)
            raise KeyboardInterrupt
        assert contents(tmp_path).keys() - before.keys() == left and before.items() <= contents(tmp_path).items()
    with pytest.raises(KeyboardInterrupt), claimed(args):
        raise KeyboardInterrupt  # an interrupted run that fails again
    assert contents(tmp_path).keys() - before.keys() == left


def test_evaluating_needs_a_run(tmp_path):
    with pytest.raises(UserError, match="--do_train"):
        check_output_dir(tmp_path / "missing", must_hold_run=True)


# ---- Record ----


def test_record_survives_a_round_trip_and_an_absent_one_is_none(tmp_path):
    assert RunRecord.read(tmp_path) is None
    RECORD.write(tmp_path / "new" / "folder")
    assert RunRecord.read(tmp_path / "new" / "folder") == RECORD
    assert "student" not in json.loads((tmp_path / "new" / "folder" / RECORD_FILE).read_text())


def test_a_record_of_another_version_is_read_or_refused_with_its_path(tmp_path):
    RECORD.write(tmp_path)
    file = tmp_path / RECORD_FILE
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"of_a_later_version": 1}))
    assert RunRecord.read(tmp_path) == RECORD
    del content["data"]["fingerprints"]
    for broken in (json.dumps(content), "{"):
        file.write_text(broken)
        with pytest.raises(UserError, match=RECORD_FILE):
            RunRecord.read(tmp_path)


@pytest.mark.parametrize("failing", ["write_text", "replace"])
def test_a_crash_while_the_record_is_written_leaves_the_old_one(tmp_path, monkeypatch, failing):
    EARLIER.write(tmp_path)

    def crash(self, *args):
        if failing == "write_text":
            self.write_bytes(b'{"stat')  # part of it got to the disk
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, failing, crash)
    with pytest.raises(OSError, match="No space"):
        RECORD.write(tmp_path)
    assert RunRecord.read(tmp_path) == EARLIER


def test_library_versions_name_python_and_leave_out_what_is_not_installed(monkeypatch):
    monkeypatch.setattr("layer_distillation.record.LIBRARIES", ("torch", "no-such-library"))
    assert library_versions.__wrapped__().keys() == {"python", "torch"}


# ---- Earlier runs ----


def test_settings_that_differ_are_named_with_both_values(tmp_path):
    replace(RECORD, settings={"layers": "1,3", "seed": 4}).write(tmp_path)
    with pytest.raises(UserError, match="--overwrite_output_dir") as error:
        earlier_records(tmp_path, replace(RECORD, settings={"layers": "2,4", "bf16": True}))
    for difference in (
        "layers (1,3 there, 2,4 here)",
        "seed (4 there, not given here)",
        "bf16 (not given there, True",
    ):
        assert difference in str(error.value)
    assert "data" not in str(error.value)


def test_data_that_differ_are_named(tmp_path):
    replace(RECORD, data=replace(RECORD.data, fingerprints={"train": "another"})).write(tmp_path)
    with pytest.raises(UserError, match=r"data: fingerprints \(.*another.*f00"):
        earlier_records(tmp_path, RECORD)


def test_a_record_of_an_earlier_version_does_not_say_which_weights_and_is_not_compared_by_them(tmp_path):
    replace(RECORD, circumstances=None).write(tmp_path)
    finished, _ = earlier_records(tmp_path, RECORD)
    assert finished is not None


def test_a_setting_is_compared_by_what_it_came_to(tmp_path):
    replace(RECORD, circumstances={"bf16": True}).write(tmp_path)
    finished, _ = earlier_records(
        tmp_path, replace(RECORD, settings=RECORD.settings | {"bf16": True}, circumstances={"bf16": True})
    )
    assert finished is not None
    with pytest.raises(UserError, match=r"circumstances: bf16 \(True there, False here\)"):
        earlier_records(tmp_path, replace(RECORD, circumstances={"bf16": False}))


def test_settings_that_change_no_result_make_no_other_run(tmp_path):
    shown = {"disable_tqdm": True, "report_to": ["tensorboard"], "logging_steps": 5, "merge_adapter": True}
    shown["output_dir"] = "outputs/student"  # earlier versions recorded it
    replace(RECORD, settings=RECORD.settings | shown).write(tmp_path)
    finished, _ = earlier_records(tmp_path, RECORD)
    assert finished is not None


def test_another_run_is_left_out_where_it_may_be_overwritten(tmp_path):
    another = replace(RECORD, settings={"layers": "1,3"})
    another.write(tmp_path)
    another.write(tmp_path, UNFINISHED_RECORD_FILE)
    assert earlier_records(tmp_path, RECORD, overwrite=True) == (None, None)
    assert all(earlier_records(tmp_path, another, overwrite=True))


def test_settings_without_effect_are_arguments():
    known = {item.name for cls in (*ARGUMENTS, ComparisonArguments, OutputArguments) for item in fields(cls)}
    assert set(WITHOUT_EFFECT) <= known


# ---- Resuming ----


@pytest.mark.parametrize("save_only_model", [False, True])
def test_a_run_continues_from_no_checkpoint_without_an_optimizer(tmp_path, save_only_model):
    RECORD.write(tmp_path, UNFINISHED_RECORD_FILE)
    checkpoint = add_checkpoint(tmp_path, 8, complete=False)
    args = DistillationTrainingArguments(output_dir=str(tmp_path), save_only_model=save_only_model, use_cpu=True)
    CheckpointMarker().on_save(args, TrainerState(global_step=8), TrainerControl())
    assert checkpoint_to_resume(tmp_path, RECORD) == (None if save_only_model else checkpoint)


def test_an_interrupted_run_resumes_from_its_newest_checkpoint_by_number(tmp_path):
    open_run_folder(tmp_path, RECORD, keep_checkpoints=False)
    assert checkpoint_to_resume(tmp_path, RECORD) is None
    add_checkpoint(tmp_path, 90)
    newest = add_checkpoint(tmp_path, 100)
    (tmp_path / "checkpoint-best").mkdir()
    assert checkpoint_to_resume(tmp_path, RECORD) == newest


def test_a_half_written_checkpoint_is_skipped_with_a_message(tmp_path, caplog):
    open_run_folder(tmp_path, RECORD, keep_checkpoints=False)
    complete = add_checkpoint(tmp_path, 10)
    half_written = add_checkpoint(tmp_path, 20, complete=False)
    assert checkpoint_to_resume(tmp_path, RECORD) == complete
    assert half_written in caplog.text


# ---- Replacing files ----


def test_files_take_their_places_only_when_all_are_written(tmp_path):
    (tmp_path / "model").write_text("old")
    with pytest.raises(OSError), replacing(tmp_path, PartialState()) as unfinished:
        Path(unfinished, "model").write_text("half")
        raise OSError
    assert contents(tmp_path) == {"model": b"old"}
    with replacing(tmp_path, PartialState()) as unfinished:
        Path(unfinished, "model").write_text("new")
        Path(unfinished, "config").write_text("new")
        assert (tmp_path / "model").read_text() == "old"
    assert contents(tmp_path) == {"model": b"new", "config": b"new"}


def test_what_a_killed_run_has_half_written_goes_when_the_next_begins(tmp_path):
    killed = replacing(tmp_path, PartialState())
    half_written = killed.__enter__()
    Path(half_written, "model").write_text("half")
    open_run_folder(tmp_path, RECORD, keep_checkpoints=True)
    assert not Path(half_written).exists()


def test_a_run_that_ends_replaces_the_results_of_the_one_before_and_nothing_else(tmp_path):
    EARLIER.write(tmp_path)
    results = ("all_results.json", "predict_results.json", "predictions_old.csv", "identity_bias.json")
    for name in (*results, "merged/config.json", "export/config.json", "notes.txt", "teacher/x.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    before = contents(tmp_path)
    open_run_folder(tmp_path, RECORD, keep_checkpoints=False)
    with pytest.raises(OSError), closing_run_folder(tmp_path, PartialState()) as folder:
        Path(folder, "all_results.json").write_text("half")
        raise OSError
    assert contents(tmp_path).keys() - before.keys() == {UNFINISHED_RECORD_FILE}
    assert before.items() <= contents(tmp_path).items()

    with closing_run_folder(tmp_path, PartialState()) as folder:
        Path(folder, "all_results.json").write_text("new")
        RECORD.write(folder)
    assert contents(tmp_path).keys() == {RECORD_FILE, "all_results.json", "notes.txt", "teacher/x.json"}
    assert (tmp_path / "all_results.json").read_text() == "new"
    assert RunRecord.read(tmp_path) == RECORD


# ---- Other runs in the folder ----


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"layers": "1,3"}},
        {"data": replace(RECORD.data, fingerprints={"train": "ba5"})},
        {"circumstances": {"teacher": "ba5"}},
    ],
)
@pytest.mark.parametrize("is_finished", [True, False])
def test_a_run_with_another_request_is_not_replaced(tmp_path, change, is_finished):
    if is_finished:
        RECORD.write(tmp_path)
    else:
        open_run_folder(tmp_path, RECORD, keep_checkpoints=False)
    with pytest.raises(UserError, match=f"--output_dir {tmp_path} .*other {next(iter(change))}"):
        checkpoint_to_resume(tmp_path, replace(RECORD, **change))


def test_a_stage_does_not_resume_where_it_was_built_from_other_weights(tmp_path):
    open_run_folder(tmp_path, replace(RECORD, built_from="7ea"), keep_checkpoints=False)
    checkpoint = add_checkpoint(tmp_path, 10)
    assert checkpoint_to_resume(tmp_path, replace(RECORD, built_from="7ea")) == checkpoint
    assert checkpoint_to_resume(tmp_path, replace(RECORD, built_from="ba5")) is None


def add_named_checkpoint(folder, step):
    checkpoint = add_checkpoint(folder, step)
    TrainerState(global_step=step).save_to_json(f"{checkpoint}/trainer_state.json")
    return checkpoint


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_named_checkpoint_of_another_request_is_refused(tmp_path, is_finished):
    checkpoint = add_named_checkpoint(tmp_path, 10)
    check_named_checkpoint(checkpoint, RECORD, num_steps=11)  # nobody knows of which run it is
    RECORD.write(tmp_path, RECORD_FILE if is_finished else UNFINISHED_RECORD_FILE)
    check_named_checkpoint(checkpoint, RECORD, num_steps=11)
    other = replace(RECORD, settings={"layers": "1,3"})
    with pytest.raises(UserError, match=r"--resume_from_checkpoint .*checkpoint-10 .*other settings.*2,4 there"):
        check_named_checkpoint(checkpoint, other, num_steps=11)


def test_a_named_checkpoint_is_of_the_run_that_the_folder_holds_last(tmp_path):
    replace(RECORD, settings={"layers": "1,3"}).write(tmp_path)
    RECORD.write(tmp_path, UNFINISHED_RECORD_FILE)
    check_named_checkpoint(add_named_checkpoint(tmp_path, 10), RECORD, num_steps=11)


@pytest.mark.parametrize("num_steps", [9, 10])
def test_a_named_checkpoint_that_leaves_nothing_to_train_is_refused(tmp_path, num_steps):
    with pytest.raises(UserError, match=f"after step 10, and this run ends after step {num_steps}, .*nothing left"):
        check_named_checkpoint(add_named_checkpoint(tmp_path, 10), RECORD, num_steps)


def test_the_last_checkpoint_of_an_unfinished_run_may_be_named(tmp_path):
    RECORD.write(tmp_path, UNFINISHED_RECORD_FILE)
    check_named_checkpoint(add_named_checkpoint(tmp_path, 10), RECORD, num_steps=10)


def test_a_finished_run_and_a_new_folder_start_from_the_beginning(tmp_path):
    add_checkpoint(tmp_path, 10)
    assert checkpoint_to_resume(tmp_path, RECORD) is None
    RECORD.write(tmp_path)
    assert checkpoint_to_resume(tmp_path, RECORD) is None


def test_a_new_run_clears_away_checkpoints_of_the_one_before_and_leaves_its_results(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    EARLIER.write(tmp_path)
    (tmp_path / "all_results.json").write_text("old")
    add_checkpoint(tmp_path, 10)
    open_run_folder(tmp_path, RECORD, keep_checkpoints=False)
    assert contents(tmp_path).keys() == {RECORD_FILE, UNFINISHED_RECORD_FILE, "all_results.json"}
    assert RunRecord.read(tmp_path) == EARLIER
    assert "checkpoint-10 is of an earlier run and removed" in caplog.text


def test_a_resumed_run_keeps_its_checkpoints(tmp_path):
    checkpoint = add_checkpoint(tmp_path, 10)
    open_run_folder(tmp_path, RECORD, keep_checkpoints=True)
    assert Path(checkpoint).is_dir()
