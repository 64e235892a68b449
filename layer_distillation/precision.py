"""The precision of weights that are trained, and of a model that is built for them.

student = in_float32(student)
set_float32(student.config)    # before a model is built of it
"""

import logging

import torch
from torch import nn
from transformers import PretrainedConfig

from layer_distillation.model_outputs import plain_model

logger = logging.getLogger(__name__)

HALF_PRECISION = {torch.float16, torch.bfloat16}


def in_float32(model: nn.Module) -> nn.Module:
    """Casts a model in place to float32 if weights that it would train are in half precision.

    Half precision drops most updates: a step of AdamW changes a weight by a share of about the learning rate, and
    bfloat16 has 8 significant bits. `bf16=True` computes in bfloat16 with float32 weights. A quantized model stays.

    Returns:
        The same object.
    """
    trained = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    if trained & HALF_PRECISION and not is_quantized(model):
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in trained))
        logger.warning(f"Weights of the student in {names} are cast to float32, in which they are trained.")
        model.float()
    return model


def set_float32(config: PretrainedConfig) -> None:
    """Sets the precision that a config asks for to float32, in its parts too, where it is half.

    A model computes constants in the precision of its config when it is built, such as the factor of Gemma's
    embeddings. Those that no checkpoint holds would change when the model is saved in float32 and loaded.
    """
    if config.dtype in HALF_PRECISION:
        config.dtype = torch.float32
    for name in config.sub_configs:
        if (part := getattr(config, name, None)) is not None:
            set_float32(part)


def is_quantized(model: nn.Module) -> bool:
    """Returns whether the weights of a model were quantized when it was loaded."""
    return getattr(plain_model(model), "is_quantized", False)
