"""The logits of an ONNX file, to be compared with those of the checkpoint."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from datasets import Dataset

BATCH_SIZE = 8  # on a processor the quickest per example; larger batches outgrow its caches
# In int8 the activations of a batch have one scale, so that an answer would depend on the texts beside it.
INT8_BATCH_SIZE = 1


def compute_onnx_logits(
    file: str | Path, dataset: Dataset, collator: Callable, batch_size: int = BATCH_SIZE
) -> np.ndarray:
    """Runs an ONNX classifier over a tokenised data set.

    Args:
        collator: pads a list of examples into a batch of tensors, for example `DataCollatorWithPadding(tokenizer)`.
        batch_size: `INT8_BATCH_SIZE` for an int8 graph.

    Returns:
        float32 `(len(dataset), num_labels)`, in the data set's order.
    """
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    inputs = dataset.select_columns(names)
    rows = []
    for start in range(0, len(inputs), batch_size):
        batch = collator(inputs.select(range(start, min(start + batch_size, len(inputs)))).to_list())
        rows.append(session.run(["logits"], {name: batch[name].numpy() for name in names})[0])
    return np.concatenate(rows)
