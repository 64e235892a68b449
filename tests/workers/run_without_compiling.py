"""Runs `run_distillation.py` under DeepSpeed without a part of it that it would compile for processors, for minutes.

deepspeed --num_gpus 2 tests/workers/run_without_compiling.py ARGUMENTS
"""

import runpy
import sys

import deepspeed.ops

import run_distillation

deepspeed.ops.__compatible_ops__ = {}
sys.argv[0] = run_distillation.__file__
runpy.run_path(run_distillation.__file__, run_name="__main__")
