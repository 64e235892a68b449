"""Models that are complete on every process, where DeepSpeed ZeRO-3 and FSDP give each a share of every weight.

with whole_weights():
    model = AutoModelForSequenceClassification.from_pretrained(...)
with gathered(sharded_model):
    tensors = sharded_model.state_dict()
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from accelerate.utils import patch_environment
from transformers import PreTrainedModel
from transformers.integrations import deepspeed as deepspeed_integration


@contextmanager
def whole_weights() -> Iterator[None]:
    """Makes models that are built or loaded in this context complete on every process.

    Elsewhere `from_pretrained` gives each process a share of every weight under ZeRO-3. So does the class of a decoder
    with a head, which builds its decoder by `AutoModel.from_config`. Under FSDP with
    `cpu_ram_efficient_loading` it gives weights to the first process only. Only an engine can run such models.
    """
    reference = deepspeed_integration._hf_deepspeed_config_weak_ref
    config = reference() if reference is not None else None
    deepspeed_integration.unset_hf_deepspeed_config()
    try:
        with patch_environment(fsdp_cpu_ram_efficient_loading="false"):
            yield
    finally:
        if config is not None:
            deepspeed_integration.set_hf_deepspeed_config(config)


def gathered(model: PreTrainedModel) -> AbstractContextManager:
    """Gives every process the whole parameters. Under ZeRO-3 it holds a share of them, and empty tensors instead."""
    sharded = [parameter for parameter in model.parameters() if hasattr(parameter, "ds_id")]
    if not sharded:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(sharded)
