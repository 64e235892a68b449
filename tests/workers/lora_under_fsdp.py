"""Runs `run_lora.py` under FSDP on processors, with the environment that `accelerate launch` makes for FSDP.

Accelerate knows FSDP on accelerators only, and would quietly train with DDP on processors.
"""

from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from transformers import TrainingArguments

import run_lora
from training.command_line import run_script

set_up = TrainingArguments.__post_init__


def set_up_for_fsdp(args):
    set_up(args)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


TrainingArguments.__post_init__ = set_up_for_fsdp
run_script(run_lora.main)
assert AcceleratorState().distributed_type == DistributedType.FSDP
