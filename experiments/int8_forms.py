"""Forms of an int8 model side by side: speed, size and what the gate of the export says, on this processor.

    python -m experiments.int8_forms --model_dir outputs/toxic_comments-odd --data_dir data/toxic_comments

Weights have a sign or none, and a scale for each output channel or one for all. Scales of activations are dynamic (of
each batch, as it runs) or static (of 200 training texts), for what goes into a product or also for what comes out.
Each form classifies the validation split on one thread; the forms take turns, and a ratio is the median over the
rounds. The gate judges a text at a time. The figures go to `docs/results/int8_forms.csv`, which keeps the rows of
other kinds of processors, and to `int8_forms.md`.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from transformers import AutoConfig, AutoTokenizer

from benchmarks.results import RESULTS, write_results
from experiments.known_figures import read_rows
from export.arguments import FLOAT32_FILE
from export.gate import Gate
from export.int8 import QUANTIZED_OPERATORS, WEIGHT_TYPES, processor_name, this_processor
from layer_distillation.problem_types import SINGLE_LABEL
from training.tables import markdown_table

BATCH_SIZES = (1, 32)
PRODUCTS = ("MatMul", "Gemm")
CALIBRATION_TEXTS = 200
NAME = "int8_forms"

Batch = dict[str, np.ndarray]


class Form(NamedTuple):
    """How weights and activations are stored."""

    weights: QuantType
    per_channel: bool
    activations: str

    @property
    def title(self) -> str:
        sign = "signed" if self.weights == QuantType.QInt8 else "unsigned"
        return f"{sign}, {'per channel' if self.per_channel else 'one scale'}, {self.activations}"


DYNAMIC, STATIC_INPUTS, STATIC = "dynamic", "static inputs", "static inputs and outputs"
SIGNS = (QuantType.QInt8, QuantType.QUInt8)
FORMS = [
    *(Form(sign, per_channel, DYNAMIC) for sign in SIGNS for per_channel in (True, False)),
    *(Form(sign, True, kind) for kind in (STATIC_INPUTS, STATIC) for sign in SIGNS),
]


class Calibration(CalibrationDataReader):
    """Texts, one at a time."""

    def __init__(self, batches: Sequence[Batch]):
        self._rest = iter(batches)

    def get_next(self) -> Batch | None:
        return next(self._rest, None)


def main():
    args = parse_arguments()
    export, data = Path(args.model_dir) / "export", Path(args.data_dir)
    label2id = AutoConfig.from_pretrained(export).label2id
    tokenizer = AutoTokenizer.from_pretrained(export)
    texts, labels = read_texts(data / "validation.csv")
    labels = np.array([label2id[label] for label in labels])
    batches = {size: list(tokenized(tokenizer, texts, size)) for size in BATCH_SIZES}
    calibration = list(tokenized(tokenizer, read_texts(data / "train.csv")[0][:CALIBRATION_TEXTS], 1))
    with tempfile.TemporaryDirectory() as folder:
        files = {form: Path(folder) / f"{number}.onnx" for number, form in enumerate(FORMS)}
        for form, file in files.items():
            write(export / FLOAT32_FILE, file, form, calibration)
        sessions = {form: load(file) for form, file in files.items()}
        megabytes = {form: file.stat().st_size / 1e6 for form, file in files.items()}
    seconds = measure(sessions, batches, args.rounds)
    float32 = logits_of(load(export / FLOAT32_FILE), batches[1])
    gate = Gate(float32, labels, SINGLE_LABEL, tuple(label2id))
    # As the export writes it for this processor.
    usual = Form(WEIGHT_TYPES[this_processor()], True, DYNAMIC)
    rows = []
    for form, session in sessions.items():
        row = {"processor": this_processor(), "name": processor_name(), "form": form.title}
        row |= {"megabytes": round(megabytes[form], 1)}
        for size in BATCH_SIZES:
            ratios = seconds[usual, size] / seconds[form, size]
            row[f"texts_per_second_{size}"] = round(len(texts) / np.median(seconds[form, size]))
            row[f"times_usual_{size}"] = f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"
        rows.append(row | verdict(gate, logits_of(session, batches[1])))
    rows += other_processors(this_processor())
    write_results(NAME, rows, table(rows))


def verdict(gate: Gate, logits: np.ndarray) -> dict[str, str]:
    """Returns what the gate says about the logits of a form."""
    said = gate.measure(logits)
    return {
        "accuracy": f"{100 * (logits.argmax(axis=1) == gate.labels).mean():.1f}",
        "recall": ", ".join(f"{name} {kept} of {found}" for name, (found, kept) in said["found"].items()),
        "agreement": f"{100 * min(said['agreement'].values()):.1f}",
        "loss_beside_float32": f"{said['loss'][1] - said['loss'][0]:+.4f}",
        "gate": "; ".join(gate.failures(logits)) or "passed",
    }


def read_texts(file: Path) -> tuple[list[str], list[str]]:
    """Returns the texts of a csv file and their labels."""
    rows = read_rows(file)
    return [row["text"] for row in rows], [row["label"] for row in rows]


def tokenized(tokenizer, texts: Sequence[str], size: int) -> Iterator[Batch]:
    """Returns batches of so many texts, padded to the longest one."""
    for start in range(0, len(texts), size):
        yield dict(tokenizer(texts[start : start + size], padding=True, truncation=True, return_tensors="np"))


def write(source: Path, target: Path, form: Form, calibration: Sequence[Batch]) -> None:
    """Writes a form of a float32 graph."""
    graph = onnx.load(source)
    stored = {"per_channel": form.per_channel, "weight_type": form.weights}
    # Shapes of transposed weights would be refused, as in `export.int8.quantize`.
    del graph.graph.value_info[:]
    if form.activations == DYNAMIC:
        quantize_dynamic(graph, target, op_types_to_quantize=list(QUANTIZED_OPERATORS), **stored)
        return
    # The products of two activations stay in float32, as in the dynamic form.
    weights = {tensor.name for tensor in graph.graph.initializer}
    of_activations = [
        node.name for node in graph.graph.node if node.op_type == "MatMul" and weights.isdisjoint(node.input)
    ]
    quantize_static(
        graph,
        target,
        Calibration(calibration),
        op_types_to_quantize=list(PRODUCTS),
        activation_type=QuantType.QUInt8,
        nodes_to_exclude=of_activations,
        extra_options={"OpTypesToExcludeOutputQuantization": list(PRODUCTS) * (form.activations == STATIC_INPUTS)},
        **stored,
    )
    # In a static form, every run would turn the whole table of word embeddings into float32.
    graph = onnx.load(target)
    del graph.graph.value_info[:]
    quantize_dynamic(graph, target, op_types_to_quantize=["Gather"], **stored)


def load(file: Path) -> onnxruntime.InferenceSession:
    """Loads a graph, to run on one thread, as in the app."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def logits_of(session: onnxruntime.InferenceSession, batches: Sequence[Batch]) -> np.ndarray:
    """Returns the logits of all texts, `(texts, labels)`."""
    names = [node.name for node in session.get_inputs()]
    return np.concatenate([session.run(["logits"], {name: batch[name] for name in names})[0] for batch in batches])


def measure(sessions: dict, batches: dict[int, list[Batch]], rounds: int) -> dict:
    """Returns the seconds of each round over all texts, by form and batch size."""
    seconds = {(form, size): [] for form in sessions for size in batches}
    for index in range(1 + rounds):
        for size, of_size in batches.items():
            for form, session in sessions.items():
                started = time.perf_counter()
                logits_of(session, of_size)
                if index:  # the first is a warm-up
                    seconds[form, size].append(time.perf_counter() - started)
    return {key: np.array(value) for key, value in seconds.items()}


def other_processors(kind: str) -> list[dict]:
    """Returns the rows that were measured on other kinds of processors."""
    file = RESULTS / f"{NAME}.csv"
    return [row for row in read_rows(file) if row["processor"] != kind] if file.is_file() else []


def table(rows: Sequence[dict]) -> str:
    """Returns the table of the page."""
    titles = {
        "processor": "Processor",
        "form": "Weights, scales of activations",
        **{f"texts_per_second_{size}": f"Texts/s, batch {size}" for size in BATCH_SIZES},
        **{f"times_usual_{size}": f"Times the usual form, batch {size}" for size in BATCH_SIZES},
        "recall": "Found of what float32 finds",
        "agreement": "Agreement (%)",
        "loss_beside_float32": "Loss minus float32's",
        "gate": "Gate",
    }
    # The csv file says why a form fails.
    rows = [{**row, "gate": row["gate"] if row["gate"] == "passed" else "failed"} for row in rows]
    return markdown_table([{title: str(row[key]) for key, title in titles.items()} for row in rows])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_dir", required=True, help="checkpoint of one of several classes, with its `export`")
    parser.add_argument("--data_dir", required=True, help="folder with train.csv and validation.csv: text, label")
    parser.add_argument("--rounds", type=int, default=5, help="passes over the split (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
