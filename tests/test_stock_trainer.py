"""`DistillationTrainer` with the labels alone beside `Trainer`: the same models, data and callables give the same run.

Left out is what `Trainer` is known to get wrong: with accumulation, it multiplies the loss of models whose `forward`
takes `**kwargs` (`test_distill_trainer.py` shows it).
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
    BertPreTrainedModel,
    EarlyStoppingCallback,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    integrations,
    set_seed,
)
from transformers.hyperparameter_search import ALL_HYPERPARAMETER_SEARCH_BACKENDS, HyperParamSearchBackendBase
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.trainer_utils import BestRun, HPSearchBackend

from distill_trainer import DistillationTrainer
from layer_distillation.arguments import DistillationTrainingArguments
from tests.tiny_models import TINY_CLASSIFIERS, VOCAB_SIZE
from tests.workers.train_worker import (
    NO_DROPOUT,
    NUM_LABELS,
    bert,
    pad,
    random_examples,
    token_classifier,
    token_examples,
    weights,
)

NUM_EXAMPLES = 22  # the last of three batches holds 6
CLASS_WEIGHTS = torch.tensor([1.0, 2.0, 5.0])
ARGUMENTS = {
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
    "logging_steps": 1,
    "logging_nan_inf_filter": True,
    "learning_rate": 1e-3,
    "weight_decay": 0.01,
    "warmup_steps": 2,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "adam_epsilon": 1e-5,
    "train_sampling_strategy": "random",
    "dataloader_pin_memory": False,
}


# ---- models ----


def config(num_labels=NUM_LABELS):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    # A step of ours draws other random numbers for dropout, of which tests/test_dropout.py holds the distribution.
    return BertConfig(vocab_size=VOCAB_SIZE, max_position_embeddings=64, num_labels=num_labels, **sizes, **NO_DROPOUT)


class OwnLoss(BertForSequenceClassification):
    """Class weights in a `forward` of its own, and features among the outputs."""

    def forward(self, input_ids, attention_mask=None, labels=None):
        outputs = super().forward(input_ids, attention_mask=attention_mask)
        loss = None if labels is None else functional.cross_entropy(outputs.logits, labels, weight=CLASS_WEIGHTS)
        return {"loss": loss, "logits": outputs.logits, "features": outputs.logits.sum(-1)}


class OtherNames(BertForSequenceClassification):
    def forward(self, input_ids=None, attention_mask=None, token_type_ids=None, target=None, group=None):
        return super().forward(input_ids, attention_mask, token_type_ids, labels=target)


class PassesOn(BertPreTrainedModel):
    """Hands the inputs that it does not name, such as the token types, on to its encoder."""

    def __init__(self, config):
        super().__init__(config)
        self.bert, self.head = BertModel(config), nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, labels=None, **kwargs):
        logits = self.head(self.bert(input_ids, attention_mask=attention_mask, **kwargs).pooler_output)
        return SequenceClassifierOutput(loss=functional.cross_entropy(logits, labels), logits=logits)


class Module(nn.Module):
    """No `PreTrainedModel`, without a config; returns a tuple."""

    def __init__(self):
        super().__init__()
        self.embeddings, self.head = nn.Embedding(VOCAB_SIZE, 16), nn.Linear(16, NUM_LABELS)

    def forward(self, input_ids, attention_mask, labels):
        mask = attention_mask.unsqueeze(-1)
        logits = self.head((self.embeddings(input_ids) * mask).sum(1) / mask.sum(1))
        return functional.cross_entropy(logits, labels), logits


class OutOfMemory(BertForSequenceClassification):
    """Runs out of memory in its second step with more than four examples."""

    steps = 0

    def forward(self, input_ids, labels=None, **kwargs):
        self.steps += self.training
        if self.steps == 2 and len(input_ids) > 4:
            raise RuntimeError("CUDA out of memory.")
        return super().forward(input_ids, labels=labels, **kwargs)


class Reconstructs(nn.Module):
    """Has no labels: the loss comes from the inputs."""

    def __init__(self):
        super().__init__()
        self.embeddings, self.head = nn.Embedding(VOCAB_SIZE, 8), nn.Linear(8, VOCAB_SIZE)

    def forward(self, input_ids):
        return {"loss": functional.cross_entropy(self.head(self.embeddings(input_ids)).mT, input_ids)}


def with_lora():
    return get_peft_model(bert(1), LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"]))


class TwoTasks(nn.Module):
    """Reads labels in a dictionary, and returns logits in a tuple."""

    def __init__(self):
        super().__init__()
        self.embeddings = nn.EmbeddingBag(VOCAB_SIZE, 16)
        self.heads = nn.ModuleList([nn.Linear(16, 3), nn.Linear(16, 2)])

    def forward(self, input_ids, labels):
        logits = tuple(head(self.embeddings(input_ids)) for head in self.heads)
        losses = [functional.cross_entropy(part, labels[name]) for part, name in zip(logits, ("kind", "side"))]
        return {"loss": sum(losses), "logits": logits}


def decoder(model_class):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    return model_class(LlamaConfig(vocab_size=VOCAB_SIZE, num_labels=NUM_LABELS, pad_token_id=0, **sizes))


def with_other_loss():
    """A decoder, whose `forward` calls what `loss_function` is set to."""
    model = decoder(LlamaForSequenceClassification)
    model.loss_function = lambda pooled_logits, labels, **kwargs: functional.cross_entropy(
        pooled_logits, labels, weight=CLASS_WEIGHTS
    )
    return model


# ---- data ----


@cache
def examples(seed=0):
    return random_examples(NUM_EXAMPLES, seed)


def renamed(**names):
    return lambda seed=0: examples(seed).rename_columns(names)


def with_labels(label: Callable[[int, int], object]):
    """Labels made of the number and the class of an example."""

    def make(seed=0):
        rows = examples(seed)
        return rows.remove_columns("labels").add_column("labels", [label(i, y) for i, y in enumerate(rows["labels"])])

    return make


def with_a_group(seed=0):
    return examples(seed).add_column("group", [i % 3 for i in range(NUM_EXAMPLES)])


def with_spans(seed=0):
    ends = [len(ids) - 1 for ids in examples(seed)["input_ids"]]
    starts = [end // 2 for end in ends]
    return (
        examples(seed).remove_columns("labels").add_column("start_positions", starts).add_column("end_positions", ends)
    )


@cache
def masked(seed=0):
    return token_examples(NUM_EXAMPLES, seed)


def next_tokens(seed=0):
    return examples(seed).remove_columns("labels").map(lambda row: {"labels": row["input_ids"]})


def pad_with_labels_in_a_dictionary(rows):
    batch = pad(rows)
    return {"input_ids": batch["input_ids"], "labels": {"kind": batch["labels"], "side": batch["labels"] % 2}}


def tokenized_when_fetched(seed=0):
    def tokenize(rows):
        ids = [[int(word) for word in text.split()] for text in rows["text"]]
        return {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids], "labels": rows["label"]}

    return texts(seed).with_transform(tokenize)


def texts(seed=0):
    return Dataset.from_list(
        [{"text": " ".join(map(str, row["input_ids"])), "label": row["labels"]} for row in examples(seed)]
    )


def tokenize_and_pad(rows):
    ids = [[int(word) for word in row["text"].split()] for row in rows]
    return pad([{"input_ids": r, "attention_mask": [1] * len(r), "labels": row["label"]} for r, row in zip(ids, rows)])


class OwnDataset(torch.utils.data.Dataset):
    def __init__(self, seed=0):
        self.rows = list(examples(seed))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index] | {"index": index}


class OwnStream(torch.utils.data.IterableDataset):
    def __init__(self, seed=0):
        self.rows = list(examples(seed))

    def __iter__(self):
        return iter(self.rows)


def streamed(seed=0):
    return examples(seed).to_iterable_dataset()


def with_length(seed=0):
    return texts(seed).map(lambda row: {"num_words": len(row["text"].split())})


# ---- callables and subclasses ----


def accuracy(prediction):
    first = [part[0] if isinstance(part, tuple) else part for part in (prediction.predictions, prediction.label_ids)]
    others = [part[1:] for part in (prediction.predictions, prediction.label_ids) if isinstance(part, tuple)]
    sums = {f"sum_{i}": float(np.sum(array)) for i, array in enumerate(array for part in others for array in part)}
    return {"accuracy": float((first[0].argmax(-1) == first[1]).mean()), **sums}


def weighted(outputs, labels, num_items_in_batch=None):
    losses = functional.cross_entropy(outputs.logits, labels, weight=CLASS_WEIGHTS, reduction="none")
    return losses.sum() / num_items_in_batch


def twice_the_loss_of_the_model(outputs, labels, num_items_in_batch=None):
    assert labels is num_items_in_batch is None
    return 2 * outputs.loss


class StopsEarly(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 3


def adds_to_the_loss(base):
    class Adds(base):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            labels = inputs["labels"]
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
            loss = loss + 5 * functional.cross_entropy(outputs["logits"], labels, weight=CLASS_WEIGHTS)
            return (loss, outputs) if return_outputs else loss

    return Adds


def replaces_the_loss(base):
    class Replaces(base):
        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            outputs = model(**inputs)
            loss = functional.cross_entropy(outputs[1], inputs["labels"], label_smoothing=0.1)
            return (loss, outputs) if return_outputs else loss

    return Replaces


def reads_a_column(base):
    class Reads(base):
        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            weights = 1 + inputs.pop("group")
            outputs = model(**inputs)
            losses = functional.cross_entropy(outputs.logits, inputs["labels"], reduction="none")
            loss = (weights * losses).mean()
            return (loss, outputs) if return_outputs else loss

    return Reads


def creates_its_optimizer(base):
    class Creates(base):
        def create_optimizer(self, *args, **kwargs):
            self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1, momentum=0.9)
            return self.optimizer

    return Creates


def optimizer_and_scheduler(model):
    optimizer = torch.optim.SGD([{"params": list(model.parameters()), "lr": 0.1}])
    return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 2)


# ---- the matrix ----


@dataclass(frozen=True)
class Case:
    model: Callable = lambda: bert(1)
    data: Callable = examples
    eval_data: Callable | None = None  # as `data`
    args: dict = field(default_factory=dict)
    trainer: dict = field(default_factory=dict)
    optimizers: Callable | None = None
    subclass: Callable = lambda base: base
    from_model_init: bool = False
    evaluates: bool = True
    trials: tuple[dict, ...] = ()  # of a search for hyperparameters


CASES = {
    "one class an example": Case(),
    "a class for each token": Case(lambda: token_classifier(1), masked),
    "several classes an example": Case(
        data=with_labels(lambda i, y: [float(y == c) for c in range(NUM_LABELS)]), trainer={"compute_metrics": None}
    ),
    "class probabilities for a model that keeps no problem type": Case(
        lambda: TINY_CLASSIFIERS["deberta-v2"](1, NUM_LABELS, **NO_DROPOUT),
        with_labels(lambda i, y: [0.75 if y == c else 0.125 for c in range(NUM_LABELS)]),
        trainer={"compute_metrics": None},
    ),
    "classes as floats for a model that keeps no problem type": Case(
        lambda: TINY_CLASSIFIERS["deberta-v2"](1, NUM_LABELS, **NO_DROPOUT), with_labels(lambda i, y: float(y))
    ),
    "a number": Case(lambda: bert(1, 1), with_labels(lambda i, y: float(y)), trainer={"compute_metrics": None}),
    "classes that are ignored": Case(data=with_labels(lambda i, y: y if i % 3 else -100)),
    "model_init": Case(from_model_init=True),
    "hyperparameter_search": Case(
        from_model_init=True,
        trials=({"learning_rate": 1e-4}, {"learning_rate": 3e-3, "per_device_train_batch_size": 4}),
    ),
    "own optimizer and scheduler": Case(optimizers=optimizer_and_scheduler),
    "class of an optimizer": Case(trainer={"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.1})}),
    "create_optimizer": Case(subclass=creates_its_optimizer),
    "a callback that stops": Case(trainer={"callbacks": [StopsEarly()]}),
    "early stopping": Case(
        args={
            "eval_strategy": "steps",
            "eval_steps": 1,
            "save_strategy": "steps",
            "save_steps": 1,
            "load_best_model_at_end": True,
            "metric_for_best_model": "accuracy",
        },
        trainer={"callbacks": [EarlyStoppingCallback(2)]},
    ),
    "labels of another name": Case(
        lambda: OtherNames(config()), renamed(labels="target"), args={"label_names": ["target"]}
    ),
    "two columns of labels": Case(data=with_a_group, args={"label_names": ["labels", "group"]}),
    "two columns of which forward reads one": Case(
        lambda: OtherNames(config()),
        lambda seed=0: with_a_group(seed).rename_column("labels", "target"),
        args={"label_names": ["target", "group"]},
    ),
    "labels in a dictionary, logits in a tuple": Case(
        TwoTasks,
        trainer={"data_collator": pad_with_labels_in_a_dictionary, "compute_metrics": None},
    ),
    "spans": Case(lambda: BertForQuestionAnswering(config(2)), with_spans, trainer={"compute_metrics": None}),
    "masked tokens": Case(lambda: BertForMaskedLM(config()), masked),
    "several evaluation sets": Case(eval_data=lambda seed=0: {"one": examples(1), "two": examples(2)}),
    "compute_loss that adds": Case(subclass=adds_to_the_loss),
    "compute_loss that replaces": Case(subclass=replaces_the_loss),
    "compute_loss that reads a column": Case(
        data=with_a_group, args={"remove_unused_columns": False}, subclass=reads_a_column
    ),
    "compute_loss_func": Case(trainer={"compute_loss_func": weighted}),
    "compute_loss_func and labels of another name": Case(
        lambda: OtherNames(config()),
        renamed(labels="target"),
        args={"label_names": ["target"]},
        trainer={"compute_loss_func": twice_the_loss_of_the_model},
    ),
    "a loss in forward": Case(lambda: OwnLoss(config())),
    "loss_function": Case(with_other_loss),
    "no labels at all": Case(Reconstructs, trainer={"compute_metrics": None}, evaluates=False),
    "a transform": Case(data=tokenized_when_fetched, args={"remove_unused_columns": False}),
    "a collator that tokenizes": Case(
        data=texts, args={"remove_unused_columns": False}, trainer={"data_collator": tokenize_and_pad}
    ),
    "own Dataset": Case(data=OwnDataset),
    "own IterableDataset": Case(data=OwnStream, args={"max_steps": 4}),
    "a stream": Case(data=streamed, args={"max_steps": 4}),
    # A batch holds all examples, because grouping draws other random numbers.
    "a column of lengths": Case(
        lambda: bert(1),
        with_length,
        args={
            "remove_unused_columns": False,
            "train_sampling_strategy": "group_by_length",
            "length_column_name": "num_words",
            "per_device_train_batch_size": NUM_EXAMPLES,
        },
        trainer={"data_collator": tokenize_and_pad},
        evaluates=False,  # the stock trainer returns predictions in the order of its groups
    ),
    "columns for **kwargs": Case(lambda: PassesOn(config()), args={"remove_unused_columns": False}),
    "a module without config": Case(Module),
    "a module with accumulation": Case(
        Module,
        args={
            "gradient_accumulation_steps": 2,
            "max_steps": 3,
            "dataloader_drop_last": True,
            "per_device_train_batch_size": 5,
        },
        evaluates=False,  # the stock trainer leaves out the last examples
    ),
    "return_dict=False": Case(lambda: bert(1, return_dict=False)),
    "auto_find_batch_size": Case(lambda: OutOfMemory(config()), args={"auto_find_batch_size": True}),
    "adapters": Case(with_lora),
    # The stock trainer finds no labels in the signature of a compiled model, and evaluates it without. One shape of
    # batches, which is traced once.
    "a compiled model": Case(
        lambda: torch.compile(bert(1), backend="eager"),
        args={"remove_unused_columns": False, "per_device_train_batch_size": NUM_EXAMPLES, "max_steps": 2},
        evaluates=False,
    ),
    "label smoothing": Case(args={"label_smoothing_factor": 0.2}, evaluates=False),
    "label smoothing of the next token": Case(
        lambda: decoder(LlamaForCausalLM), next_tokens, args={"label_smoothing_factor": 0.2}, evaluates=False
    ),
    "label smoothing and labels of another name": Case(
        lambda: OtherNames(config()),
        renamed(labels="target"),
        args={"label_names": ["target"], "label_smoothing_factor": 0.2},
    ),
    "the next token with accumulation": Case(  # this model divides by `num_items_in_batch`
        lambda: decoder(LlamaForCausalLM),
        next_tokens,
        args={"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
        trainer={"compute_metrics": None},
    ),
    "what metrics see": Case(
        args={"include_for_metrics": ["inputs", "loss"], "eval_on_start": True},
        trainer={"preprocess_logits_for_metrics": lambda logits, labels: logits * 2},
    ),
}


def run(case: Case, trainer_class: type, arguments_class: type, folder, **labels_alone) -> dict:
    set_seed(0)
    model = case.model()
    given = {"model_init": case.model} if case.from_model_init else {"model": model}
    if case.optimizers is not None:
        given["optimizers"] = case.optimizers(model)
    trainer = case.subclass(trainer_class)(
        args=arguments_class(output_dir=str(folder), **(ARGUMENTS | case.args | labels_alone)),
        train_dataset=case.data(),
        eval_dataset=(case.eval_data or case.data)(seed=1),
        **({"data_collator": pad, "compute_metrics": accuracy} | given | copy.deepcopy(case.trainer)),
    )
    metrics, predictions = search(trainer, case.trials) if case.trials else trainer.train().metrics, ()
    if case.evaluates:
        metrics |= trainer.evaluate()
        predictions = trainer.predict(case.data(seed=2)).predictions
    names = ("loss", "grad_norm", "learning_rate")
    return {
        "steps": [[log[name] for name in names] for log in trainer.state.log_history if "loss" in log],
        "evaluations": [losses_and_scores(log) for log in trainer.state.log_history if case.evaluates],
        "metrics": losses_and_scores(metrics),
        "predictions": flat(predictions),
        "global_step": trainer.state.global_step,
        "weights": weights(trainer.model),
    }


def search(trainer, trials):
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: trial.params,
        compute_objective=lambda metrics: metrics["eval_loss"],
        n_trials=len(trials),
        backend="optuna",
        trials=trials,
    )
    return {"eval_best": best.objective, "eval_trial": best.run_id}


class TrialsInOrder(HyperParamSearchBackendBase):
    """Trains with each of the given settings, as the packages that `Trainer` calls do."""

    name = "optuna"
    is_available = staticmethod(lambda: True)

    def run(self, trainer, n_trials, direction, trials):
        objectives = []
        for number, params in enumerate(trials):
            trainer.train(trial=SimpleNamespace(number=number, params=params))
            objectives.append(trainer.compute_objective(trainer.evaluate()))
        best = int(np.argmin(objectives))
        return BestRun(best, objectives[best], trials[best])


def flat(predictions):
    return [array for part in predictions for array in flat(part)] if isinstance(predictions, tuple) else [predictions]


def losses_and_scores(metrics):
    times = ("runtime", "per_second", "preparation_time", "flos", "loss_ce", "epoch")
    return {
        name: value
        for name, value in metrics.items()
        if name.startswith(("eval", "train")) and not name.endswith(times)
    }


@pytest.mark.parametrize("name", CASES)
def test_labels_alone_train_as_with_the_stock_trainer(name, tmp_path, monkeypatch):
    monkeypatch.setitem(ALL_HYPERPARAMETER_SEARCH_BACKENDS, HPSearchBackend.OPTUNA, TrialsInOrder)
    monkeypatch.setattr(integrations, "hp_params", lambda trial: trial.params)
    stock = run(CASES[name], Trainer, TrainingArguments, tmp_path / "stock")
    labels_alone = {"ce_weight": 1.0, "kl_weight": 0.0}
    ours = run(CASES[name], DistillationTrainer, DistillationTrainingArguments, tmp_path / "ours", **labels_alone)
    assert ours["global_step"] == stock["global_step"] == len(stock["steps"]) > 1
    np.testing.assert_allclose(ours["steps"], stock["steps"], rtol=1e-6, atol=1e-6)
    assert len(ours["evaluations"]) == len(stock["evaluations"])
    for log, expected in zip([*ours["evaluations"], ours["metrics"]], [*stock["evaluations"], stock["metrics"]]):
        assert log == pytest.approx(expected, rel=1e-6, abs=1e-6)
    for array, expected in zip(ours["predictions"], stock["predictions"], strict=True):
        np.testing.assert_allclose(array, expected, rtol=1e-4, atol=1e-5)
    for key, weight in stock["weights"].items():
        torch.testing.assert_close(ours["weights"][key], weight, rtol=1e-4, atol=1e-5)
