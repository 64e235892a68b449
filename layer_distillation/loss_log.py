"""The mean of each loss since the last log and over a whole training, for all processes together.

log = LossLog()
log.add({"ce": ce, "total": loss}, share_of_step=0.25)          # in each of four micro-batches
log.since_last_log("loss", accelerator)                         # {"loss": 0.7, "loss_ce": 0.5}
log.of_training("train_loss", accelerator)
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import Accelerator

TOTAL = "total"
STEPS = "steps"


class LossLog:
    """Sums of losses by name. The loss `total` is the one that is minimized; its mean bears the name of the log."""

    def __init__(self):
        self._since_log: dict[str, torch.Tensor | float] = {}  # of this process
        self._before: dict[str, float] = {}  # from the beginning to the last log, a mean over the processes

    def add(self, losses: Mapping[str, torch.Tensor], share_of_step: float) -> None:
        """Adds this process's share of the losses of an optimizer step, without waiting for their values."""
        for name, value in {**losses, STEPS: share_of_step}.items():
            self._since_log[name] = self._since_log.get(name, 0.0) + value

    def since_last_log(self, name: str, accelerator: Accelerator) -> dict[str, float]:
        """Returns the means a step since the last call, by `NAME` and `NAME_LOSS`, equal on every process."""
        return _means(self._drain(accelerator), name)

    def of_training(self, name: str, accelerator: Accelerator) -> dict[str, float]:
        """Returns the means a step since the beginning, and starts again."""
        self._drain(accelerator)
        means = _means(self._before, name)
        self._before = {}
        return means

    def save(self, file: Path) -> None:
        """Writes the sums of this process, as JSON."""
        since_log = {name: float(value) for name, value in self._since_log.items()}
        file.write_text(json.dumps([since_log, self._before]))

    def load(self, file: Path) -> None:
        """Continues from the sums in a file, if there is one."""
        if file.is_file():
            self._since_log, self._before = json.loads(file.read_text())

    def _drain(self, accelerator: Accelerator) -> dict[str, float]:
        """Returns the means over the processes of the sums since the last log, and adds them to those before it."""
        if not self._since_log:
            return {}
        sums = torch.stack([torch.as_tensor(s, device=accelerator.device) for s in self._since_log.values()])
        drained = dict(zip(self._since_log, accelerator.reduce(sums, "mean").tolist(), strict=True))
        self._since_log = {}
        for name, value in drained.items():
            self._before[name] = self._before.get(name, 0.0) + value
        return drained


def _means(sums: Mapping[str, float], name: str) -> dict[str, float]:
    if not sums.get(STEPS):  # no step, or none with a finite loss
        return {}
    means = {loss: value / sums[STEPS] for loss, value in sums.items() if loss != STEPS}
    return {name if loss == TOTAL else f"{name}_{loss}": mean for loss, mean in means.items()}
