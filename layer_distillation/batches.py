"""The order in which a training reads its examples, and whether there are any to read.

sampler = EpochShuffleSampler(len(dataset), seed=42, epoch=lambda: 0, lengths=lengths_of(dataset), batch_size=32)
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.trainer_utils import has_length

from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.errors import UserError


class EpochShuffleSampler(Sampler):
    """Shuffles differently in every epoch, but equally on every process and after every resume.

    The order depends on `(seed, epoch)` alone. Without lengths it is the order in which `Trainer` shuffles. With
    lengths it is not: `LengthGroupedSampler` of `transformers` draws from the global random
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
        if self.lengths is None:
            generator = torch.Generator().manual_seed(
                self.seed + self.epoch()
            )  # as accelerate's SeedableRandomSampler
            return iter(torch.randperm(self.num_examples, generator=generator).tolist())
        # A large odd stride keeps (seed 0, epoch 1) and (seed 1, epoch 0) apart.
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch())
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))


def check_makes_a_batch(dataset: Any, args: DistillationTrainingArguments) -> None:
    """Checks training data of known length. Without a batch, `Trainer` fails where it looks for the first example, or
    takes no step.

    Raises:
        UserError: there are no examples, or too few for a batch where the last one is dropped unless it is full.
    """
    if dataset is None or not has_length(dataset):
        return
    if len(dataset) == 0:
        raise UserError("The training data have no examples, so there is nothing to learn from. Pass at least one.")
    if args.dataloader_drop_last and len(dataset) < args.examples_a_pass:
        raise UserError(
            f"{len(dataset)} examples make no full batch of {args.examples_a_pass}: lower "
            "--per_device_train_batch_size or leave out --dataloader_drop_last."
        )


def lengths_of(dataset: Any, columns: tuple[str, str] = ("length", "input_ids")) -> list[int] | None:
    """Returns the length of each example, `None` where none can be read: the order is then a plain shuffle.

    Args:
        dataset: a table, or a map-style data set of examples.
        columns: names of a column of a table that holds the lengths, and of what has them otherwise, such as the ids.
    """
    length, content = columns
    if isinstance(dataset, Dataset):
        if length in dataset.column_names:
            return list(dataset[length])
        if content in dataset.column_names:  # reads one column without decoding the others
            return [len(ids) for ids in dataset.with_format(None)[content]]
        # Texts that a transform tokenizes when they are fetched: no pass over all of them for their lengths.
        return None
    if isinstance(dataset[0], Mapping) and content in dataset[0]:
        return [len(dataset[index][content]) for index in range(len(dataset))]
    return None
