"""The splits of the source that the arguments name, as the source holds them.

    name, raw = read_source(data_args)    # "nyu-mll/glue rte", {"train": RawSplit, "validation": RawSplit, ...}

`files` and `hub` do the reading.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset

from layer_distillation.errors import UserError
from text_data.arguments import GLUE, SAMPLE_DATA, DataArguments
from text_data.files import category_orders, read_file
from text_data.hub import full_name, load_hub_data
from text_data.names import join_names
from text_data.splits import splits_for


@dataclass(frozen=True)
class RawSplit:
    """A split as its source holds it.

    Attributes:
        where: names the split in messages.
        orders: the categories of columns whose type has an order of them, if the type of `data` does not tell it.
    """

    data: Dataset
    where: str
    orders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_source(data_args: DataArguments) -> tuple[str, dict[str, RawSplit]]:
    """Returns a short name of the source, and its train, validation and test splits in this order.

    Raises:
        UserError: the source cannot be read, has no training split, or a split has no rows.
    """
    if data_args.task_name is not None:
        source, raw = _read_hub(GLUE, data_args.task_name)
    elif data_args.dataset_name is not None:
        source, raw = _read_hub(data_args.dataset_name, data_args.dataset_config_name)
    elif data_args.files:
        source, raw = (
            "/".join(Path(data_args.train_file).parts[-2:]),
            _read_files(data_args.files, data_args.json_field),
        )
    else:
        folder = Path(__file__).parent.parent / SAMPLE_DATA
        files = {split: str(folder / f"{split}.csv") for split in ("train", "validation", "test")}
        source, raw = SAMPLE_DATA, _read_files(files)

    if "train" not in raw:
        raise UserError(f"{source} must have a split named train, found {', '.join(raw)}. Use --train_file.")
    for split in raw.values():
        if len(split.data) == 0:
            raise UserError(
                f"A split must hold rows, but {split.where} has none, only the columns "
                f"{join_names(split.data.column_names, ', ')}. Add rows, or leave the split out."
            )
    return source, {name: raw[name] for name in ("train", *splits_for("validation", raw), *splits_for("test", raw))}


def _read_hub(name: str, config_name: str | None) -> tuple[str, dict[str, RawSplit]]:
    source = full_name(name, config_name)
    splits = load_hub_data(name, config_name)
    return source, {split: RawSplit(data, f"split {split!r} of {source}") for split, data in splits.items()}


def _read_files(files: dict[str, str], json_field: str | None = None) -> dict[str, RawSplit]:
    return {
        split: RawSplit(read_file(Path(path), json_field), path, category_orders(Path(path)))
        for split, path in files.items()
    }
