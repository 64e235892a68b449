"""Loads classifiers for the app and runs them: texts in, a probability for every label out.

    model = load_model("outputs/toxic_comments-odd")            # the int8 ONNX file that run_export.py has written
    model = load_model("outputs/toxic_comments-odd", "pytorch")  # the checkpoint itself

A model chooses one class for a text, or says of each of several labels whether the text has it. In the second case a
text has the labels whose probability reaches their threshold, which `thresholds.json` in the model's folder gives.

Weights come from ONNX or safetensors files only. Neither can hold code, unlike pickles; remote code is never run.
"""

import hashlib
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Encoding, Tokenizer

ONNX_FILES = {"int8": "model_quantized.onnx", "float32": "model.onnx"}
BACKENDS = (*ONNX_FILES, "pytorch")
# Exports of version 0.1.0 have their ONNX files beside the config, and this name for the int8 file.
OLD_INT8_FILE = "model_int8.onnx"
# Where run_export.py puts the export of a checkpoint by default; 0.1.0 put it into the second one.
EXPORT_FOLDERS = ("export", "onnx")
METRICS_FILE = "metrics.json"
THRESHOLDS_FILE = "thresholds.json"
IDENTITY_BIAS_FILE = "identity_bias.json"
ADAPTER_FILE = "adapter_config.json"
SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"
# Of a label that `thresholds.json` does not name.
DEFAULT_THRESHOLD = 0.5
# Labels of a config that names none: Transformers leaves these two out.
DEFAULT_LABELS = {"0": "LABEL_0", "1": "LABEL_1"}
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# Words of the text that another is padded to, to see whether padding changes its logits by more than they are rounded.
LONG_TEXT, ROUNDING = 60, 1e-4
# For tokenizers without a limit.
DEFAULT_MAX_LENGTH = 128


@dataclass(frozen=True)
class Answer:
    """What a model says about a text.

    Attributes:
        scores: a probability for every label, by its name, in the model's order. They add up to 1 if the model
            chooses one class.
        truncated: whether the text is longer than the model reads; the rest of it was ignored.
        thresholds: from which probability a text has a label, by its name; `None` if the model chooses one class.
    """

    scores: Mapping[str, float]
    truncated: bool
    thresholds: Mapping[str, float] | None = None

    @property
    def labels(self) -> list[str]:
        """The labels that the text has: exactly one if the model chooses one class, otherwise any number."""
        if self.thresholds is None:
            return [self.most_probable]
        return [label for label, score in self.scores.items() if score >= self.thresholds[label]]

    @property
    def label(self) -> str | None:
        """The most probable one of `labels`, `None` if there is none."""
        return max(self.labels, key=self.scores.__getitem__, default=None)

    @property
    def most_probable(self) -> str:
        """The label with the highest probability, whether it reaches its threshold or not."""
        return max(self.scores, key=self.scores.__getitem__)

    def with_thresholds(self, changed: Mapping[str, float]) -> "Answer":
        """Returns the answer with other thresholds for some labels of a model with several."""
        return replace(self, thresholds={**self.thresholds, **changed})


class Model(ABC):
    """A classifier and its tokenizer. Several threads may call one model at the same time.

    Attributes:
        runs_together: whether the model runs several texts as one batch; set by what loads the weights.
        pads_left: whether the shorter texts of a batch are padded before their tokens, not after them.
        name: the name of its folder.
        folder: the folder with its config.
        labels: label names in the order of the model's outputs.
        thresholds: from which probability a text has a label, by its name; `None` if the model chooses one class.
        threshold_curves: what other thresholds would do, from `thresholds.json`; empty without one.
        max_length: number of tokens that the model reads of a text.
        metrics: `metrics.json` of run_export.py; empty for a checkpoint without an export.
        version: of the model, from its export; `None` without one.
        fingerprint: SHA-256 of the file with the weights, in hexadecimal.
        languages: codes of the languages that the model reads, such as "en"; empty if it does not say.
        identity_bias: `identity_bias.json` of the checkpoint, or of the export; empty if neither has one.
    """

    pads_left = False
    identity_bias: Mapping = {}

    def __init__(self, name: str, folder: Path, weights: Path, metrics: dict):
        config = read_json(folder / "config.json")
        self.name, self.folder, self.metrics = name, folder, metrics
        labels = config.get("id2label") or DEFAULT_LABELS
        self.labels = tuple(label for _, label in sorted((int(i), label) for i, label in labels.items()))
        problem_type = config.get("problem_type") or SINGLE_LABEL
        if problem_type != MULTI_LABEL and (problem_type != SINGLE_LABEL or len(self.labels) < 2):
            raise ValueError(
                f"The app serves models that choose one of several labels, and models for {MULTI_LABEL}, but {folder} "
                f"is for {problem_type} with {len(self.labels)} label(s). Train one on such labels."
            )
        if len(metrics.get("text_columns", ["text"])) != 1:
            raise ValueError(f"The app serves models of single texts, but {folder} reads pairs: {metrics['data']}.")
        self.thresholds, self.threshold_curves = None, {}
        if problem_type == MULTI_LABEL:
            self.thresholds = dict.fromkeys(self.labels, DEFAULT_THRESHOLD)
            if (folder / THRESHOLDS_FILE).is_file():
                self._read_thresholds(folder / THRESHOLDS_FILE)
        tokenizer_config = _read_json_if_there(folder / "tokenizer_config.json")
        self.max_length = metrics.get("max_length") or _max_length(tokenizer_config)
        self.version = metrics.get("version")
        self.languages = tuple(metrics.get("languages", ()))
        self.fingerprint = sha256_of(weights)
        self._pad_token_id = config.get("pad_token_id") or 0
        file = _tokenizer_file(folder)
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises plain exceptions
            raise ValueError(f"{file} cannot be read: {error}. Copy it again, or export the model again.") from error
        self._tokenizer.no_padding()
        side = tokenizer_config.get("truncation_side", "right")
        self._tokenizer.enable_truncation(self.max_length, direction=side)
        # Whether a text that has a special token in it, such as "[SEP]", is read as any other text. tokenizer.json
        # does not say it.
        self._tokenizer.encode_special_tokens = bool(tokenizer_config.get("split_special_tokens"))

    def _read_thresholds(self, file: Path) -> None:
        """Reads a `thresholds.json`, which may have been changed by hand."""
        content = read_json(file)
        given = content.get("thresholds")
        if not isinstance(given, dict):
            raise ValueError(f'{file} must be JSON such as {{"thresholds": {{"{self.labels[0]}": 0.5}}}}. Correct it.')
        try:
            self.check_thresholds(given)
        except ValueError as error:
            raise ValueError(f"{file}: {error}. Correct the file.") from error
        self.thresholds |= given
        self.threshold_curves = content.get("curves") or {}

    def check_thresholds(self, thresholds: Mapping[str, float]) -> None:
        """Checks whether the model can decide by these thresholds, for some labels or all.

        Raises:
            ValueError: the model chooses one class, has no such label, or a threshold is no number from 0 to 1.
        """
        if thresholds and self.thresholds is None:
            raise ValueError(f"{self.name} chooses one class for a text, so it has no thresholds")
        for label, threshold in thresholds.items():
            if label not in self.labels:
                raise ValueError(f"{self.name} has no label {label!r:.100}; it has {', '.join(self.labels)}")
            if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
                raise ValueError(f"a threshold must be a number from 0 to 1, found {threshold!r:.100} for {label}")

    @property
    def identity(self) -> dict[str, str | None]:
        """What every answer says about the model: `model` (its name), `version` and `fingerprint`."""
        return {"model": self.name, "version": self.version, "fingerprint": self.fingerprint}

    @property
    @abstractmethod
    def backend(self) -> str:
        """What runs the model, in words."""

    @abstractmethod
    def _logits(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Returns logits, `(texts, labels)`.

        Args:
            inputs: `input_ids`, `attention_mask` and `token_type_ids`, `(texts, tokens)` each.
        """

    def classify(self, texts: Sequence[str]) -> list[Answer]:
        """Returns one answer for each text; texts of similar length are quickest, because a batch is padded."""
        encodings = self._tokenizer.encode_batch(list(texts))
        groups = [encodings] if self.runs_together else [[encoding] for encoding in encodings]
        # float64 holds probabilities close to 1, which words that count are measured by.
        logits = np.concatenate([self._logits(self._padded(group)) for group in groups]).astype(np.float64)
        probabilities = _softmax(logits) if self.thresholds is None else 1 / (1 + np.exp(-logits))
        return [
            Answer(dict(zip(self.labels, row, strict=True)), bool(encoding.overflowing), self.thresholds)
            for row, encoding in zip(probabilities.tolist(), encodings, strict=True)
        ]

    def _mixes_in_padding(self) -> bool:
        """Whether a text has other logits when it is padded: in models that read no mask (FNet), and in some that do.

        ConvBERT, Nyströmformer and YOSO compute on the padding of a masked text too.
        """
        short, long = self._tokenizer.encode_batch(["a", "a " * LONG_TEXT])
        alone, padded = (self._logits(self._padded(texts))[0] for texts in ([short], [short, long]))
        return not np.allclose(alone, padded, rtol=ROUNDING, atol=ROUNDING)

    def _padded(self, encodings: Sequence[Encoding]) -> dict[str, np.ndarray]:
        shape = (len(encodings), max(map(len, encodings)))
        inputs = {
            "input_ids": np.full(shape, self._pad_token_id, dtype=np.int64),
            "attention_mask": np.zeros(shape, dtype=np.int64),
            "token_type_ids": np.zeros(shape, dtype=np.int64),
        }
        for row, encoding in enumerate(encodings):
            start = shape[1] - len(encoding) if self.pads_left else 0
            tokens = slice(start, start + len(encoding))
            inputs["input_ids"][row, tokens] = encoding.ids
            inputs["attention_mask"][row, tokens] = 1
            inputs["token_type_ids"][row, tokens] = encoding.type_ids
        return inputs


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


class OnnxModel(Model):
    """A classifier that ONNX Runtime runs."""

    def __init__(self, name: str, folder: Path, file: Path, metrics: dict, kind: str):
        super().__init__(name, folder, file, metrics)
        self._kind = kind
        options = onnxruntime.SessionOptions()
        # Two texts at the same time, each on one core, take less time than one after the other on both cores.
        options.intra_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no other class in common
            raise ValueError(f"{file} cannot be loaded: {error}. Copy it again, or export the model again.") from error
        self._inputs = [node.name for node in self._session.get_inputs()]
        # In int8 the activations of a batch share one scale: an answer would depend on the other texts. Each text runs
        # alone; without padding this takes hardly longer.
        self.runs_together = kind != "int8" and not self._mixes_in_padding()

    @property
    def backend(self) -> str:
        return f"ONNX {self._kind}"

    def _logits(self, inputs):
        return self._session.run(["logits"], {name: inputs[name] for name in self._inputs})[0]


class TorchModel(Model):
    """A classifier that PyTorch runs, from a checkpoint's safetensors file."""

    def __init__(self, name: str, folder: Path, metrics: dict):
        super().__init__(name, folder, _existing(folder / "model.safetensors"), metrics)
        # Imported here, because the app runs ONNX models without these two packages.
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        torch.set_num_threads(1)
        self._torch = torch
        safely = {"trust_remote_code": False, "local_files_only": True}
        self._model = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype="float32", use_safetensors=True, **safely
        ).eval()
        # XLNet reads its answer from the last token, and its tokenizer pads before the text.
        self.pads_left = self._model.config.model_type == "xlnet"
        # What a model reads in training: what its tokenizer writes and its `forward` names. GPT-2 embeds types of
        # tokens like words, so it answers otherwise without them.
        written = {"input_ids", "attention_mask", *AutoTokenizer.from_pretrained(folder, **safely).model_input_names}
        read = inspect.signature(self._model.forward).parameters
        self._inputs = [name for name in MODEL_INPUTS if name in written and name in read]
        self.runs_together = not self._mixes_in_padding()

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
        folder: a checkpoint with its export in the subfolder `export`, or an export of run_export.py alone.
        backend: "int8" or "float32" for ONNX, "pytorch" for the checkpoint.

    Raises:
        FileNotFoundError: the folder lacks a file; the message says which file, and which command writes it.
        ValueError: the app cannot serve this kind of model, or the folder holds an adapter.
    """
    folder = Path(folder).resolve()
    checkpoint = folder.parent if folder.name in EXPORT_FOLDERS else folder
    # An export that was named comes first.
    names = [folder.name, *EXPORT_FOLDERS] if folder.name in EXPORT_FOLDERS else EXPORT_FOLDERS
    exports = [checkpoint / name for name in names if (checkpoint / name / "config.json").is_file()]
    if (backend == "pytorch" or not exports) and (checkpoint / ADAPTER_FILE).is_file():
        raise ValueError(
            f"The app serves whole models, but {checkpoint} holds a LoRA adapter. Train it with --merge_adapter, and "
            "name the folder `merged` that this writes; for ONNX, export that folder first with `python run_export.py "
            "--model_name_or_path MERGED`."
        )
    export = exports[0] if exports else folder
    metrics = _read_json_if_there(export / METRICS_FILE)
    if backend == "pytorch":
        model = TorchModel(checkpoint.name, checkpoint, metrics)
    else:
        file = _find_graph(export, backend)
        if not metrics:
            raise FileNotFoundError(f"There is no {METRICS_FILE} in {export}: the export has failed. Run it again.")
        model = OnnxModel(checkpoint.name, export, file, metrics, backend)
    (answer,) = model.classify(["a"])
    if not np.isfinite(list(answer.scores.values())).all():
        raise ValueError(
            f"{folder} holds a model whose answers are no numbers: its training has failed. Train it again."
        )
    # Bias is measured after the export, so a newer file may lie beside the checkpoint.
    measured = [folder / IDENTITY_BIAS_FILE for folder in (checkpoint, export)]
    model.identity_bias = next((read_json(file) for file in measured if file.is_file()), {})
    return model


def _find_graph(export: Path, kind: str) -> Path:
    """Returns the ONNX file of an export, which has it beside its config if version 0.1.0 has made it."""
    file = export / "onnx" / ONNX_FILES[kind]
    old_file = export / (OLD_INT8_FILE if kind == "int8" else ONNX_FILES[kind])
    return old_file if old_file.is_file() else _existing(file)


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


def sha256_of(path: str | Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(file: Path) -> dict:
    """Returns the object that a JSON file of a model holds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON, or no object.
    """
    try:
        content = json.loads(_existing(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} must be JSON in UTF-8: {error}. Correct the file, or copy it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold an object in braces, found {str(content)[:100]}. Correct the file.")
    return content


def _read_json_if_there(file: Path) -> dict:
    return read_json(file) if file.is_file() else {}


def _max_length(tokenizer_config: Mapping) -> int:
    """Returns the limit of a checkpoint's tokenizer."""
    limit = tokenizer_config.get("model_max_length") or DEFAULT_MAX_LENGTH
    return limit if limit < 1_000_000 else DEFAULT_MAX_LENGTH  # Transformers writes 10^30 for "none"
