"""An earlier build beside this one: both run with this Python, on the earlier build's sample data.

The sample data have changed since, so each build gets the files by name.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

EARLIER = "4566f60"
DATA = "data/toxic_comments"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the folders of the earlier build and of the teacher, and the number of rounds."""
    parser.add_argument("--earlier", type=Path, required=True, help="folder with the earlier build")
    parser.add_argument("--teacher_name_or_path", type=Path, required=True, help="teacher for the sample data")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")


def start(build: Path, script: str, args: argparse.Namespace, *options: str, **streams) -> subprocess.Popen:
    """Starts a script of a build, which decides about its threads by itself.

    Args:
        args: as `add_arguments` has them.
        options: words of the command line after data and teacher.
        streams: as for `Popen`.
    """
    files = [
        f"--{split}_file={args.earlier.resolve() / DATA / split}.csv" for split in ("train", "validation", "test")
    ]
    teacher = f"--teacher_name_or_path={args.teacher_name_or_path.resolve()}"
    # What would decide about the threads of PyTorch in place of the build.
    decided = ("OMP_", "GOMP_", "MKL_")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(decided)}
    return subprocess.Popen(
        [sys.executable, str(build.resolve() / script), *files, teacher, "--report_to=none", *options],
        cwd=build,
        env=variables | {"PYTHONUNBUFFERED": "1"},
        **streams,
    )
