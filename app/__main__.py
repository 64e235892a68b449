"""Serves classifiers as a web page and an HTTP API.

python -m app --model_dir outputs/toxic_comments-odd
python -m app --model_dir outputs/toxic_comments-odd --model_dir outputs/toxic_comments-even --port 8000
python -m app --model_dir outputs/toxic_comments-odd --backend pytorch
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import uvicorn

from app.cores import available_cores, share_cores
from app.models import BACKENDS, load_model
from app.server import create_app
from app.service import Service

MODELS_FOLDER = Path(__file__).parent / "models"
SECONDS_TO_FINISH = 8  # Docker kills after 10


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
        app = create_app(Service(models, workers=available_cores()))
    except ModuleNotFoundError as error:
        sys.exit(f"error: --backend {args.backend} needs {error.name}. Run `pip install {error.name}`.")
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")
    share_cores()
    # No access log, because addresses may hold what somebody typed. No WebSockets, which have a log of their own.
    uvicorn.run(
        app,
        host=args.host,
        port=args.port,
        access_log=False,
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=SECONDS_TO_FINISH,
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m app", description="Serves classifiers as a web page and an HTTP API.")
    parser.add_argument(
        "--model_dir",
        action="append",
        help="folder of an exported model or of a checkpoint; repeat the option for several models. The first is the "
        "default of the API. Unset: all folders in app/models",
    )
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default=BACKENDS[0],
        help="what runs the models; int8 and float32 by ONNX Runtime (default: %(default)s)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0: all addresses of this machine (default: %(default)s)",
    )
    parser.add_argument("--port", type=int, default=7860, help="from 1 to 65535 (default: %(default)s)")
    args = parser.parse_args()
    if not 0 < args.port < 65536:  # the system would keep only 16 bits of a larger number
        parser.error(f"argument --port: must be from 1 to 65535, found {args.port}")
    return args


if __name__ == "__main__":
    main()
