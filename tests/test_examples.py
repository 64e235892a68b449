"""The training scripts in `examples/` that are written for `Trainer` and changed to distil: in few lines."""

import math
from pathlib import Path

import pytest
import torch

from examples import classification_script, notebook_style, own_model_class
from layer_distillation.fingerprints import fingerprint_model
from tests.script_runs import sentences, write_csv

SCRIPTS = (classification_script, notebook_style, own_model_class)
MACHINE = {"bf16": False, "use_cpu": True, "report_to": "none", "disable_tqdm": True}

pytestmark = pytest.mark.usefixtures("script_caches")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for number, split in enumerate(("train", "validation", "test")):
        write_csv(folder / f"{split}.csv", sentences(48, 48 * number))
    return folder


@pytest.fixture(scope="module")
def teacher(make_teacher):
    return make_teacher(["bad", "good"])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_at_most_ten_lines_are_changed(script):
    changed = [line for line in Path(script.__file__).read_text().splitlines() if line.endswith("  # distil")]
    assert 4 <= len(changed) <= 10
    assert any("DistillationTrainer(" in line for line in changed) and any(
        "teacher_model=" in line for line in changed
    )


def test_classification_script_distils_and_continues_from_its_checkpoint(data, teacher, tmp_path):
    def run(steps):
        options = {
            "model_name_or_path": teacher,
            "train_file": data / "train.csv",
            "validation_file": data / "validation.csv",
            "output_dir": tmp_path,
            "max_steps": steps,
            "save_steps": 1,
            **MACHINE,
        }
        words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        return classification_script.main([*words, "--do_train", "--do_eval"])

    run(1)
    metrics = run(2)
    assert (tmp_path / "checkpoint-2").is_dir() and (tmp_path / "model.safetensors").is_file()
    assert metrics["train_loss_kl"] > 0 and math.isfinite(metrics["eval_loss"])


def test_notebook_stops_early_and_ends_with_its_best_checkpoint(data, teacher, tmp_path):
    trainer, predictions = notebook_style.main(teacher, str(tmp_path), data, learning_rate=0.0, **MACHINE)
    assert trainer.state.epoch == 3  # without progress, two epochs after the first
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-3")
    assert predictions.metrics["test_f1"] == pytest.approx(trainer.state.best_metric, abs=0.5)


def test_own_model_class_learns_from_its_own_loss_and_the_teacher(data, teacher, tmp_path):
    before = fingerprint_model(own_model_class.MeanPooledClassifier(teacher, 2, [1.0, 2.0]).encoder)
    trainer = own_model_class.main(teacher, str(tmp_path), data, max_steps=2, logging_steps=1, **MACHINE)
    first = trainer.state.log_history[0]
    assert first["loss"] == pytest.approx(0.5 * first["loss_ce"] + 0.5 * first["loss_kl"])
    batch = trainer.data_collator([trainer.eval_dataset[i] for i in range(48)])
    batch.pop("token_type_ids", None)
    with torch.no_grad():
        logits = trainer.model.eval()(**batch)["logits"]
    weighted = torch.nn.functional.cross_entropy(logits, batch["labels"], weight=torch.tensor([1.0, 2.0]))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(weighted.item(), rel=1e-4)
    assert fingerprint_model(trainer.model.encoder) != before
