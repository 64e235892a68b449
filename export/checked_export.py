"""Writes a classifier as ONNX in float32 and int8, and checks that both files answer as PyTorch does.

measured = export_checked(model, Path("onnx"), data, this_processor())      # data: a `CheckData`
"""

import logging
import math
from functools import partial
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from export.arguments import FLOAT32_FILE, INT8_FILE, METRICS_FILE
from export.float32 import export_float32
from export.int8 import quantize_accurately, this_processor
from export.parity import BATCH_SIZE, INT8_BATCH_SIZE, CheckData, compute_onnx_logits
from layer_distillation.errors import UserError
from layer_distillation.model_outputs import compute_logits

logger = logging.getLogger(__name__)

MAX_LOGIT_DIFFERENCE = 1e-4
MIN_INT8_SHARE = 0.99
SAMPLE_SIZE = 64


def export_checked(model: PreTrainedModel, folder: Path, data: CheckData, processor: str) -> dict:
    """Writes both files of a classifier into an existing folder, and checks them on the validation split.

    Args:
        model: on the CPU, in float32, in `eval()` mode.
        processor: the kind that will run the int8 file, as for `quantize`.

    Returns:
        What was measured, by its names in `metrics.json`.

    Raises:
        UserError: a file does not answer as it should.
    """
    float32_file, int8_file = folder / FLOAT32_FILE, folder / INT8_FILE
    difference = export_checked_float32(model, float32_file, data)
    in_float32 = quantize_checked(float32_file, int8_file, data, processor)
    return {
        "max_logit_difference": difference,
        "in_float32": in_float32,
        "int8_processor": processor,
        "int8_checked_on": this_processor(),
        "float32": _describe(float32_file, data, BATCH_SIZE),
        "int8": _describe(int8_file, data, INT8_BATCH_SIZE),
    }


def _describe(file: Path, data: CheckData, batch_size: int) -> dict:
    """Returns the size of a file in MB (10^6 bytes), and its scores on each split."""
    scores = {split: data.scores(file, split, batch_size) for split in data.splits}
    return {"megabytes": file.stat().st_size / 1e6, **scores}


def export_checked_float32(model: PreTrainedModel, file: Path, data: CheckData) -> float:
    """Writes the float32 graph; returns the largest difference between its validation logits and PyTorch's.

    Raises:
        UserError: the difference is larger than `MAX_LOGIT_DIFFERENCE`.
    """
    expected = compute_logits(model, data.validation, data.collator, BATCH_SIZE)
    export_float32(model, file)
    difference = np.abs(compute_onnx_logits(file, data.validation, data.collator) - expected).max().item()
    logger.info(f"float32: logits within {difference:.1e} of PyTorch's on {len(expected)} validation examples")
    if not difference <= MAX_LOGIT_DIFFERENCE:  # also if it is not a number
        raise UserError(
            f"The float32 export must answer as PyTorch does, within {MAX_LOGIT_DIFFERENCE:g}, but its logits on the "
            f"validation split differ by up to {difference:g}. Use the checkpoint in PyTorch. The export is left in "
            f"{file.parent}, without {METRICS_FILE}."
        )
    return difference


def quantize_checked(float32_file: Path, int8_file: Path, data: CheckData, processor: str) -> list[str]:
    """Writes the int8 graph; returns the names of the operators that had to stay in float32.

    Raises:
        UserError: the graph loses too much accuracy even with half of the operators in float32, or the validation
            split does not allow to measure the accuracy.
    """
    metric = data.metric
    required = data.scores(float32_file, data.validation_split, BATCH_SIZE).get(metric)
    if required is None:
        raise UserError(
            f"int8 must keep the {metric} correlation of float32 on the validation split, which has none: all its "
            f"{len(data.validation)} scores are the same, or all predictions of them. Give --validation_file with "
            "scores that differ."
        )
    found = []

    def is_accurate() -> bool:
        # A graph that gives every example the same answer has no correlation.
        scores = data.scores(int8_file, data.validation_split, INT8_BATCH_SIZE)
        found.append(scores.get(metric, -math.inf))
        logger.info(f"int8: validation {metric} {found[-1]:.4f}, float32 {required:.4f}")
        return found[-1] >= MIN_INT8_SHARE * required

    sample = data.validation.select(range(min(SAMPLE_SIZE, len(data.validation))))
    sample_logits = partial(compute_onnx_logits, dataset=sample, collator=data.collator)
    in_float32 = quantize_accurately(float32_file, int8_file, sample_logits, is_accurate, processor)
    if in_float32 is None:
        raise UserError(
            f"int8 must keep {MIN_INT8_SHARE:.0%} of the validation {metric} {required:.4f}, but has {found[0]:.4f}, "
            f"and {found[-1]:.4f} with the worst half of the operators in float32. Use {float32_file}, which is good; "
            f"{METRICS_FILE} is not written. The int8 model is for --int8_processor {processor}, and was checked on a "
            f"processor of the kind {this_processor()}."
        )
    return in_float32
