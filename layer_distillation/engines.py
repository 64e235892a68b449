"""What `Trainer` leaves open for DeepSpeed ZeRO-3 and FSDP, which give each process a share of every weight.

teacher = shard_for_inference(model.eval(), trainer.accelerator)
"""

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DeepSpeedPlugin, DistributedType
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from transformers import PreTrainedModel, TrainingArguments
from transformers.integrations import deepspeed as deepspeed_integration

from layer_distillation.encoder_layers import lists_of_layers


def renew_engine_config(args: TrainingArguments) -> None:
    """Gives copied and changed arguments their own configuration of DeepSpeed.

    `TrainingArguments` and the trainer fill in what is "auto" in the configuration. Copies that shared it would train
    with the learning rate of the first copy and the number of steps of the copy that is trained first.
    """
    if args.deepspeed:
        args.hf_deepspeed_config = deepspeed_integration.HfTrainerDeepSpeedConfig(args.deepspeed)
        args.hf_deepspeed_config.trainer_config_process(args)
        args.deepspeed_plugin = DeepSpeedPlugin(hf_ds_config=args.hf_deepspeed_config)
    elif args.deepspeed_plugin is not None:  # from `accelerate launch`, which passes it in the environment
        args.deepspeed_plugin = DeepSpeedPlugin()
        args.deepspeed_plugin.set_mixed_precision(args.mixed_precision)
        args.deepspeed_plugin.set_deepspeed_weakref()


def use_precision_of(args: TrainingArguments) -> None:
    """Has accelerate, which knows one precision for a whole process, compute in that of these arguments.

    Otherwise it refuses a trainer after one of another precision, such as a regression after a classifier.
    """
    state = AcceleratorState._shared_state
    if state and state["distributed_type"] != DistributedType.DEEPSPEED:
        state["_mixed_precision"] = args.mixed_precision


def release_engine() -> None:
    """Lets this process start another trainer, which DeepSpeed's plugin would refuse."""
    AcceleratorState._reset_state()


def shard_for_inference(model: PreTrainedModel, accelerator: Accelerator) -> nn.Module:
    """Shards a frozen model as the engine that trains the student does.

    Under ZeRO-3 the model becomes another engine. Under FSDP it is sharded layer by layer. Under DDP, ZeRO-1 and
    ZeRO-2, which do not shard weights, it is only moved to the device of each process.
    """
    if accelerator.distributed_type == DistributedType.FSDP:
        return _fully_shard(model, accelerator)
    plugin = accelerator.state.deepspeed_plugin if accelerator.distributed_type == DistributedType.DEEPSPEED else None
    if plugin is not None and plugin.zero_stage == 3:
        return _zero3_engine(model, plugin.deepspeed_config)
    tensors = (*model.parameters(), *model.buffers())
    is_there = all(tensor.device == accelerator.device for tensor in tensors)
    return model if is_there else model.to(accelerator.device)  # quantized models refuse `to`


def _zero3_engine(model: PreTrainedModel, student_config: dict) -> nn.Module:
    import deepspeed

    # Only training needs the values that are "auto".
    zero = {name: value for name, value in student_config["zero_optimization"].items() if value != "auto"}
    precisions = {name: student_config[name] for name in ("bf16", "fp16") if name in student_config}
    config = {"zero_optimization": zero, "train_micro_batch_size_per_gpu": 1, **precisions}
    engine, *_ = deepspeed.initialize(model=model, config=config)
    engine.eval()
    return engine


def choose_fsdp_units(model: PreTrainedModel, accelerator: Accelerator) -> None:
    """Lets FSDP gather the model layer by layer, unless the configuration of the launcher names other modules.

    Accelerate gathers by `_no_split_modules`. For BERT these include the embeddings, and accelerate then fails because
    it shards the word embeddings within them a second time.
    """
    plugin = accelerator.state.fsdp_plugin
    if plugin.transformer_cls_names_to_wrap is None:
        plugin.transformer_cls_names_to_wrap = sorted({type(layer).__name__ for layer in _layers(model)})


def _layers(model: PreTrainedModel) -> list[nn.Module]:
    """Returns the layers of a model, also of one that holds them in several lists."""
    return [layer for name in lists_of_layers(model) for layer in model.get_submodule(name)]


def _fully_shard(model: PreTrainedModel, accelerator: Accelerator) -> nn.Module:
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision)
    for module in (*_layers(model), model):
        fully_shard(module, mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=dtype))
    return model
