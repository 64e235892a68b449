"""The student's repository on the Hub: made before the training, filled after it."""

from dataclasses import replace
from pathlib import Path

from huggingface_hub import create_repo, upload_folder
from transformers import TrainingArguments

from layer_distillation.record import RunRecord
from training.model_card import write_model_card


def open_repository(args: TrainingArguments) -> str | None:
    """Returns the name of the repository for the student, and makes it if there is none.

    Before the training, so that a wrong token or name shows before hours of it. `None` on all but the main process.
    """
    if args.process_index != 0:
        return None
    name = args.hub_model_id or Path(args.output_dir).absolute().name
    return create_repo(name, token=args.hub_token, private=args.hub_private_repo, exist_ok=True).repo_id


def push_student(args: TrainingArguments, repository: str, record: RunRecord) -> None:
    """Uploads the student with its model card and results, without `training_args.bin`, which would hold the token."""
    write_model_card(args.output_dir, replace(record, name=repository))
    upload_folder(
        repo_id=repository,
        folder_path=args.output_dir,
        commit_message="Student with its model card and results",
        token=args.hub_token,
        revision=args.hub_revision,
        ignore_patterns=["checkpoint-*/*", "stages/*", "teacher/*", "training_args.bin", "*.lock"],
    )
