"""What is wrong with the files of a checkpoint that cannot be loaded.

find_damage(Path("my-finetuned-bert"))    # "The file my-finetuned-bert/model.safetensors is truncated ...", or None
"""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

POINTER_START = b"version https://git-lfs"


def find_damage(folder: Path, needs_config: bool = True) -> str | None:
    """Returns the message for the first file that is missing or damaged, `None` if there is no such file."""
    if needs_config and not (folder / "config.json").is_file():
        return (
            f"The folder {folder} holds no checkpoint of transformers: it has no config.json. Name the folder that "
            "`save_pretrained` has written."
        )
    for file in sorted(folder.glob("*.json")):
        try:
            json.loads(file.read_bytes())
        except ValueError as error:
            return f"The file {file} is truncated or no JSON ({error}). Save or fetch the checkpoint again."
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        with open(file, "rb") as stream:
            if stream.read(len(POINTER_START)) == POINTER_START:
                return f"The file {file} is a pointer of Git LFS, not the weights. Fetch them: `git lfs pull`."
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            return (
                f"The file {file} is truncated or no safetensors file ({error}). Save or fetch the checkpoint again."
            )
    for index in folder.glob("*.index.json"):
        shards = json.loads(index.read_bytes()).get("weight_map", {}).values()
        if missing := sorted({name for name in shards if not (folder / name).is_file()}):
            return f"The checkpoint in {folder} lacks {', '.join(missing)}, which {index.name} names. Fetch it again."
    return None
