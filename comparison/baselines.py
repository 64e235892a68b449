"""What the methods that take no layers from the fine-tuned teacher start from, and the runs of the classical ones.

    student, origin = from_encoder(path, student_args, run)    # a network with another start, trained as students are
    run_classical("tfidf", run, encoder_path)                  # scikit-learn, in one step

The classical methods keep no model: the folder has the record, the scores and the predictions.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_class_weight
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, set_seed

from comparison.methods import METHODS
from layer_distillation.encoder_layers import find_layer_list, num_layers
from layer_distillation.model_outputs import logits_of
from layer_distillation.problem_types import MULTI_LABEL, REGRESSION
from layer_distillation.record import Origin, StudentRecord
from layer_mapping import build_random_student, build_student, select_layers
from text_data.answers import label_array
from training.arguments import StudentArguments
from training.checkpoints import load_for_labels
from training.evaluation import (
    TRAINING_LOSS,
    measure_latency,
    score_logits,
    score_splits,
    true_answers,
    write_predictions,
)
from training.inputs import Inputs
from training.layer_similarity import sentence_features
from training.output_folder import closing_run_folder
from training.run import Run, teacher_record

NUM_TIMED = 50
CERTAIN = 100.0  # a logit of the probability 1

# ---- Networks ----


def from_encoder(path: str, student_args: StudentArguments, run: Run) -> tuple[PreTrainedModel, Origin]:
    """Returns a student of layers of the encoder at `path`, before its fine-tuning, with a new head."""
    encoder, _ = load_for_labels(path, run.inputs.data.labels, run.args.seed)
    layers = select_layers(student_args.layer_strategy, num_layers(encoder), student_args.num_student_layers)
    return build_student(encoder, layers), Origin(layer_strategy=student_args.layer_strategy, layers=layers)


def with_fresh_layers(student_args: StudentArguments, run: Run) -> tuple[PreTrainedModel, Origin]:
    """Returns a student with the teacher's embeddings; its layers, pooler and head are fresh."""
    teacher = run.teacher.load(run.args.device)
    set_seed(run.args.seed)
    student = build_random_student(teacher, student_args.num_student_layers)
    fresh = (find_layer_list(student), f"{student.base_model_prefix}.pooler")
    encoder = teacher.base_model.state_dict(prefix=f"{teacher.base_model_prefix}.")
    copied = {name: weight for name, weight in encoder.items() if not name.startswith(fresh)}
    student.load_state_dict(copied, strict=False)
    return student, Origin(layer_strategy="fresh_layers", layers=())


def weighted_loss(label_ids: np.ndarray, num_labels: int, label_smoothing: float) -> Callable[..., torch.Tensor]:
    """Returns the cross-entropy for a `Trainer`, in which all classes together weigh alike.

    An example of a class weighs `examples / (classes * examples of the class)`, and the mean of a batch is over its
    number of examples, so that the loss does not depend on how the examples share batches. Weights and smoothing count
    in training alone: `eval_loss` is the loss of the other methods.

    Args:
        label_ids: classes of the training examples.
        label_smoothing: as `--label_smoothing_factor`.
    """
    classes = np.unique(label_ids)
    weights = torch.ones(num_labels)
    weights[classes] = torch.from_numpy(compute_class_weight("balanced", classes=classes, y=label_ids)).float()

    def loss(outputs, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int) -> torch.Tensor:
        logits = logits_of(outputs).float()
        settings = {}
        if logits.requires_grad:
            settings = {"weight": weights.to(logits.device), "label_smoothing": label_smoothing}
        return cross_entropy(logits, labels, reduction="sum", **settings) / num_items_in_batch

    return loss


# ---- Classical methods ----


@dataclass(frozen=True)
class Classical:
    """A classical method before and after its training.

    Attributes:
        pipeline: of scikit-learn.
        read: returns what the pipeline takes of the first examples of a split, by name and number; `None` for all.
    """

    pipeline: Pipeline
    read: Callable[[str, int | None], Sequence]

    def logits(self, features: Sequence, labels: Sequence[int]) -> np.ndarray:
        """Returns the logits of examples, `(examples, labels)`.

        Args:
            features: of the examples, as `read` returns them.
            labels: ids of all labels; one that the training examples lack is never the answer.
        """
        model = self.pipeline[-1]
        if isinstance(model, Ridge):
            return self.pipeline.predict(features).reshape(-1, 1).astype(np.float32)
        scores = self.pipeline.decision_function(features)
        if isinstance(model, OneVsRestClassifier):
            scores = scores.reshape(-1, len(labels)).astype(np.float32)
            # A label that all training examples have, or none, has a constant in place of a model: 1 or 0.
            constant = [not isinstance(part, LogisticRegression) for part in model.estimators_]
            return np.where(constant, (2 * scores - 1) * CERTAIN, scores)
        if scores.ndim == 1:  # two classes: the score of the second
            scores = np.column_stack([np.zeros(len(scores)), scores])
        logits = np.full((len(scores), len(labels)), -CERTAIN, dtype=np.float32)
        logits[:, model.classes_] = scores
        return logits

    @property
    def num_weights(self) -> int:
        model = self.pipeline[-1]
        parts = model.estimators_ if isinstance(model, OneVsRestClassifier) else [model]
        # A label that all training examples have, or none, has a constant in place of a model.
        trained = [part for part in parts if isinstance(part, LogisticRegression | Ridge)]
        return sum(np.size(part.coef_) + np.size(part.intercept_) for part in trained)


def tfidf(inputs: Inputs, balanced: bool) -> Classical:
    """Returns a linear model on words, pairs of words, and parts of words, which survive misspelling."""
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    parts = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)

    def read(split: str, first: int | None) -> list[str]:
        columns = [inputs.data.splits[split][:first][name] for name in inputs.data.text_columns]
        return ["\n".join(texts) for texts in zip(*columns, strict=True)]

    return Classical(make_pipeline(make_union(words, parts), _linear_model(inputs, 10.0, balanced)), read)


def linear_probe(inputs: Inputs, encoder: PreTrainedModel) -> Classical:
    """Returns a linear model on the mean over the tokens of the last layer's output."""

    def read(split: str, first: int | None) -> np.ndarray:
        tokenized = inputs.tokenized[split]
        tokenized = tokenized if first is None else tokenized.select(range(first))
        return sentence_features(encoder.eval(), tokenized, inputs.collator)

    return Classical(make_pipeline(StandardScaler(), _linear_model(inputs, 0.01, balanced=False)), read)


def _linear_model(inputs: Inputs, C: float, balanced: bool) -> LogisticRegression | OneVsRestClassifier | Ridge:
    problem_type = inputs.data.labels.problem_type
    if problem_type == REGRESSION:
        return Ridge(alpha=1 / C)
    model = LogisticRegression(C=C, max_iter=2000, class_weight="balanced" if balanced else None)
    return OneVsRestClassifier(model) if problem_type == MULTI_LABEL else model


def run_classical(name: str, run: Run, encoder_path: str) -> None:
    """Trains and scores a classical method, and completes the folder of its run."""
    method, inputs, data, encoder = METHODS[name], run.inputs, run.inputs.data, None
    started = time.perf_counter()
    if method.checkpoint is None:
        classical = tfidf(inputs, method.weights_classes)
    else:
        encoder, _ = load_for_labels(encoder_path, data.labels, run.args.seed)
        classical = linear_probe(inputs, encoder.to(run.args.device))
    features = {"train": classical.read("train", None)}
    classical.pipeline.fit(features["train"], true_answers(inputs.tokenized["train"], data.labels))
    results = {"train_runtime": time.perf_counter() - started}

    ids = range(data.labels.num_labels)
    features |= {split: classical.read(split, None) for split in (*data.validation_splits, *data.test_splits)}
    logits = {split: classical.logits(of_split, ids) for split, of_split in features.items()}
    results[TRAINING_LOSS] = score_logits(logits["train"], label_array(inputs.tokenized["train"]), inputs)["loss"]
    results |= score_splits(logits.get, inputs, data.validation_splits, "eval")
    results |= score_splits(logits.get, inputs, data.test_splits, "predict")

    teacher = run.teacher.load(run.args.device)
    (teacher_ms,) = measure_latency([(teacher, inputs.validation)])
    with closing_run_folder(run.args.output_dir, run.args.distributed_state) as folder:
        split = inputs.reported_split
        labels = label_array(inputs.tokenized[split])
        write_predictions(Path(folder) / f"predictions_{split}.csv", logits[split], labels, data.labels)
        frozen = 0 if encoder is None else encoder.num_parameters()
        student = StudentRecord(
            layer_strategy=name,
            layers=(),
            num_layers=0 if encoder is None else num_layers(encoder),
            parameters=frozen + classical.num_weights,
            trainable_parameters=classical.num_weights,
            megabytes=(4 * frozen + 8 * classical.num_weights) / 1e6,
            latency_ms=_latency_ms(classical, data.validation_splits[0], ids),
            results=results,
        )
        record = replace(
            run.record,
            method=name,
            loss={},
            training={},
            teacher=teacher_record(run.teacher, teacher, teacher_ms),
            student=student,
        )
        record.write(folder)


def _latency_ms(classical: Classical, split: str, ids: Sequence[int]) -> float:
    """Returns the median milliseconds for one example."""
    times = []
    for _ in range(NUM_TIMED):
        started = time.perf_counter()
        classical.logits(classical.read(split, 1), ids)
        times.append(time.perf_counter() - started)
    return 1000 * median(times[5:])
