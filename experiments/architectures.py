"""Which students, adapters and exports are right, for every type of sequence classifier that transformers has.

    python -m experiments.architectures               # every type
    python -m experiments.architectures gpt2 llama    # these types again

Each type has tiny classifiers in which all parameters are random (`experiments/tiny_classifiers.py`). For each list of
layers, the student's logits are compared with those of the teacher's own forward without the other layers
(`experiments/kept_layers.py`), in memory and after `save_pretrained` and `from_pretrained`. If a student is exact,
adapters on the teacher are trained for a step and merged, and a model with every kind of layer is exported. What is
found goes to `docs/results/architectures.csv` and `docs/ARCHITECTURES.md`.
"""

import argparse
import csv
import logging
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import torch
import transformers
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from benchmarks.results import RESULTS, write_results
from experiments.kept_layers import logits_of, logits_of_kept_layers
from experiments.tiny_classifiers import configurations_of, tiny_classifier
from export.checked_export import export_checked_float32
from export.parity import CheckData
from layer_distillation.encoder_layers import find_layer_list, num_layers
from layer_distillation.errors import UserError
from layer_distillation.first_norm import lacks_first_norm
from layer_distillation.layer_structure import structure_of
from layer_distillation.problem_types import SINGLE_LABEL
from layer_distillation.record import library_versions
from layer_distillation.student_config import encoder_config
from layer_mapping import build_student, parse_layers, select_layers
from lora_adapters.adapters import add_lora, coverage, target_modules, within_layer
from lora_adapters.arguments import LoraArguments
from training.tables import markdown_table

NAME = "architectures"
PAGE = RESULTS.parent / "ARCHITECTURES.md"
STRATEGIES = ("odd", "even", "top", "bottom")
LISTS = (*STRATEGIES, "any order")
COLUMNS = ("type", "configuration", *LISTS, "lora", "adapted", "not adapted", "export", "reason", "versions")
LIBRARIES = ("torch", "transformers", "peft", "onnxruntime")
EXACT, CLOSE, REFUSED, NOT_BUILT = "exact", "close", "refused", "not built"
# Whose adapters cannot be judged by their gradients.
WITHOUT_LORA = {
    "lilt": "not measured: no head reads the layout that the last layer computes, so its weights get no gradient",
    "mra": "not measured: without its CUDA kernel attention is zero (findings/transformers_mra_without_kernel.sh)",
}
TOLERANCE = 1e-6  # of the largest logit
EXPORT_TOLERANCE = 1e-4


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", help="types to measure again; by default all")
    types = parser.parse_args().types or sorted(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    for model_type in types:
        measured = [measure(model_type, title) for title in configurations_of(model_type)]
        print(*measured, sep="\n", flush=True)
        # After each type, so that what is broken off can go on with the other types.
        rows = [row for row in read_rows() if row["type"] != model_type] + measured
        rows.sort(key=lambda row: (row["type"], configurations_of(row["type"]).index(row["configuration"])))
        write_results(NAME, rows, f"{table(rows)}\n\n{measured_with(rows)}")
        PAGE.write_text(page(rows))


def read_rows() -> list[dict[str, str]]:
    with open(RESULTS / f"{NAME}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# ---- Measuring ----


def batch(padding_side: str = "right") -> dict[str, torch.Tensor]:
    """Returns three texts of 48, 31 and 17 tokens; no window of attention is as long."""
    attention_mask = (torch.arange(48) < torch.tensor([[48], [31], [17]])).long()
    input_ids = torch.randint(5, 30, (3, 48), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": input_ids * attention_mask, "attention_mask": attention_mask}
    return inputs if padding_side == "right" else {name: tensor.flip(1) for name, tensor in inputs.items()}


def measure(model_type: str, title: str) -> dict[str, str]:
    """Returns a row of the results: what happens for every list of layers, with adapters and in the export."""
    row = dict.fromkeys(COLUMNS, "") | {"type": model_type, "configuration": title}
    row["versions"] = ", ".join(f"{name} {library_versions()[name]}" for name in LIBRARIES)
    try:
        teacher = tiny_classifier(model_type, title)
        if not teacher.config.is_encoder_decoder:
            logits_of(teacher, batch())
    except Exception as error:
        return row | dict.fromkeys(LISTS, NOT_BUILT) | {"reason": first_line(error)}
    exact = []
    for name, layers in lists_of_layers(teacher).items():
        row[name], _, reason = attempt(student_outcome, teacher, layers).partition(": ")
        row["reason"] = row["reason"] or reason
        if row[name] == EXACT:
            exact.append(layers)
    if exact:
        row["lora"] = WITHOUT_LORA.get(model_type) or attempt(lora_outcome, deepcopy(teacher))
        row |= adapters_by_name(teacher)
        row["export"] = attempt(export_outcome, with_every_kind_of_layer(teacher, exact))
    return row


def attempt(measurement: Callable[..., str], *arguments) -> str:
    """Returns what a measurement returns; a crash, whatever its kind, is a result too."""
    try:
        return measurement(*arguments)
    except Exception as error:
        return f"CRASH: {first_line(error)}"


def lists_of_layers(teacher: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    """Returns the lists by name; the depth of a teacher that has no layers to choose from counts as 6."""
    try:
        depth = num_layers(teacher)
    except UserError:
        depth = 6
    return {name: select_layers(name, depth) for name in STRATEGIES} | {"any order": (depth, 1, 3, 2)}


def student_outcome(teacher: PreTrainedModel, layers: tuple[int, ...]) -> str:
    """Returns what a student of these layers is, with the reason if it is refused."""
    try:
        student = build_student(teacher, layers)
    except UserError as error:
        return f"{REFUSED if advice_works(teacher, str(error)) else 'WRONG ADVICE'}: {error}"
    with tempfile.TemporaryDirectory() as folder:
        student.save_pretrained(folder)
        reloaded = type(student).from_pretrained(folder)
    differences = []
    for inputs in (batch("right"), batch("left")):
        expected = logits_of_kept_layers(teacher, layers, inputs)
        differences += [difference(logits_of(model, inputs), expected) for model in (student, reloaded)]
    if all(found <= TOLERANCE for found in differences):  # also false if one is not a number
        return EXACT
    first = teacher.get_submodule(find_layer_list(teacher))[layers[0] - 1]
    return f"{CLOSE if lacks_first_norm(student, first) else 'WRONG'} by {max(differences):.1e}"


def advice_works(teacher: PreTrainedModel, message: str) -> bool:
    """Returns whether every list of layers that a refusal names makes a student."""
    lists = [parse_layers(text) for text in re.findall(r"--layers ([\d,]+\d|\d)", message)]
    for strategy, _, depth in re.findall(r"--layer_strategy (\w+)( --num_student_layers (\d+))?", message):
        lists.append(select_layers(strategy, num_layers(teacher), int(depth) if depth else None))
    try:
        for layers in lists:
            build_student(teacher, layers)
    except UserError:
        return False
    return True


def lora_outcome(student: PreTrainedModel) -> str:
    """Returns the share of the layers' weights that adapters reach, or what is wrong with the adapters."""
    try:
        share, _ = coverage(student, target_modules(student))
    except UserError as error:
        return f"{REFUSED}: {error}"
    model = add_lora(student, LoraArguments(lora_r=2, lora_dropout=0.0))
    adapters = {name: parameter for name, parameter in model.named_parameters() if "lora_" in name}
    with torch.no_grad():
        for name, parameter in adapters.items():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    encoder_config(student.config).use_cache = student.config.use_cache = False
    model.train()(**batch(), labels=torch.tensor([0, 1, 2])).loss.backward()
    idle = [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    if idle:
        return f"WRONG: no gradient for {len(idle)} parameters, {idle[0]}"
    expected = logits_of(model.eval(), batch())
    merged = difference(logits_of(model.merge_and_unload(), batch()), expected)
    return f"{share:.0%}" if merged <= EXPORT_TOLERANCE else f"WRONG by {merged:.1e} when merged"


def adapters_by_name(teacher: PreTrainedModel) -> dict[str, str]:
    """Returns the names within a layer of the matrices with an adapter, and of those without one, with the reason."""
    try:
        targets = target_modules(teacher)
    except UserError:
        targets = []
    names = dict.fromkeys(within_layer(name, find_layer_list(teacher)) for name in targets)
    _, without = coverage(teacher, targets)
    reasons = {reason: [name for name in without if without[name] == reason] for reason in without.values()}
    return {
        "adapted": ", ".join(names),
        "not adapted": "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items()),
    }


def with_every_kind_of_layer(teacher: PreTrainedModel, lists: Sequence[tuple[int, ...]]) -> PreTrainedModel:
    """Returns the first student of these lists of layers that has every kind of layer, or else the teacher."""
    students = (build_student(teacher, layers) for layers in lists)
    return next((student for student in students if kinds_of_layers(student) == kinds_of_layers(teacher)), teacher)


def kinds_of_layers(model: PreTrainedModel) -> set[frozenset]:
    return {frozenset(structure_of(layer).items()) for layer in model.get_submodule(find_layer_list(model))}


def export_outcome(model: PreTrainedModel) -> str:
    """Returns "yes" where run_export.py accepts the ONNX file of a model, otherwise what it says."""
    texts = {name: [row[row != 0].tolist() for row in tensor] for name, tensor in batch().items()}
    data = CheckData({"validation": Dataset.from_dict(texts)}, pad, None, SINGLE_LABEL, (), max_length=48)
    with tempfile.TemporaryDirectory() as folder:
        try:
            export_checked_float32(model, Path(folder) / "model.onnx", data)
        except UserError as error:
            return f"{REFUSED}: {str(error).partition(' The graph is left')[0]}"
    return "yes"


def pad(texts: list[dict]) -> dict[str, torch.Tensor]:
    return {name: pad_sequence([torch.tensor(text[name]) for text in texts], batch_first=True) for name in texts[0]}


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Returns the largest difference of two tables of logits, relative to the largest logit or to 1."""
    return ((found - expected).abs().max() / expected.abs().max().clamp(min=1)).item()


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"


# ---- The page ----


def table(rows: list[dict]) -> str:
    """Returns one line a configuration."""
    return markdown_table(
        [
            {
                "Type": title_of(row),
                **{name: row[name] for name in LISTS},
                "LoRA": row["lora"].split(":")[0],
                "Export": row["export"].split(":")[0],
            }
            for row in rows
        ]
    )


def page(rows: list[dict]) -> str:
    """Returns docs/ARCHITECTURES.md."""
    kinds = Counter(kind_of([row for row in rows if row["type"] == name]) for name in {row["type"] for row in rows})
    wrong = sum(value.startswith(("WRONG", "CRASH")) for row in rows for value in row.values())
    reasons = [
        f"- **{row['type']}**{', ' + row['configuration'] if row['configuration'] else ''}: {reason}"
        for row in rows
        for reason in (row["reason"], *(row[name] for name in ("lora", "export") if ":" in row[name]))
        if reason
    ]
    return f"""# Architectures

Every type of sequence classifier in transformers {transformers.__version__}: {sum(kinds.values())} types in \
{len(rows)} tiny configurations with random weights, in which every kind of layer occurs. {measured_with(rows)}

```bash
python -m experiments.architectures    # writes this page and docs/results/architectures.csv
```

| Types | What happens |
|---|---|
| {kinds["exact"]} | a student of any layers is exact |
| {kinds["some"]} | students are exact or, where the architecture does not allow the layers, refused |
| {kinds["refused"]} | every student is refused |
| {kinds["not built"]} | the teacher itself does not run |

Wrong answers, crashes and pieces of wrong advice, in what was measured: {wrong}.

"Exact" means: the student gives the logits of the teacher's own forward pass in which the other layers pass their \
input on, within {TOLERANCE:g} of the largest logit, in memory and after saving and loading, for a batch of texts of \
48, 31 and 17 tokens, padded on the right and on the left. "Any order" is the list N,1,3,2. "Close" is a first layer \
of ModernBERT, whose norm is folded into its projections.

LoRA shows the share of the numbers in the matrices of the layers that adapters reach by default. Each adapter gets a \
gradient, and merging changes no logit by more than {EXPORT_TOLERANCE:g}. The export is of the first exact student \
that has every kind of layer, or else of the teacher, to ONNX in float32, with the same tolerance.

Where attention is mostly local, the published habit is to keep the first layers and one late layer of global \
attention, in ModernBERT for instance `--layers 1,2,3,7`. With a small ModernBERT it was [level with \
`odd`](RESULTS.md#modernberts-first-layer).

<!-- from architectures -->
{table(rows)}

## What LoRA leaves out

The columns `adapted` and `not adapted` of docs/results/architectures.csv name the matrices of every type.

<!-- from architectures -->
{table_without_adapters(rows)}

## Reasons

{chr(10).join(reasons)}
"""


def measured_with(rows: list[dict]) -> str:
    return f"Measured with {' and '.join(sorted({row['versions'] for row in rows}))}."


def table_without_adapters(rows: list[dict]) -> str:
    """Returns one line for each reason why matrices of a configuration have no adapter."""
    return markdown_table(
        [
            {
                "Type": title_of(row),
                "LoRA": row["lora"].split(":")[0],
                "No adapter": f"`{'`, `'.join(part.partition(': ')[0].split(', '))}`",
                "Why": part.partition(": ")[2],
            }
            for row in rows
            for part in row["not adapted"].split("; ")
            if part
        ]
    )


def title_of(row: Mapping[str, str]) -> str:
    return row["type"] + (f" ({row['configuration']})" if row["configuration"] else "")


def kind_of(rows: list[Mapping[str, str]]) -> str:
    """Returns what happens to the students of a type: "exact", "some" of them, "refused" or "not built"."""
    outcomes = {row[name] for row in rows for name in LISTS}
    if outcomes == {EXACT}:
        return "exact"
    return "some" if EXACT in outcomes else REFUSED if REFUSED in outcomes else NOT_BUILT


if __name__ == "__main__":
    main()
