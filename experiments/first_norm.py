"""What a first layer of ModernBERT loses without its norm, and how best to make up for it.

    python -m experiments.first_norm

ModernBERT's first layer has no norm before its attention, but every other layer has one. A student that begins with
another layer can leave the norm out, fold its weights into the projections, fold all of it as
`layer_distillation.first_norm` does, or keep it as a further norm after that of the embeddings, which also changes
what the layer adds to. The teacher, 6 layers of width 256, is trained on 20,000 sentences of SST-2 from the start: no
pretrained ModernBERT is at hand. Each student is trained for one epoch on 5,000 of them, from labels and teacher.
Losses are on the validation split: at step 0 and after the training. Also compared: `--layers 1,2,6`, the habit of
keeping the first layers and one late layer of global attention. Everything goes to `docs/results/first_norm.csv` and
`.md`.
"""

from collections.abc import Callable
from copy import deepcopy

from torch import nn
from transformers import AutoModelForSequenceClassification, ModernBertConfig, PreTrainedModel, set_seed

from benchmarks.results import ROOT, grouped, write_results
from distill_trainer import DistillationTrainer, DistillationTrainingArguments
from experiments.runs import scaled_spread
from layer_distillation.pretrained import PACKAGED_TEACHER, resolve_checkpoint
from layer_distillation.teacher_outputs import add_teacher_logits
from layer_mapping import build_student, select_layers
from text_data.arguments import DataArguments
from training.arguments import TeacherArguments
from training.evaluation import evaluate_model
from training.inputs import Inputs, load_inputs
from training.tables import markdown_table

FOLDER = ROOT / "outputs" / "first_norm"
NUM_LAYERS = 6
SEEDS = (0, 1, 2)
FOLDED = "folded"


def leave_out(student: PreTrainedModel, norm: nn.LayerNorm, projection: nn.Parameter) -> None:
    """Copies the projections as they are."""
    student.model.layers[0].attn.Wqkv.weight.data.copy_(projection)


def fold_weights(student: PreTrainedModel, norm: nn.LayerNorm, projection: nn.Parameter) -> None:
    """Multiplies the projections by the norm's weights alone."""
    student.model.layers[0].attn.Wqkv.weight.data.copy_(projection * norm.weight)


def keep(student: PreTrainedModel, norm: nn.LayerNorm, projection: nn.Parameter) -> None:
    """Puts the norm behind that of the embeddings."""
    leave_out(student, norm, projection)
    student.model.embeddings.norm = nn.Sequential(student.model.embeddings.norm, deepcopy(norm))


CHANGES: dict[str, Callable | None] = {
    FOLDED: None,
    "weights folded": fold_weights,
    "left out": leave_out,
    "kept": keep,
}


def main():
    inputs = load_inputs(
        resolve_checkpoint(PACKAGED_TEACHER),
        TeacherArguments(),
        DataArguments(task_name="sst2", max_train_samples=20_000),
        arguments("data"),
    )
    teacher = trained_teacher(inputs)
    train = inputs.tokenized["train"].select(range(5_000))
    train = add_teacher_logits(train, teacher, FOLDER / "outputs", inputs.collator)
    students = [("odd", None, ""), ("top", None, ""), ("1,2,6", None, "")]
    students += [(strategy, change, name) for strategy in ("even", "bottom") for name, change in CHANGES.items()]
    of_teacher = scores(teacher, inputs, arguments("teacher_run"))
    rows = [{"layers": "all, the teacher", "norm": "", "seed": "", **with_ending(of_teacher, "_before"), **of_teacher}]
    rows += [row_of(teacher, inputs, train, *student, seed) for student in students for seed in SEEDS]
    write_results("first_norm", rows, table(rows))


def arguments(name: str, **settings) -> DistillationTrainingArguments:
    return DistillationTrainingArguments(
        output_dir=str(FOLDER / name), report_to="none", save_strategy="no", disable_tqdm=True, **settings
    )


def trained_teacher(inputs: Inputs) -> PreTrainedModel:
    """Returns the teacher, trained once."""
    folder = FOLDER / "teacher"
    if not folder.is_dir():
        set_seed(0)
        config = ModernBertConfig(
            vocab_size=len(inputs.tokenizer),
            hidden_size=256,
            num_hidden_layers=NUM_LAYERS,
            num_attention_heads=4,
            intermediate_size=384,
            local_attention=16,
            pad_token_id=inputs.tokenizer.pad_token_id,
            cls_token_id=inputs.tokenizer.cls_token_id,
            sep_token_id=inputs.tokenizer.sep_token_id,
            id2label=inputs.data.labels.id2label,
            label2id=inputs.data.labels.label2id,
            problem_type=inputs.data.labels.problem_type,
        )
        model = AutoModelForSequenceClassification.from_config(config)
        args = arguments("teacher_run", num_train_epochs=3, learning_rate=5e-4, ce_weight=1.0, kl_weight=0.0)
        trained_on(inputs.tokenized["train"], model, inputs, args)
        model.save_pretrained(folder)
    return AutoModelForSequenceClassification.from_pretrained(folder)


def trained_on(train, model: PreTrainedModel, inputs: Inputs, args: DistillationTrainingArguments) -> None:
    DistillationTrainer(
        model=model, args=args, train_dataset=train, data_collator=inputs.collator, processing_class=inputs.tokenizer
    ).train()


def row_of(
    teacher: PreTrainedModel, inputs: Inputs, train, layers: str, change: Callable | None, name: str, seed: int
) -> dict:
    """Trains a student and returns its losses and its accuracy on the validation split."""
    numbers = (1, 2, 6) if "," in layers else select_layers(layers, NUM_LAYERS)
    student = build_student(teacher, numbers)
    if change is not None:
        source = teacher.model.layers[numbers[0] - 1]
        change(student, source.attn_norm, source.attn.Wqkv.weight.data)
    args = arguments("student_run", num_train_epochs=1, seed=seed)
    before = with_ending(scores(student, inputs, args), "_before")
    set_seed(seed)
    trained_on(train, student, inputs, args)
    return {"layers": layers, "norm": name, "seed": seed, **before, **scores(student, inputs, args)}


def scores(model: PreTrainedModel, inputs: Inputs, args: DistillationTrainingArguments) -> dict[str, float]:
    """Returns loss and accuracy on the validation split."""
    metrics = evaluate_model(model.eval(), inputs, ("validation",), "eval", args)
    return {name: metrics[name] for name in ("eval_loss", "eval_accuracy")}


def with_ending(metrics: dict[str, float], ending: str) -> dict[str, float]:
    return {f"{name}{ending}": value for name, value in metrics.items()}


def table(rows: list[dict]) -> str:
    """Returns means and standard deviations over the seeds."""
    groups = grouped(rows, key=lambda row: (row["layers"], row["norm"]))
    return markdown_table(
        [
            {
                "Layers": layers,
                "Norm of the first layer": norm,
                "Validation loss at step 0": f"{members[0]['eval_loss_before']:.3f}",
                "Accuracy at step 0 (%)": f"{100 * members[0]['eval_accuracy_before']:.1f}",
                "Validation loss": scaled_spread([row["eval_loss"] for row in members], 1),
                "Validation accuracy (%)": scaled_spread([row["eval_accuracy"] for row in members], 100),
            }
            for (layers, norm), members in groups.items()
        ]
    )


if __name__ == "__main__":
    main()
