"""Tests of the grid: which cells a grid has, and what a cell takes from the grid."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from comparison.arguments import Cell, ComparisonArguments, plan_cells
from comparison.grid import DECIDED_BY_GRID, Grid, plan_cell, use_one_device
from comparison.methods import DEFAULT_METHODS
from comparison.sharing import share_grid, worker_environment, workers
from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.atomic_files import locked
from lora_adapters.arguments import LoraArguments
from text_data.arguments import DataArguments
from training.arguments import TeacherArguments
from training.command_line import Settings, parse_arguments
from training.run import num_steps

ROOT = Path(__file__).resolve().parent.parent
# Those at full depth and of all tweets serve one study each.
STUDIES = ("compare_full_depth_mnli", "compare_full_depth_sst2", "compare_full_depth_tweets", "compare_tweets")
EXAMPLES = [file for file in sorted((ROOT / "examples").glob("compare_*.json")) if file.stem not in STUDIES]
GRIDS = [*EXAMPLES, ROOT / "defaults" / "run_comparison.json"]


def names(**arguments):
    return [cell.name for cell in plan_cells(ComparisonArguments(**arguments))]


def test_the_first_method_has_every_strategy_and_the_others_those_that_are_asked_for():
    cells = names(strategies=["top", "even"], methods=["distill", "lora"], method_strategies=["even"], seeds=["7"])
    assert cells == ["distill-top-7", "distill-even-7", "lora-even-7"]


def test_seeds_come_one_after_another_so_that_half_a_grid_can_be_compared():
    cells = names(strategies=["odd", "even"], methods=["distill"], seeds=["0", "1"])
    assert cells == ["distill-odd-0", "distill-even-0", "distill-odd-1", "distill-even-1"]


def test_lora_is_never_put_on_fresh_weights():
    cells = names(strategies=["odd", "random"], methods=["finetune", "lora", "lora_distill"], seeds=["0"])
    assert cells == ["finetune-odd-0", "finetune-random-0", "lora-odd-0", "lora_distill-odd-0"]


def test_baselines_without_strategies_run_once_for_each_seed_and_the_classical_ones_once():
    methods = ["distill", "rival", "tfidf", "pretrained"]
    cells = names(strategies=["odd", "random"], methods=methods, seeds=["3", "4"], rival_name_or_path="small")
    assert cells[:5] == ["distill-odd-3", "distill-random-3", "rival-3", "tfidf-3", "pretrained-odd-3"]
    assert cells[5:] == ["distill-odd-4", "distill-random-4", "rival-4", "pretrained-odd-4"]


def test_a_strategy_is_not_compared_with_itself_under_another_name():
    assert names(strategies=["first", "top", "last"], methods=["distill"], seeds=["0"]) == names(
        strategies=["top", "bottom"], methods=["distill"], seeds=["0"]
    )


def test_lists_may_be_separated_by_commas_as_argument_files_do():
    assert names(strategies=["odd,even"], methods=['["distill"]'], seeds=["0,1", "1"]) == names(
        strategies=["odd", "even"], methods=["distill"], seeds=["0", "1"]
    )


def test_a_seed_that_is_written_in_two_ways_is_one_run():
    assert names(strategies=["odd"], methods=["distill", "tfidf"], seeds=["01", "1"]) == ["distill-odd-1", "tfidf-1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategies": ["middle"]}, "strategies.* middle"),
        ({"methods": ["distil"]}, "methods.* distil"),
        ({"methods": []}, "methods.* none"),
        ({"method_strategies": ["top", "x"]}, "method_strategies.* top x"),
        ({"seeds": ["0", "-1"]}, "seeds.*0 -1"),
        ({"methods": ["lora"], "strategies": ["random"]}, "random"),
        ({"lora_learning_rate": 0}, "lora_learning_rate.* 0"),
        ({"methods": ["tfidf", "distill"]}, "methods.*tfidf"),
        ({"methods": ["distill", "rival"]}, "rival_name_or_path"),
        ({"rival_name_or_path": "small"}, "rival_name_or_path"),
        ({"num_workers": 0}, "num_workers.*0"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ComparisonArguments(**arguments)


# ---- What a cell takes from the grid ----


@pytest.fixture
def grid(tmp_path):
    args = DistillationTrainingArguments(
        str(tmp_path), ce_weight=0.3, kl_weight=0.7, learning_rate=2e-4, use_cpu=True, bf16=False
    )
    comparison_args = ComparisonArguments(lora_learning_rate=1e-3, num_student_layers=2)
    sources = {"kl_weight": "file", "lora_r": "command line", "seeds": "command line", "output_dir": "file"}
    teacher_args, data_args, lora_args = TeacherArguments(), DataArguments(), LoraArguments()
    return Grid(
        settings=Settings((teacher_args, data_args, lora_args, comparison_args, args), sources, "python"),
        teacher_args=teacher_args,
        data_args=data_args,
        lora_args=lora_args,
        comparison_args=comparison_args,
        training_args=args,
        inputs=None,
        weights={},
    )


@pytest.mark.parametrize(
    ("method", "weights", "learning_rate"),
    [
        ("distill", (0.3, 0.7), 2e-4),
        ("finetune", (1.0, 0.0), 2e-4),
        ("lora", (1.0, 0.0), 1e-3),
        ("lora_distill", (0.3, 0.7), 1e-3),
    ],
)
def test_a_method_decides_weights_learning_rate_and_adapters(grid, method, weights, learning_rate):
    plan = plan_cell(Cell(method, "odd", 5), grid)
    args = plan.training_args
    assert ((args.ce_weight, args.kl_weight), args.learning_rate, args.seed) == (weights, learning_rate, 5)
    assert (plan.lora_args is not None) == method.startswith("lora")
    assert (plan.student_args.layer_strategy, plan.student_args.num_student_layers) == ("odd", 2)
    assert plan.folder == grid.folder / "runs" / f"{method}-odd-5"
    assert (grid.training_args.ce_weight, grid.training_args.seed) == (0.3, 42), "the grid's own are left alone"


def test_settings_of_a_cell_are_those_that_change_what_it_makes(grid):
    distill, lora = (set(plan_cell(Cell(method, "odd", 5), grid).settings.sources) for method in ("distill", "lora"))
    assert distill == {*DECIDED_BY_GRID, "output_dir"}, "of which the record leaves the last one out"
    assert lora == distill | {"lora_r"}


def test_a_budget_for_the_search_is_a_setting_of_the_cells_that_search(grid):
    grid.settings.sources["search_budget"] = "command line"
    assert "search_budget" in plan_cell(Cell("distill", "search", 5), grid).settings.sources
    assert "search_budget" not in plan_cell(Cell("distill", "odd", 5), grid).settings.sources


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ({"num_train_epochs": 3}, 3 * 4),
        ({"num_train_epochs": 2.5}, 10),
        ({"gradient_accumulation_steps": 3, "num_train_epochs": 2}, 4),
        ({"world_size": 3, "num_train_epochs": 2}, 4),
        ({"dataloader_drop_last": True, "world_size": 2, "num_train_epochs": 3}, 3),
        ({"max_steps": 7}, 7),
    ],
)
def test_steps_are_counted_as_the_trainer_does(arguments, steps):
    settings = {"num_train_epochs": 1, "max_steps": -1, "gradient_accumulation_steps": 1, "train_batch_size": 8}
    settings |= {"world_size": 1, "dataloader_drop_last": False} | arguments
    assert num_steps(SimpleNamespace(**settings), num_examples=30) == steps


@pytest.mark.parametrize("file", GRIDS, ids=lambda file: file.stem)
def test_the_argument_files_that_come_with_the_project_are_grids_of_both_tables(file):
    types = (TeacherArguments, DataArguments, LoraArguments, ComparisonArguments, DistillationTrainingArguments)
    _, _, _, comparison_args, _ = parse_arguments(types, [str(file)], file).arguments
    groups = {cell.group for cell in plan_cells(comparison_args)}
    assert {("distill", strategy) for strategy in ("top", "bottom", "odd", "even", "random")} <= groups
    assert {(method, "odd") for method in DEFAULT_METHODS} <= groups
    assert len(comparison_args.seeds) >= 3


# ---- Workers ----


def test_workers_share_the_threads_and_each_has_a_gpu(monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "CUDA_VISIBLE_DEVICES" not in worker_environment(0, 3)
    assert [worker_environment(0, number)["OMP_NUM_THREADS"] for number in (2, 3, 16)] == ["4", "2", "1"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-7")
    assert [worker_environment(i, 3)["CUDA_VISIBLE_DEVICES"] for i in range(3)] == ["3", "GPU-7", "3"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [worker_environment(i, 2)["CUDA_VISIBLE_DEVICES"] for i in range(2)] == ["0", "1"]


def test_a_cell_that_failed_before_this_start_is_tried_again(tmp_path):
    failed, tried_again = Cell("distill", "odd", 0), Cell("distill", "even", 0)
    with share_grid(tmp_path) as earlier:
        earlier.note_failure(tried_again, "ValueError: once")
    with share_grid(tmp_path) as one, share_grid(tmp_path) as other:
        one.note_failure(failed, "OSError: disk full")
        assert [other.failure_of(cell) for cell in (failed, tried_again)] == ["OSError: disk full", None]
        one.note_failure(failed, None)
        assert other.failure_of(failed) is None


def test_a_worker_does_not_try_again_what_failed_before_it_was_ready(tmp_path):
    script, cell = tmp_path / "script.py", Cell("distill", "odd", 0)
    script.write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from comparison.arguments import Cell\n"
        "from comparison.sharing import share_grid\n"
        "folder = Path(sys.argv[1])\n"
        "while not list(folder.glob('failures/*')):\n"
        "    time.sleep(0.01)\n"
        "with share_grid(folder) as share:\n"
        "    (folder / 'answer').write_text(str(share.failure_of(Cell('distill', 'odd', 0))))\n"
    )
    with share_grid(tmp_path) as share, workers(2, script, [str(tmp_path)], share):
        share.note_failure(cell, "OSError: disk full")
    assert (tmp_path / "answer").read_text() == "OSError: disk full"


def test_a_cell_uses_one_gpu_of_several(tmp_path):
    args = DistillationTrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=8, use_cpu=True)
    args._n_gpu = 4 if args.n_gpu == 0 else args.n_gpu  # as where four are visible
    use_one_device(args)
    assert args.derived(seed=1).train_batch_size == 8


def test_workers_finish_what_they_do_and_a_killed_one_is_told(tmp_path, caplog):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, pathlib, signal, sys, time\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "try:\n"
        "    (folder / 'first').touch(exist_ok=False)\n"
        "except FileExistsError:\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "time.sleep(0.3)\n"
        "(folder / 'done').touch()\n"
    )
    with share_grid(tmp_path) as share, workers(3, script, [str(tmp_path)], share) as helpers:
        assert helpers.are_working()
    assert sorted(file.name[-6:] for file in tmp_path.glob("worker-*.log")) == ["-2.log", "-3.log"]
    assert (tmp_path / "done").exists() and not helpers.are_working()
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "SIGKILL" in message and "worker-" in message


def test_an_error_ends_the_workers(tmp_path, caplog):
    script, threads = tmp_path / "script.py", torch.get_num_threads()
    script.write_text("import time; time.sleep(99)")
    with (
        pytest.raises(KeyboardInterrupt),
        share_grid(tmp_path) as share,
        workers(2, script, [], share) as helpers,
    ):
        raise KeyboardInterrupt
    assert not helpers.are_working() and "ended" not in caplog.text
    assert torch.get_num_threads() == threads


def test_the_process_that_starts_workers_keeps_its_share_of_the_threads(tmp_path):
    script, before = tmp_path / "script.py", torch.get_num_threads()
    script.write_text("")
    torch.set_num_threads(4)
    try:
        with share_grid(tmp_path) as share:
            with workers(2, script, [], share):
                assert torch.get_num_threads() == 2
            with workers(1, script, [], share):
                assert torch.get_num_threads() == 4
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_the_file_of_a_lock_stays_or_two_could_hold_it(tmp_path):
    file = tmp_path / ".lock"
    with locked(file):
        inode = file.stat().st_ino
    assert file.stat().st_ino == inode
