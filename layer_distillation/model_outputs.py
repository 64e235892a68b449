"""Runs a model over a data set, and says which columns of the data set it reads.

from layer_distillation.model_outputs import compute_logits, outputs_of_batches

logits = compute_logits(model, dataset, collator)    # (examples, labels), over all processes
for indices, batch, outputs in outputs_of_batches(model, dataset, range(len(dataset)), collator):
    ...
"""

import copy
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import extract_model_from_parallel, gather_object, send_to_device
from datasets import Dataset
from torch import nn
from tqdm.auto import tqdm
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ModelOutput
from transformers.trainer_utils import unwrap_peft_model

from layer_distillation.errors import UserError
from layer_distillation.problem_types import REGRESSION

# What a tokenizer writes for a model. Labels and lengths do not change its outputs.
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# Where a module keeps its hooks.
KINDS_OF_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
# What models return beside predictions; those with an encoder and a decoder return the second one in any case.
INNER_OUTPUTS = (
    *("hidden_states", "encoder_last_hidden_state", "encoder_hidden_states", "decoder_hidden_states"),
    *("attentions", "encoder_attentions", "decoder_attentions", "cross_attentions"),
)


def with_model_inputs(tokenized: Dataset, columns: Sequence[str] = MODEL_INPUTS) -> Dataset:
    """Returns a tokenized data set with these columns alone, as far as it has them."""
    return tokenized.select_columns([name for name in columns if name in tokenized.column_names])


def outputs_of_batches(
    model: PreTrainedModel,
    dataset: Dataset,
    order: Sequence[int],
    collator: Callable,
    batch_size: int = 64,
    *,
    bf16: bool = False,
    output_hidden_states: bool = False,
) -> Iterator[tuple[Sequence[int], dict[str, torch.Tensor], ModelOutput]]:
    """Runs a model over examples of a tokenized data set, without gradients.

    Args:
        model: in `eval()` mode.
        dataset: with `input_ids` and what else the model reads (see `columns_read_by`). It gets no other column.
        order: 0-based positions of the examples in the data set, in the order in which the model reads them.
        collator: pads a list of examples into a batch of tensors, for example `DataCollatorWithPadding(tokenizer)`.
        batch_size: examples in a forward pass.
        bf16: whether the forward pass is autocast to bfloat16.
        output_hidden_states: whether the outputs have `hidden_states`.

    Yields:
        For each batch: the positions of its examples, its tensors on the model's device, and the model's outputs.
    """
    inputs = with_model_inputs(dataset, columns_read_by(model))
    device = next(model.parameters()).device
    flags = {"output_hidden_states": True, "return_dict": True} if output_hidden_states else {}
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        batch = send_to_device(collator(inputs.select(indices).to_list()), device)
        # Not around the loop: between two batches the caller's own code runs.
        with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            outputs = model(**batch, **flags)
        yield indices, batch, outputs


def compute_logits(
    model: PreTrainedModel, dataset: Dataset, collator: Callable, batch_size: int = 64, bf16: bool = False
) -> np.ndarray:
    """Returns the logits of a classifier for a tokenized data set; the processes of a launch share the work.

    Args:
        model: in `eval()` mode, the same on every process.
        dataset, collator, bf16: as for `outputs_of_batches`.
        batch_size: examples in a forward pass of each process.

    Returns:
        float32 `(len(dataset), num_labels)` in the order of the data set, on every process.

    Raises:
        UserError: there are no examples, or the model does not give a row of logits for each text, as a classifier of
            tokens.
    """
    check_has_examples(dataset)
    state = PartialState()
    # Texts of similar length go together. The longest come first, so that running out of memory shows at once.
    order = longest_first(dataset)[state.process_index :: state.num_processes]
    batches = outputs_of_batches(model, dataset, order, collator, batch_size, bf16=bf16)
    num_batches = -(-len(order) // batch_size)
    own_rows = [
        _logits_of_texts(outputs).float().cpu().numpy()
        for _, _, outputs in tqdm(batches, "Logits", num_batches, disable=not state.is_main_process)
    ]
    parts = gather_object([(order, np.concatenate(own_rows))] if own_rows else [])
    logits = np.empty((len(dataset), parts[0][1].shape[1]), dtype=np.float32)
    for indices, rows in parts:
        logits[indices] = rows
    return logits


def check_has_examples(dataset: Dataset) -> None:
    """Raises a `UserError` for a data set without examples: of no outputs, nobody can tell how wide they are."""
    if len(dataset) == 0:
        raise UserError("The data set has no examples, so there is nothing to compute. Pass at least one example.")


def _logits_of_texts(outputs: Any) -> torch.Tensor:
    logits = logits_of(outputs)
    if logits is None or logits.dim() != 2:
        found = "none" if logits is None else f"the shape {tuple(logits.shape)}"
        raise UserError(
            f"A classifier of texts gives logits `(batch, num_labels)`, found {found}. The logits of tokens are not "
            "stored: pass their teacher as `teacher_model`, which then runs in every step."
        )
    return logits


def longest_first(dataset: Dataset) -> np.ndarray:
    """Returns the 0-based positions of the examples by length in tokens, the longest first."""
    return np.argsort([-len(ids) for ids in dataset["input_ids"]], kind="stable")


def forward_names(model: nn.Module) -> set[str]:
    """Returns the names of the inputs that `model.forward` names."""
    parameters = inspect.signature(plain_model(model).forward).parameters.values()
    return {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}


def forward_columns(model: nn.Module) -> set[str]:
    """Returns the names of the inputs that `model.forward` names, without `labels`."""
    return forward_names(model) - {"labels"}


def columns_read_by(model: nn.Module) -> tuple[str, ...]:
    """Returns the columns of a data set that a model may read: `MODEL_INPUTS`, and what its `forward` names."""
    return (*MODEL_INPUTS, *sorted(forward_columns(model).difference(MODEL_INPUTS)))


def takes_every_column(model: nn.Module) -> bool:
    """Returns whether `model.forward` takes inputs that it does not name, as `**kwargs`."""
    parameters = inspect.signature(plain_model(model).forward).parameters.values()
    return any(p.kind == p.VAR_KEYWORD for p in parameters)


def plain_model(model: nn.Module) -> nn.Module:
    """Returns the model within the wrappers of `torch.compile`, of PEFT and of several processes."""
    model = extract_model_from_parallel(model, keep_torch_compile=False)
    base = unwrap_peft_model(model)
    return model if base is model else plain_model(base)


def with_own_modules(model: PreTrainedModel) -> PreTrainedModel:
    """Returns a copy of a model whose modules can be changed without changing the model; they share the weights.

    The copy has no hooks: what they keep is for runs of the model.
    """
    hooks = [getattr(module, kind) for module in model.modules() for kind in KINDS_OF_HOOKS]
    without_hooks = {id(of_module): OrderedDict() for of_module in hooks}
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()} | without_hooks)


def config_of(model: nn.Module) -> PretrainedConfig | None:
    """Returns the config of a model; a module that is no `PreTrainedModel` need not have one."""
    config = getattr(plain_model(model), "config", None)
    return config if isinstance(config, PretrainedConfig) else None


def plain_attributes(module: nn.Module) -> dict[str, bool | int | float | str]:
    """Returns the public attributes of a module, without those inside, that are numbers, switches or names."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str) and not name.startswith("_")
    }


def stated_problem_type(*models: nn.Module | None) -> str | None:
    """Returns what the config of the first model that is given states, or its single output means.

    `None` where the labels decide, or where no model is given.
    """
    config = next((config_of(model) for model in models if model is not None), None)
    if config is None:
        return None
    return config.problem_type or (REGRESSION if config.num_labels == 1 else None)


def no_predictions(model: nn.Module) -> list[str]:
    """Returns the names of the outputs of a model that are no predictions, such as hidden states and caches."""
    config = config_of(model)
    of_model = [] if config is None else getattr(config, "keys_to_ignore_at_inference", ["past_key_values"])
    return [*of_model, *INNER_OUTPUTS]


def logits_of(outputs: Any) -> torch.Tensor | None:
    """Returns the logits among the outputs of a model, `None` if there are none or they are not one tensor.

    In a mapping, their name is `logits`. In a tuple, they come first, or second after the loss. Logits `(batch,)` of a
    single output become `(batch, 1)`.
    """
    if isinstance(outputs, Mapping):
        logits = outputs.get("logits")
    elif isinstance(outputs, Sequence):
        after_loss = outputs if loss_of(outputs) is None else outputs[1:]
        logits = after_loss[0] if after_loss else None
    else:
        logits = outputs
    if not isinstance(logits, torch.Tensor):
        return None
    return logits.unsqueeze(-1) if logits.dim() == 1 else logits


def loss_of(outputs: Any) -> torch.Tensor | None:
    """Returns the loss among the outputs of a model, `None` if it has computed none.

    In a tuple it comes first, and it is one number, or one for each GPU of the process.
    """
    if isinstance(outputs, Mapping):
        return outputs.get("loss")
    if not (isinstance(outputs, Sequence) and outputs and isinstance(outputs[0], torch.Tensor)):
        return None
    is_loss = outputs[0].dim() == 0 or (outputs[0].dim() == 1 and len(outputs[0]) == torch.cuda.device_count() > 1)
    return outputs[0] if is_loss else None


def with_loss(outputs: Any, loss: torch.Tensor | None) -> Any:
    """Returns the outputs of a model as `Trainer` expects them beside a loss: with a loss, in a tuple the first."""
    if loss is None or loss_of(outputs) is not None:
        return outputs
    if isinstance(outputs, torch.Tensor):
        return loss, outputs
    if isinstance(outputs, Mapping):
        outputs["loss"] = loss
        return outputs
    return loss, *outputs


def in_tuples(model: nn.Module) -> Callable[..., Any]:
    """Returns the model as a function that returns a tensor as a tuple of one.

    `Trainer` takes the first entry of what has one entry, which of a tensor is the row of the only example.
    """

    def forward(**inputs: Any) -> Any:
        outputs = model(**inputs)
        return (outputs,) if isinstance(outputs, torch.Tensor) else outputs

    return forward
