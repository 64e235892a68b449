"""The order in which a training reads its examples.

sampler = EpochShuffleSampler(len(dataset), seed=42, epoch=lambda: 0, lengths=lengths_of(dataset), batch_size=32)
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices


class EpochShuffleSampler(Sampler):
    """Shuffles differently in every epoch, but equally on every process and after every resume.

    The order depends on `(seed, epoch)` alone. `LengthGroupedSampler` of `transformers` draws from the global random
    state. On a processor, dropout advances that state by different amounts in processes whose batches differ in
    length. From the second epoch on, the processes would disagree about the order and share examples.

    Args:
        num_examples: length of the data set.
        seed: of the shuffle.
        epoch: returns the current epoch, counted from 0.
        lengths: tokens of each example, to group examples of similar length; `None` for a plain shuffle.
        batch_size: examples in an optimizer step over all processes, whose lengths should be similar.
    """

    def __init__(
        self,
        num_examples: int,
        seed: int,
        epoch: Callable[[], int],
        lengths: list[int] | None = None,
        batch_size: int = 1,
    ):
        self.num_examples = num_examples
        self.seed = seed
        self.epoch = epoch
        self.lengths = lengths
        self.batch_size = batch_size

    def __len__(self) -> int:
        return self.num_examples

    def __iter__(self) -> Iterator[int]:
        # A large odd stride keeps (seed 0, epoch 1) and (seed 1, epoch 0) apart.
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch())
        if self.lengths is None:
            return iter(torch.randperm(self.num_examples, generator=generator).tolist())
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))


def lengths_of(dataset: Dataset | Sequence[dict]) -> list[int]:
    """Returns the number of tokens of each example."""
    is_table = isinstance(dataset, Dataset)  # reads one column without decoding the others
    return [len(ids) for ids in (dataset["input_ids"] if is_table else (row["input_ids"] for row in dataset))]
