"""Serve classifiers as a web page and an HTTP API.

python -m app --model_dir outputs/toxic_comments-even
python -m app --model_dir outputs/toxic_comments-even --model_dir outputs/toxic_comments-odd --port 8000
python -m app --model_dir outputs/toxic_comments-even --backend pytorch
"""

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

import uvicorn

from app.models import BACKENDS, load_model
from app.server import create_app
from app.service import Service

MODELS_FOLDER = Path(__file__).parent / "models"
CORES_BY_TIME = Path("/sys/fs/cgroup/cpu.max")
SECONDS_TO_FINISH = 8  # Docker kills after 10
# A model computes without the interpreter's lock and needs it for a moment in between, for which Python makes a thread
# wait 5 ms while another is busy: three times as long as a text takes.
LOCK_SECONDS = 5e-5


def main() -> None:
    args = parse_arguments()
    try:
        folders = args.model_dir or sorted(path for path in MODELS_FOLDER.glob("*") if path.is_dir())
        if not folders:
            raise FileNotFoundError(
                f"There is no model: give --model_dir, or put exported ones into {MODELS_FOLDER}/."
            )
        models = [load_model(folder, args.backend) for folder in folders]
        repeated = [name for name, count in Counter(model.name for model in models).items() if count > 1]
        if repeated:
            raise ValueError(f"Models are told apart by their folders' names, but two are called {repeated[0]}.")
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")
    # Texts are split into words on the model's threads, of which there are as many as cores already.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    sys.setswitchinterval(LOCK_SECONDS)
    app = create_app(Service(models, workers=available_cores()))
    # No access log, and no WebSockets, which have one of their own: addresses may hold what somebody typed.
    uvicorn.run(
        app,
        host=args.host,
        port=args.port,
        access_log=False,
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=SECONDS_TO_FINISH,
    )


def available_cores() -> int:
    """The cores that this process may use: containers are often given a part of them, by number or by time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        microseconds, period = map(int, CORES_BY_TIME.read_text().split())
    except (OSError, ValueError):  # another system, or "max"
        return cores
    return min(cores, max(1, round(microseconds / period)))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m app", description="Serve classifiers as a web page and an HTTP API.")
    parser.add_argument(
        "--model_dir",
        action="append",
        help="folder of an exported model or of a checkpoint; may be given several times, the first is the default "
        "model. Unset: every folder in app/models",
    )
    parser.add_argument(
        "--backend", choices=BACKENDS, default=BACKENDS[0], help="default: %(default)s, by ONNX Runtime"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 is every one of this machine"
    )
    parser.add_argument("--port", type=int, default=7860)
    args = parser.parse_args()
    if not 0 < args.port < 65536:  # others would be taken for what is left of them in 16 bits
        parser.error(f"argument --port: must be from 1 to 65535, found {args.port}")
    return args


if __name__ == "__main__":
    main()
