"""Runs a script until it kills its process, as a machine that goes down would.

python tests/workers/killed_run.py run_distillation step 7 ARGUMENTS      # after optimizer step 7
python tests/workers/killed_run.py run_distillation writing 8 ARGUMENTS   # between two files of checkpoint-8
python tests/workers/killed_run.py run_lora merging 0 ARGUMENTS           # between two files of the merged model
"""

import importlib
import os
import signal
import sys
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase, TrainerCallback

from training import run as training_run
from training.output_folder import MERGED_FOLDER


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


class KillAfterStep(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step and args.process_index == 0:
            kill()


def kill_while_writing(step):
    save = torch.save

    def save_or_kill(content, file, *args, **kwargs):
        # The weights and the optimizer's state are there by then, the scheduler's and the trainer's are not.
        if str(file).endswith(f"checkpoint-{step}/scheduler.pt"):
            kill()
        save(content, file, *args, **kwargs)

    torch.save = save_or_kill


def kill_while_merging():
    save = PreTrainedTokenizerBase.save_pretrained

    def save_or_kill(tokenizer, folder, *args, **kwargs):
        if MERGED_FOLDER in Path(folder).parts:  # with the weights by then
            kill()
        return save(tokenizer, folder, *args, **kwargs)

    PreTrainedTokenizerBase.save_pretrained = save_or_kill


def main():
    script, when, step, *arguments = sys.argv[1:]
    if when == "writing":
        kill_while_writing(int(step))
    elif when == "merging":
        kill_while_merging()
    else:
        marker = training_run.CheckpointMarker

        class MarkerThatKills(marker, KillAfterStep):
            pass

        training_run.CheckpointMarker = lambda: MarkerThatKills(int(step))
    importlib.import_module(script).main(arguments)


if __name__ == "__main__":
    main()
