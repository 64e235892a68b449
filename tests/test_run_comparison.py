"""Tests of `run_comparison.py` from the command line to the report, on a grid of tiny students."""

import csv
import gc
import itertools
import json
import logging
import multiprocessing
import re
import shutil
import subprocess
import sys
import threading
import time
import weakref
from functools import partial
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from sklearn.metrics import roc_auc_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import run_comparison
import run_distillation
import run_lora
from comparison import grid as comparison_grid
from comparison.sharing import share_grid
from distill_trainer import DistillationTrainer
from layer_distillation import teacher_outputs
from layer_distillation.atomic_files import HALF_WRITTEN
from layer_distillation.errors import UserError
from layer_distillation.record import UNFINISHED_RECORD_FILE
from lora_adapters.loading import load_adapter
from tests.script_runs import (
    read_record,
    results,
    run_main,
    run_process,
    sentences,
    tree,
    weights,
    write_csv,
)
from tests.small_disks import empty, fill
from training import run as training_run
from training import teacher as training_teacher
from training.output_folder import LOCK_FILE

pytestmark = pytest.mark.usefixtures("script_caches")

run_here = partial(run_main, run_comparison)
FORK = multiprocessing.get_context("fork")
GRID = ["--strategies", "odd", "even", "--methods", "distill", "lora", "--method_strategies", "even", "--seeds", 0, 1]
CELLS = [f"{name}-{seed}" for seed in (0, 1) for name in ("distill-odd", "distill-even", "lora-even")]
SETTINGS = ["--num_train_epochs", 2, "--per_device_train_batch_size", 8, "--logging_steps", 2]
SETTINGS += ["--eval_strategy", "epoch", "--save_strategy", "no", "--teacher_num_train_epochs", 1]


@pytest.fixture(scope="module")
def arguments(make_teacher, files):
    return ["--teacher_name_or_path", make_teacher(["bad", "good"], encoder_only=True), *files, *SETTINGS]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, arguments):
    folder = tmp_path_factory.mktemp("comparison")
    # "garden" and "song" stand in for identities.
    rows = [(text, {"good": "fine"}.get(label, label)) for text, label in sentences(500)]
    identities = ["--identity_file", write_csv(folder / "identities.csv", rows), "--toxic_labels", "bad"]
    run_here(*arguments, *GRID, *identities, "--identities", "garden", "song", "--output_dir", folder / "grid")
    return folder / "grid"


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished comparison that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


@pytest.fixture
def same_teacher(finished, tmp_path):
    """Arguments of a comparison that need not fine-tune the teacher."""
    return ["--teacher_output_dir", shutil.copytree(finished / "teacher", tmp_path / "teacher")]


@pytest.fixture
def cells_run(monkeypatch):
    """Names of the cells that are run, as they are; no figures, which take most of the time."""
    monkeypatch.setattr(run_comparison, "draw_figures", lambda *_: {})
    names, run_cell = [], comparison_grid.run_cell
    monkeypatch.setattr(
        comparison_grid, "run_cell", lambda run, *others: (names.append(run.cell.name), run_cell(run, *others))
    )
    return names


# ---- Runs ----


def test_every_cell_is_a_run_of_its_own_with_the_same_teacher(finished):
    assert sorted(path.name for path in (finished / "runs").iterdir()) == sorted(CELLS)
    records = {name: read_record(finished / "runs" / name) for name in CELLS}
    assert len({record["teacher"]["fingerprint"] for record in records.values()}) == 1
    for name, record in records.items():
        assert name.startswith(record["method"])
        assert record["student"]["layers"] == ([1, 3] if "odd" in name else [2, 4])
        card = ModelCard.load(finished / "runs" / name / "README.md")
        assert {result.metric_type for result in card.data.eval_results} >= {"accuracy", "macro_f1"}
    student = AutoModelForSequenceClassification.from_pretrained(finished / "runs" / "distill-odd-0")
    assert student.config.num_hidden_layers == 2
    assert load_adapter(finished / "runs" / "lora-even-0").get_base_model().config.num_hidden_layers == 2


def test_the_teacher_is_fine_tuned_once_and_its_outputs_are_stored_once(finished):
    assert len([path for path in (finished / "teacher" / "outputs").iterdir() if path.is_dir()]) == 1
    assert len(list(finished.rglob("teacher.json"))) == 1


def test_a_cell_makes_what_the_script_of_its_method_makes(finished, arguments, tmp_path):
    shared = ["--teacher_output_dir", finished / "teacher", "--layer_strategy", "even", "--seed", 1]
    run_main(run_distillation, *arguments, *shared, "--output_dir", tmp_path / "student")
    assert weights(tmp_path / "student") == weights(finished / "runs" / "distill-even-1")
    run_main(run_lora, *arguments, *shared, "--output_dir", tmp_path / "adapter")
    adapters = [
        folder / "adapter_model.safetensors" for folder in (tmp_path / "adapter", finished / "runs/lora-even-1")
    ]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()


def test_layers_that_are_chosen_by_evidence_are_compared_too(arguments, same_teacher, cells_run, tmp_path):
    grid = ["--strategies", "cka", "search", "--methods", "distill", "--seeds", 0, "--search_budget", 5]
    run_here(*arguments, *same_teacher, *grid, "--output_dir", tmp_path / "grid")
    assert cells_run == ["distill-cka-0", "distill-search-0"]
    _, rows = table((tmp_path / "grid" / "report.md").read_text(), "Student Layer")
    for row, cell in zip(rows, cells_run):
        layers = read_record(tmp_path / "grid" / "runs" / cell)["student"]["layers"]
        assert row[0].endswith(f" ({','.join(map(str, layers))})")


# ---- Report ----


def table(markdown, first_column):
    """Columns and rows of the table whose first column has this name."""
    lines = markdown.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first_column} "))
    lines = itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
    columns, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return columns, rows


def test_the_results_have_a_row_for_the_teacher_and_each_run(finished):
    with open(finished / "results.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["method"] for row in rows] == ["teacher", *(name.split("-")[0] for name in CELLS)]
    for row, name in zip(rows[1:], CELLS, strict=True):
        assert name == f"{row['method']}-{row['strategy']}-{row['seed']}"
        record = read_record(finished / "runs" / name)
        assert float(row["predict_accuracy"]) == record["student"]["results"]["predict_accuracy"]
        assert int(row["trainable_parameters"]) == record["student"]["trainable_parameters"]
    assert json.loads((finished / "results.json").read_text())[1]["strategy"] == "odd"


def test_the_report_has_both_tables_of_the_assignment(finished):
    text = (finished / "report.md").read_text()
    columns, rows = table(text, "Student Layer")
    assert columns == ["Student Layer", "Training Loss", "Validation Loss", "Validation Accuracy"]
    assert [row[0] for row in rows[:3]] == ["Odd (1,3)", "Even (2,4)", "Teacher"]
    accuracies = [100 * results(finished / "runs" / f"distill-odd-{seed}")["eval_accuracy"] for seed in (0, 1)]
    assert rows[0][3].split(" ± ")[0] == f"{sum(accuracies) / 2:.1f}"
    columns, rows = table(text, "Model Type")
    assert columns[:4] == ["Model Type", "Training Loss", "Test Accuracy", "Test Macro-F1"]
    assert [row[0] for row in rows[:4]] == ["Odd, distilled", "Even, distilled", "Even, LoRA", "Teacher"]


def test_the_report_shows_figures_that_exist(finished):
    markdown, page = (finished / "report.md").read_text(), (finished / "report.html").read_text()
    shown = re.findall(r"\]\((figures/\w+\.png)\)", markdown) + re.findall(r"img src='(figures/\w+\.svg)'", page)
    assert len(shown) == 2 * 8
    for path in shown:
        assert (finished / path).stat().st_size > 5000
    assert "<table>" in page and "Even, LoRA" in page


def test_without_a_labelled_test_split_the_report_is_on_validation(arguments, same_teacher, tmp_path, cells_run):
    position = arguments.index("--test_file")
    arguments = [*arguments[:position], *arguments[position + 2 :], *same_teacher]
    grid = ["--strategies", "odd", "--methods", "distill", "--seeds", 0]
    run_here(*arguments, *grid, "--output_dir", tmp_path / "grid")
    text = (tmp_path / "grid" / "report.md").read_text()
    assert {"Validation Accuracy", "Validation Macro-F1"} <= set(table(text, "Model Type")[0])
    assert "18 examples" in text


def test_the_identity_bias_of_every_run_is_in_the_report_in_its_folder_and_in_its_model_card(finished):
    _, rows = table((finished / "report.md").read_text(), "Identity")
    assert [row[0] for row in rows] == ["garden", "song"]
    folder = finished / "runs" / "distill-odd-0"
    texts, labels = zip(*sentences(500), strict=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    classify = pipeline("text-classification", str(folder), tokenizer=tokenizer, top_k=None)
    probabilities = [
        {answer["label"]: answer["score"] for answer in answers}["bad"] for answers in classify(list(texts))
    ]
    chosen = [i for i, text in enumerate(texts) if ("song" in text) != (labels[i] == "bad")]
    bpsn = roc_auc_score([labels[i] == "bad" for i in chosen], [probabilities[i] for i in chosen])
    (model,) = json.loads((folder / "identity_bias.json").read_text())["models"]
    by_identity = {row["identity"]: row for row in model["identities"]}
    assert by_identity["song"]["bpsn_auc"]["estimate"] == pytest.approx(bpsn, abs=1e-3)
    assert "identities.csv" in ModelCard.load(folder / "README.md").text.partition("## Identity bias")[2]


# ---- Again, interrupted, failed ----


def test_adapters_alone_are_compared_too(copied, arguments):
    grid = ["--strategies", "even", "--methods", "lora", "--seeds", 0, 1]
    run_here(*arguments, *grid, "--output_dir", copied)
    _, rows = table((copied / "report.md").read_text(), "Model Type")
    assert [row[0] for row in rows] == ["Even, LoRA", "Teacher"]
    assert (copied / "figures" / "similarity.svg").is_file()


def test_finished_runs_are_kept_and_new_seeds_added(copied, arguments, cells_run, monkeypatch):
    def disk_is_full(*_):
        raise OSError("No space left on device")

    before = tree(copied)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(run_comparison, "write_document", disk_is_full)  # the last file of the report
        run_here(*arguments, *GRID, "--output_dir", copied)
    assert cells_run == []
    assert before.items() <= tree(copied).items()
    half_written = copied / f"{HALF_WRITTEN}by-a-process-that-was-killed"
    half_written.mkdir()
    run_here(*arguments, "--strategies", "odd", "--methods", "distill", "--seeds", 1, 2, "--output_dir", copied)
    assert cells_run == ["distill-odd-2"] and not half_written.exists()
    predicted = {file.stem for file in (copied / "predictions").iterdir()}
    assert predicted == {"teacher", "distill-odd-1", "distill-odd-2"}
    assert [row["seed"] for row in json.loads((copied / "results.json").read_text())[1:]] == [1, 2]
    assert read_record(copied)["settings"]["seeds"] == ["1", "2"]


def test_a_full_disk_leaves_the_finished_runs_and_the_report(finished, arguments, small_disk, capsys, caplog):
    folder = Path(shutil.copytree(finished, small_disk / "grid"))
    before = tree(folder)
    one_more = [*arguments, "--strategies", "odd", "--methods", "distill", "--seeds", 0, 1, 2, "--output_dir", folder]
    # With 3 MB there is room for the report but not for the student.
    for megabytes_left, error in ((0, OSError), (3, SystemExit)):
        fill(small_disk, megabytes_left)
        with pytest.raises(error):
            run_here(*one_more)
        runs = {path: content for path, content in before.items() if megabytes_left == 0 or "runs" in path.parts}
        assert runs.items() <= tree(folder).items()
    assert "distill-odd-2 failed: the disk is full" in capsys.readouterr().err
    assert not any(record.exc_info for record in caplog.records)
    empty(small_disk)
    assert len(run_here(*one_more).runs) == 3


def test_a_finished_run_with_other_settings_is_not_mixed_in(copied, arguments, cells_run):
    before = tree(copied)
    with pytest.raises(UserError, match="distill-odd-0 .*settings"):
        run_here(*arguments, *GRID, "--learning_rate", 1e-5, "--output_dir", copied)
    run_here(*arguments, *GRID, "--lora_r", 16, "--strategies", "odd", "--methods", "distill", "--output_dir", copied)
    assert cells_run == [], "LoRA's settings change nothing for the other methods"
    assert {path: content for path, content in tree(copied).items() if "runs" in path.parts} == {
        path: content for path, content in before.items() if "runs" in path.parts
    }


def test_a_run_on_a_test_file_that_has_changed_is_not_mixed_in(copied, arguments, cells_run):
    """Its predictions would be taken for those of other examples."""
    file = Path(arguments[arguments.index("--test_file") + 1])
    content = file.read_text()
    header, *rows = content.splitlines(keepends=True)
    file.write_text("".join([header, *rows[::-1]]))
    try:
        with pytest.raises(UserError, match="distill-odd-0 .*data"):
            run_here(*arguments, *GRID, "--output_dir", copied)
    finally:
        file.write_text(content)
    assert cells_run == []


def test_the_student_of_a_single_run_is_not_replaced(copied, arguments, cells_run):
    student = copied / "runs" / "lora-even-0"
    before = tree(student)
    with pytest.raises(UserError, match=f"--output_dir {student}"):
        run_here(*arguments, *GRID, "--output_dir", student)
    assert tree(student) == before
    (student / "distillation.json").rename(student / UNFINISHED_RECORD_FILE)
    with pytest.raises(UserError, match=f"--output_dir {student}"):
        run_here(*arguments, *GRID, "--output_dir", student)


def test_students_of_another_teacher_are_not_mixed_in(copied, arguments, cells_run):
    record = read_record(copied / "runs" / "distill-even-0")
    record["teacher"]["fingerprint"] = "of another"
    (copied / "runs" / "distill-even-0" / "distillation.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="distill-even-0 .*teacher"):
        run_here(*arguments, *GRID, "--output_dir", copied)
    assert cells_run == []


def test_an_interrupted_grid_continues_from_the_checkpoint_of_its_cell(
    finished, copied, arguments, cells_run, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    shutil.rmtree(copied / "runs")
    grid = [*arguments, "--save_strategy", "epoch", "--strategies", "even", "--methods", "distill", "--seeds", 0]
    grid += ["--output_dir", copied]
    save_checkpoint = training_run.DistillationTrainer.save_model

    def interrupted(trainer, folder=None, **kwargs):
        if folder and folder.endswith("distill-even-0/checkpoint-10"):
            raise KeyboardInterrupt
        save_checkpoint(trainer, folder, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training_run.DistillationTrainer, "save_model", interrupted)
        run_here(*grid)
    run_here(*grid)
    assert cells_run == ["distill-even-0", "distill-even-0"]
    assert caplog.text.count("distill-even-0 was begun by a process that has ended") == 1
    assert re.findall(r"continued from .*/(.*/checkpoint-\d+)", caplog.text) == ["distill-even-0/checkpoint-5"]
    assert weights(copied / "runs" / "distill-even-0") == weights(finished / "runs" / "distill-even-0")
    assert not list(copied.rglob("checkpoint-*")), "a finished student needs none"


def test_a_failed_cell_is_reported_and_the_others_go_on(copied, arguments, cells_run, capsys):
    for name in CELLS[:2]:
        shutil.rmtree(copied / "runs" / name)
    (copied / "runs" / CELLS[0]).write_text("in the way")
    with pytest.raises(SystemExit) as error:
        run_here(*arguments, *GRID, "--output_dir", copied)
    assert error.value.code == 1
    assert cells_run == CELLS[1:2]
    assert re.search(r"error: the run distill-odd-0 failed: \w+: .*distill-odd-0", capsys.readouterr().err)
    report = (copied / "report.md").read_text()
    assert "- distill-odd-0: " in report
    assert [row[0] for row in table(report, "Student Layer")[1]] == ["Even (2,4)", "Odd (1,3)", "Teacher"]
    (copied / "runs" / CELLS[0]).unlink()
    run_here(*arguments, *GRID, "--output_dir", copied)
    assert cells_run == [CELLS[1], CELLS[0]]
    assert "distill-odd-0: " not in (copied / "report.md").read_text()


def test_runs_that_have_diverged_are_failed_ones(arguments, same_teacher, tmp_path):
    methods = ["--strategies", "odd", "--methods", "distill", "lora", "--seeds", 0]
    options = [*methods, "--lora_learning_rate", 1e30, "--output_dir", tmp_path / "grid"]
    with pytest.raises(SystemExit):
        run_here(*arguments, *same_teacher, *options)
    report = (tmp_path / "grid" / "report.md").read_text()
    assert "- lora-odd-0: The student has learned nothing" in report
    assert [row[0] for row in table(report, "Student Layer")[1]] == ["Odd (1,3)", "Teacher"]


def test_the_layers_of_the_next_method_are_reported_where_all_runs_of_the_first_failed(copied, arguments, cells_run):
    for seed in (0, 1):
        shutil.rmtree(copied / "runs" / f"distill-even-{seed}")
        (copied / "runs" / f"distill-even-{seed}").write_text("in the way")
    grid = ["--strategies", "even", "--methods", "distill", "lora", "--seeds", 0, 1]
    with pytest.raises(SystemExit):
        run_here(*arguments, *grid, "--output_dir", copied)
    report = (copied / "report.md").read_text()
    assert [row[0] for row in table(report, "Student Layer")[1]] == ["Even (2,4)", "Teacher"]
    assert "Training method: LoRA." in report


def test_a_dry_run_prints_the_plan_with_its_time_and_writes_nothing(arguments, copied, tmp_path, capsys):
    run_here(*arguments, *GRID, "--dry_run", "--output_dir", tmp_path / "new")
    plan = capsys.readouterr().out
    assert all(f"| {name} " in plan for name in CELLS)
    assert "6 of 6 runs" in plan
    assert not (tmp_path / "new").exists()

    shutil.rmtree(copied / "runs" / CELLS[0])
    before = tree(copied)
    run_here(*arguments, *GRID, "--dry_run", "--output_dir", copied)
    plan = capsys.readouterr().out
    assert plan.count("| finished |") == 5
    assert "1 of 6 runs" in plan
    assert tree(copied) == before


def test_a_dry_run_tries_the_rival_itself(arguments, make_teacher, tmp_path, capsys, monkeypatch):
    depths = []

    class Noting(DistillationTrainer):
        def train(self):
            depths.append(self.model.config.num_hidden_layers)
            return super().train()

    monkeypatch.setattr("comparison.time_estimate.DistillationTrainer", Noting)
    rival = make_teacher(["bad", "good"], encoder_only=True)
    grid = [*GRID, "--methods", "distill", "rival", "--rival_name_or_path", rival, "--num_student_layers", 2]
    run_here(*arguments, *grid, "--dry_run", "--output_dir", tmp_path / "new")
    assert depths == [2, 4] and "| rival-0 " in capsys.readouterr().out


def test_the_starting_teacher_takes_no_memory_while_cells_run(arguments, same_teacher, tmp_path, monkeypatch):
    started = []
    prepare = run_comparison.prepare_teacher

    def prepare_and_note(start, *args):
        started.append(weakref.ref(start.model))
        return prepare(start, *args)

    def run_nothing(*args):
        gc.collect()
        started.append(started[0]())

    monkeypatch.setattr(run_comparison, "prepare_teacher", prepare_and_note)
    monkeypatch.setattr(run_comparison, "run_grid", run_nothing)
    run_here(*arguments, *GRID, "--output_dir", tmp_path / "new")
    assert len(started) == 2 and started[1] is None


# ---- Several processes ----


@pytest.fixture
def noted(monkeypatch, tmp_path):
    """The steps that all processes forked from this one have gone through; they draw no figures."""
    file = tmp_path / "steps"

    def note(module, name, text):
        original = getattr(module, name)

        def noting(*args, **kwargs):
            with open(file, "a") as stream:
                stream.write(text(*args) + "\n")
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, noting)

    note(comparison_grid, "run_cell", lambda plan, *_: plan.cell.name)
    note(training_run.DistillationTrainer, "train", lambda *_, **__: "training")
    note(teacher_outputs, "_store_logits", lambda *_: "stored outputs")
    note(training_teacher, "_scores", lambda *_: "scores of the teacher")
    note(run_comparison, "report", lambda *_: "report")
    monkeypatch.setattr(run_comparison, "draw_figures", lambda *_: {})
    return lambda: sorted(file.read_text().splitlines())


def test_processes_share_a_grid_its_teacher_and_the_stored_outputs(finished, arguments, noted, tmp_path):
    folder = tmp_path / "grid"
    processes = [FORK.Process(target=run_here, args=(*arguments, *GRID, "--output_dir", folder)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    trainings = ["training"] * (1 + len(CELLS))
    assert noted() == sorted([*CELLS, *trainings, "stored outputs", "scores of the teacher", "report"])
    for name in CELLS[:2]:
        assert weights(folder / "runs" / name) == weights(finished / "runs" / name)
    assert (folder / "report.md").is_file()


def test_a_killed_process_loses_its_cell_only(copied, arguments, cells_run):
    for name in CELLS[:3]:
        shutil.rmtree(copied / "runs" / name)
    lock = copied / "runs" / CELLS[0] / LOCK_FILE
    lock.parent.mkdir()
    code = "import sys, time; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire(); "
    code += "print(flush=True); time.sleep(99)"
    other = subprocess.Popen([sys.executable, "-c", code, lock], stdout=subprocess.PIPE)
    other.stdout.readline()

    def kill_when_alone():
        while len(cells_run) < 2:
            time.sleep(0.1)
        other.kill()

    thread = threading.Thread(target=kill_when_alone)
    thread.start()
    assert run_here(*arguments, *GRID, "--output_dir", copied) is not None
    thread.join()
    assert cells_run == [CELLS[1], CELLS[2], CELLS[0]]


def test_the_report_is_left_to_the_process_that_waits_for_the_last_cell(copied, arguments, cells_run):
    shutil.rmtree(copied / "runs" / CELLS[0])
    (copied / "report.md").unlink()
    with share_grid(copied) as other:
        assert other.waits_for_the_end()
        assert run_here(*arguments, *GRID, "--output_dir", copied) is None
    assert cells_run == CELLS[:1]
    assert not (copied / "report.md").exists()


@pytest.mark.slow
def test_workers_share_the_cells_and_the_command_reports(finished, arguments, tmp_path):
    folder = tmp_path / "grid"
    run = run_process(run_comparison.__file__, *arguments, *GRID, "--output_dir", folder, "--num_workers", 2)
    assert run.returncode == 0, run.stderr
    (log_of_worker,) = folder.glob("worker-*-2.log")
    cells = [log.count("Parameters: teacher") for log in (run.stderr, log_of_worker.read_text())]
    assert sum(cells) == len(CELLS) and cells[0] > 0
    assert run.stdout.count("# Comparison on ") == 1 and "A worker ended" not in run.stderr
    assert weights(folder / "runs" / CELLS[0]) == weights(finished / "runs" / CELLS[0])


# ---- Bad input ----


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--num_student_layers", 3], "odd .*3.*uniform"),
        (["--lora_target_modules", "q_lin"], "'q_lin'"),
        (["--methods", "distil"], "--methods .*distil"),
        (["--push_to_hub"], "--push_to_hub"),
    ],
)
def test_what_no_cell_could_do_is_refused_before_anything_is_written(arguments, tmp_path, wrong, message):
    with pytest.raises(UserError, match=message):
        run_here(*arguments, *GRID, *wrong, "--output_dir", tmp_path / "grid")
    assert not (tmp_path / "grid").exists()


def test_training_examples_without_labels_are_refused(teacher, files, tmp_path):
    texts = tmp_path / "texts.csv"
    texts.write_text("text\nhello\nbye\n")
    arguments = ["--teacher_name_or_path", teacher, "--train_file", texts, *files[2:]]
    with pytest.raises(UserError, match="labels"):
        run_here(*arguments, "--output_dir", tmp_path / "grid")
