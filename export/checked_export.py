"""Writes a classifier as ONNX in float32 and int8, and checks that both files answer as PyTorch does.

measured = export_checked(model, Path("onnx"), data, this_processor())      # data: a `CheckData`
"""

import logging
import math
from functools import partial
from pathlib import Path

import numpy as np
from datasets import Dataset
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, NotImplemented, RuntimeException
from transformers import PreTrainedModel

from export.arguments import FLOAT32_FILE, INT8_FILE, METRICS_FILE
from export.float32 import export_float32
from export.int8 import processor_name, quantize_accurately, this_processor
from export.parity import BATCH_SIZE, INT8_BATCH_SIZE, CheckData, compute_onnx_logits
from layer_distillation.errors import UserError
from layer_distillation.model_outputs import compute_logits
from layer_distillation.problem_types import REGRESSION

logger = logging.getLogger(__name__)

# Where the largest logit is at most 1; of the largest logit where it is larger.
MAX_LOGIT_DIFFERENCE = 1e-4
# Of the accuracy or correlation of float32; int8 may always lose one right answer.
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
    float32_file.parent.mkdir(exist_ok=True)
    difference = export_checked_float32(model, float32_file, data)
    quantized = quantize_checked(float32_file, int8_file, data, processor)
    return {
        "max_logit_difference": difference,
        "int8_processor": processor,
        "int8_checked_on": this_processor(),
        "int8_checked_on_processor": processor_name(),
        **quantized,
        "float32": _describe(float32_file, data, BATCH_SIZE),
        "int8": _describe(int8_file, data, INT8_BATCH_SIZE),
    }


def _describe(file: Path, data: CheckData, batch_size: int) -> dict:
    """Returns the size of a file in MB (10^6 bytes), and its scores on each split."""
    scores = {
        split: data.scores(compute_onnx_logits(file, examples, data.collator, batch_size), split)
        for split, examples in data.splits.items()
    }
    return {"megabytes": file.stat().st_size / 1e6, **scores}


def export_checked_float32(model: PreTrainedModel, file: Path, data: CheckData) -> float:
    """Writes the float32 graph; returns the largest difference between its logits and PyTorch's.

    They are compared on the validation split and on a text of the greatest length, because some architectures compute
    long texts in another way.

    Raises:
        UserError: ONNX Runtime cannot run the graph, or the difference is larger than `MAX_LOGIT_DIFFERENCE`, relative
            to the largest logit if that is larger than 1.
    """
    # The long text comes first: BigBird turns to full attention for good when it reads short ones.
    parts = {f"a text of {data.max_length} tokens": data.longest_text, "the validation split": data.validation}
    expected = {name: compute_logits(model, part, data.collator, BATCH_SIZE) for name, part in parts.items()}
    if not all(np.isfinite(logits).all() for logits in expected.values()):
        raise UserError("The checkpoint's own logits are NaN or infinite: its training has failed. Train it again.")
    export_float32(model, file)
    differences = {}
    for name, part in parts.items():
        found = _onnx_logits(file, part, data)
        differences[name] = np.abs(found - expected[name]).max().item()
        allowed = MAX_LOGIT_DIFFERENCE * max(1, np.abs(expected[name]).max().item())
        if not differences[name] <= allowed:  # also if ONNX Runtime's is not a number
            raise UserError(
                f"The float32 export must answer as PyTorch does, within {allowed:g}, but its logits on {name} differ "
                f"by up to {differences[name]:g}. Use the checkpoint in PyTorch, or try a smaller --max_seq_length if "
                f"only long texts differ. The graph is left in {file}, but {METRICS_FILE} is not written."
            )
    difference = max(differences.values())
    logger.info(f"float32: logits within {difference:.1e} of PyTorch's on {' and '.join(parts)}")
    return difference


def _onnx_logits(file: Path, examples: Dataset, data: CheckData) -> np.ndarray:
    try:
        return compute_onnx_logits(file, examples, data.collator)
    except (Fail, InvalidGraph, NotImplemented, RuntimeException) as error:  # they have no class in common
        # Before it stand numbers and names of the graph, after it advice.
        reason = str(error).rpartition("Status Message: ")[2].rpartition(" : ")[2].partition(". ")[0]
        raise UserError(
            f"ONNX Runtime cannot run the graph that PyTorch's exporter has written: {reason}. Use the checkpoint in "
            f"PyTorch. The graph is left in {file}, but {METRICS_FILE} is not written."
        ) from error


def quantize_checked(float32_file: Path, int8_file: Path, data: CheckData, processor: str) -> dict:
    """Writes the int8 graph, and checks it as it is served, a text at a time.

    Returns:
        `in_float32`, the names of the operators that had to stay in float32, and `int8_beside_float32`, what
        `Gate.measure` says about the graph.

    Raises:
        UserError: the graph does not pass even with half of the operators in float32, or the validation split does not
            allow to measure it.
    """
    metric, split = data.metric, data.validation_split
    float32_logits = compute_onnx_logits(float32_file, data.validation, data.collator)
    required = data.scores(float32_logits, split).get(metric)
    if required is None:
        raise UserError(
            f"int8 must keep the {metric} correlation of float32 on the validation split, which has none: all its "
            f"{len(data.validation)} scores are the same, or all predictions of them. Give --validation_file with "
            "scores that differ."
        )
    gate, attempts = data.gate(float32_logits), []

    def is_good() -> bool:
        logits = compute_onnx_logits(int8_file, data.validation, data.collator, INT8_BATCH_SIZE)
        # A graph that gives every example the same answer has no correlation.
        found = data.scores(logits, split).get(metric, -math.inf)
        failures = gate.failures(logits)
        # At most one, whatever the rounding.
        loses_one = data.problem_type != REGRESSION and (required - found) * len(data.validation) < 1.5
        if not (found >= MIN_INT8_SHARE * required or loses_one):
            failures.insert(0, f"has the {metric} {found:.4f}, float32 {required:.4f}")
        logger.info(f"int8: validation {metric} {found:.4f}, float32 {required:.4f}; {'; '.join(failures) or 'good'}")
        attempts.append((failures, logits))
        return not failures

    sample = data.validation.select(range(min(SAMPLE_SIZE, len(data.validation))))
    sample_logits = partial(compute_onnx_logits, dataset=sample, collator=data.collator)
    in_float32 = quantize_accurately(float32_file, int8_file, sample_logits, is_good, processor)
    failures, logits = attempts[-1]
    if in_float32 is None:
        raise UserError(
            f"int8 must keep {MIN_INT8_SHARE:.0%} of the validation {metric} and decide as float32 does, but it "
            f"{'; '.join(attempts[0][0])}. With the worst half of the operators in float32 it {'; '.join(failures)}. "
            f"{float32_file} is good, for ONNX Runtime itself, but the app serves no export without int8, and "
            f"{METRICS_FILE} is not written: it serves the checkpoint with --backend pytorch. The int8 model is for "
            f"--int8_processor {processor}, and was checked on a processor of the kind {this_processor()}."
        )
    return {"in_float32": in_float32, "int8_beside_float32": gate.measure(logits)}
