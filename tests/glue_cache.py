"""GLUE tasks with made-up rows, in the form in which `datasets` keeps them in its cache.

    write_glue_cache(cache_dir, "rte", num_rows=6)

`cache_dir` is what `datasets` calls HF_DATASETS_CACHE.
"""

from pathlib import Path

from datasets import ClassLabel, DatasetInfo, Features, SplitDict, SplitInfo, Value
from datasets.arrow_writer import ArrowWriter

# Text columns and label names of the tasks on the Hub, `None` for scores. MNLI is left out for its other split names.
GLUE_TASKS = {
    "cola": (("sentence",), ("unacceptable", "acceptable")),
    "sst2": (("sentence",), ("negative", "positive")),
    "mrpc": (("sentence1", "sentence2"), ("not_equivalent", "equivalent")),
    "stsb": (("sentence1", "sentence2"), None),
    "qqp": (("question1", "question2"), ("not_duplicate", "duplicate")),
    "qnli": (("question", "sentence"), ("entailment", "not_entailment")),
    "rte": (("sentence1", "sentence2"), ("entailment", "not_entailment")),
    "wnli": (("sentence1", "sentence2"), ("not_entailment", "entailment")),
}


def write_glue_cache(cache_dir, task, num_rows):
    """Writes train, validation and test splits. The labels of the test split are hidden, as on the Hub."""
    columns, label_names = GLUE_TASKS[task]
    texts = {column: Value("string") for column in columns}
    label = ClassLabel(names=list(label_names)) if label_names else Value("float32")
    features = Features({**texts, "label": label, "idx": Value("int32")})
    folder = Path(cache_dir) / "nyu-mll___glue" / task / "0.0.0" / ("0" * 40)
    folder.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        with ArrowWriter(features=features, path=str(folder / f"glue-{split}.arrow")) as writer:
            for i in range(num_rows):
                value = -1 if split == "test" else i % 2 if label_names else 0.7 * i
                words = {column: f"{split} {column} number {i}" for column in columns}
                writer.write({**words, "label": value, "idx": i})
            writer.finalize()
    splits = SplitDict(
        {name: SplitInfo(name, num_examples=num_rows, dataset_name="glue") for name in ("train", "validation", "test")}
    )
    info = DatasetInfo(
        features=features,
        builder_name="parquet",
        dataset_name="glue",
        config_name=task,
        version="0.0.0",
        splits=splits,
    )
    info.write_to_directory(str(folder))
