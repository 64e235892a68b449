"""The precision of weights that are trained.

student = in_float32(student)
"""

import logging

import torch
from torch import nn

from layer_distillation.model_outputs import plain_model

logger = logging.getLogger(__name__)


def in_float32(model: nn.Module) -> nn.Module:
    """Casts a model in place to float32 if weights that it would train are in half precision.

    Half precision drops most updates: a step of AdamW changes a weight by a share of about the learning rate, and
    bfloat16 has 8 significant bits. `bf16=True` computes in bfloat16 with float32 weights. A quantized model stays.

    Returns:
        The same object.
    """
    trained = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    if trained & {torch.float16, torch.bfloat16} and not getattr(plain_model(model), "is_quantized", False):
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in trained))
        logger.warning(f"Weights of the student in {names} are cast to float32, in which they are trained.")
        model.float()
    return model
