"""The student's repository on the Hub: made before the training, filled after it."""

import glob
from dataclasses import replace
from pathlib import Path

from huggingface_hub import create_repo, upload_file, upload_folder
from transformers import TrainingArguments

from layer_distillation.processes import on_main_process
from layer_distillation.record import RunRecord
from training.model_card import CARD_FILE, card_was_changed, model_card
from training.output_folder import EXPORT_FOLDER, MERGED_FOLDER

# What is made of a student, and the logs of its training for TensorBoard, which `Trainer` uploads too.
UPLOADED_FOLDERS = (MERGED_FOLDER, EXPORT_FOLDER, "runs")


def open_repository(args: TrainingArguments) -> str:
    """Returns the name of the repository for the student, and makes it if there is none.

    Before the training, so that a wrong token or name shows before hours of it.
    """
    name = args.hub_model_id or Path(args.output_dir).absolute().name
    settings = {"token": args.hub_token, "private": args.hub_private_repo}
    return on_main_process(lambda: create_repo(name, exist_ok=True, **settings).repo_id)


def push_student(args: TrainingArguments, repository: str, record: RunRecord) -> None:
    """Uploads the student with its results, and its model card with the name of the repository.

    A model card that has been changed by hand is uploaded as it is.
    """
    folder = Path(args.output_dir)
    if card_was_changed(folder, record):
        card = (folder / CARD_FILE).read_text()
    else:
        card = model_card(folder, replace(record, name=repository))
    repo = {"repo_id": repository, "token": args.hub_token, "revision": args.hub_revision}
    upload_folder(
        folder_path=folder,
        commit_message="Student with its results",
        ignore_patterns=[*not_uploaded(folder), CARD_FILE],
        **repo,
    )
    upload_file(path_or_fileobj=card.encode(), path_in_repo=CARD_FILE, commit_message="Model card", **repo)


def not_uploaded(folder: Path) -> list[str]:
    """Returns patterns for what the folder of a run holds beside its student: whatever is in other folders, an export
    that has not passed its checks, locks, and `training_args.bin`, which would hold the token."""
    others = [path.name for path in folder.iterdir() if path.is_dir() and path.name not in UPLOADED_FOLDERS]
    return [
        *(f"{glob.escape(name)}/*" for name in sorted(others)),
        f"{EXPORT_FOLDER}/unfinished_*",
        "training_args.bin",
        "*.lock",
    ]
