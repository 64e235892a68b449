"""Loads classifiers for the app and runs them: texts in, a probability for every class out.

    model = load_model("outputs/toxic_comments-even")            # the int8 ONNX file that run_export.py has written
    model = load_model("outputs/toxic_comments-even", "pytorch")  # the checkpoint itself

Weights come from ONNX or safetensors files only. Neither can hold code, unlike pickles; remote code is never run.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Encoding, Tokenizer

ONNX_FILES = {"int8": "model_int8.onnx", "float32": "model.onnx"}
BACKENDS = (*ONNX_FILES, "pytorch")
# Labels of a config that names none: Transformers leaves these two out.
DEFAULT_LABELS = {"0": "LABEL_0", "1": "LABEL_1"}
# For checkpoints without an export, which do not say with which length they were trained.
DEFAULT_MAX_LENGTH = 128


@dataclass(frozen=True)
class Answer:
    """What a model says about a text.

    Attributes:
        scores: a probability for every class, by its name, in the model's order.
        truncated: whether the text is longer than the model reads; the rest of it was ignored.
    """

    scores: dict[str, float]
    truncated: bool

    @property
    def label(self) -> str:
        return max(self.scores, key=self.scores.__getitem__)


class Model(ABC):
    """A classifier and its tokenizer. Several threads may call one model at the same time.

    Attributes:
        runs_together: whether the model runs several texts as one batch.
        name: the name of its folder.
        labels: class names in the order of the model's outputs.
        max_length: number of tokens that the model reads of a text.
        metrics: `metrics.json` of run_export.py; empty for a checkpoint without an export.
    """

    runs_together = True

    def __init__(self, name: str, folder: Path, metrics: dict):
        config = _read_json(folder / "config.json")
        self.name, self.metrics = name, metrics
        labels = config.get("id2label") or DEFAULT_LABELS
        self.labels = tuple(label for _, label in sorted((int(i), label) for i, label in labels.items()))
        problem_type = config.get("problem_type") or "single_label_classification"
        if problem_type != "single_label_classification" or len(self.labels) < 2:
            raise ValueError(
                f"The app serves models that choose one of several classes, but {folder} is for {problem_type} with "
                f"{len(self.labels)} label(s). Train one on single labels."
            )
        if len(metrics.get("text_columns", ["text"])) != 1:
            raise ValueError(f"The app serves models of single texts, but {folder} reads pairs: {metrics['data']}.")
        self.max_length = metrics.get("max_length", DEFAULT_MAX_LENGTH)
        self._pad_token_id = config.get("pad_token_id") or 0
        self._tokenizer = Tokenizer.from_file(str(_tokenizer_file(folder)))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.max_length)

    @property
    @abstractmethod
    def backend(self) -> str:
        """What runs the model, in words."""

    @abstractmethod
    def _logits(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Returns logits, `(texts, classes)`.

        Args:
            inputs: `input_ids`, `attention_mask` and `token_type_ids`, `(texts, tokens)` each.
        """

    def classify(self, texts: Sequence[str]) -> list[Answer]:
        """Returns one answer for each text; texts of similar length are quickest, because a batch is padded."""
        encodings = self._tokenizer.encode_batch(list(texts))
        groups = [encodings] if self.runs_together else [[encoding] for encoding in encodings]
        logits = np.concatenate([self._logits(self._padded(group)) for group in groups])
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
        return [
            Answer(dict(zip(self.labels, map(float, row), strict=True)), bool(encoding.overflowing))
            for row, encoding in zip(probabilities, encodings, strict=True)
        ]

    def _padded(self, encodings: Sequence[Encoding]) -> dict[str, np.ndarray]:
        shape = (len(encodings), max(map(len, encodings)))
        inputs = {
            "input_ids": np.full(shape, self._pad_token_id, dtype=np.int64),
            "attention_mask": np.zeros(shape, dtype=np.int64),
            "token_type_ids": np.zeros(shape, dtype=np.int64),
        }
        for row, encoding in enumerate(encodings):
            inputs["input_ids"][row, : len(encoding)] = encoding.ids
            inputs["attention_mask"][row, : len(encoding)] = 1
        return inputs


class OnnxModel(Model):
    """A classifier that ONNX Runtime runs."""

    def __init__(self, name: str, folder: Path, metrics: dict, kind: str):
        super().__init__(name, folder, metrics)
        self._kind = kind
        # In int8 the activations of a batch share one scale, so an answer would depend on the other texts. Each text
        # runs alone; without padding this takes hardly longer.
        self.runs_together = kind != "int8"
        options = onnxruntime.SessionOptions()
        # Two texts at the same time, each on one core, take less time than one after the other on both cores.
        options.intra_op_num_threads = 1
        file = folder / ONNX_FILES[kind]
        try:
            self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no other class in common
            raise ValueError(f"{file} cannot be loaded: {error}. Copy it again, or export the model again.") from error
        self._inputs = [node.name for node in self._session.get_inputs()]

    @property
    def backend(self) -> str:
        return f"ONNX {self._kind}"

    def _logits(self, inputs):
        return self._session.run(["logits"], {name: inputs[name] for name in self._inputs})[0]


class TorchModel(Model):
    """A classifier that PyTorch runs, from a checkpoint's safetensors file."""

    def __init__(self, name: str, folder: Path, metrics: dict):
        super().__init__(name, folder, metrics)
        # Imported here, because the app runs ONNX models without these two packages.
        import torch
        from transformers import AutoModelForSequenceClassification

        torch.set_num_threads(1)
        self._torch = torch
        self._model = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype="float32", use_safetensors=True, trust_remote_code=False, local_files_only=True
        ).eval()
        has_types = getattr(self._model.config, "type_vocab_size", 0) > 1
        self._inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if has_types else [])]

    @property
    def backend(self) -> str:
        return "PyTorch"

    def _logits(self, inputs):
        with self._torch.inference_mode():
            tensors = {name: self._torch.from_numpy(inputs[name]) for name in self._inputs}
            return self._model(**tensors).logits.numpy()


def load_model(folder: str | Path, backend: str = "int8") -> Model:
    """Loads a model.

    Args:
        folder: a checkpoint with its export in the subfolder `onnx`, or an export of run_export.py alone.
        backend: "int8" or "float32" for ONNX, "pytorch" for the checkpoint.

    Raises:
        FileNotFoundError: the folder lacks a file; the message says which file, and which command writes it.
        ValueError: the app cannot serve this kind of model.
    """
    folder = Path(folder).resolve()
    checkpoint = folder.parent if folder.name == "onnx" else folder
    export = checkpoint / "onnx" if (checkpoint / "onnx").is_dir() else folder
    metrics = _read_json(export / "metrics.json") if (export / "metrics.json").is_file() else {}
    if backend == "pytorch":
        _existing(checkpoint / "model.safetensors")
        return TorchModel(checkpoint.name, checkpoint, metrics)
    _existing(export / ONNX_FILES[backend])
    if not metrics:
        raise FileNotFoundError(f"There is no metrics.json in {export}: the export has failed. Run it again.")
    return OnnxModel(checkpoint.name, export, metrics, backend)


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise FileNotFoundError(
            f"There is no {file.name} in {file.parent}. For ONNX, export a checkpoint with `python run_export.py "
            "--model_name_or_path CHECKPOINT`; for --backend pytorch, name a checkpoint with safetensors weights."
        )
    return file


def _tokenizer_file(folder: Path) -> Path:
    file = folder / "tokenizer.json"
    if not file.is_file() and (folder / "tokenizer_config.json").is_file():
        raise FileNotFoundError(
            f"The tokenizer in {folder} is written in Python alone and has no tokenizer.json, which the app needs. "
            'Use the checkpoint with `pipeline("text-classification")`, or train a student of a teacher that has one.'
        )
    return _existing(file)


def _read_json(file: Path) -> dict:
    return json.loads(_existing(file).read_text(encoding="utf-8"))
