"""The app with a model that answers at once: what is left are HTTP, JSON, checks and threads.

    python -m benchmarks.empty_app --model_dir outputs/toxic_comments-odd --port 7861

takes the arguments of `python -m app`. `benchmarks.load_app` starts it.
"""

from collections.abc import Sequence

from app.__main__ import main
from app.models import Answer, OnnxModel


def answer_at_once(model: OnnxModel, texts: Sequence[str]) -> list[Answer]:
    """Gives every label of each text the same probability."""
    scores = dict.fromkeys(model.labels, 1 / len(model.labels))
    return [Answer(scores, False, model.thresholds) for _ in texts]


if __name__ == "__main__":
    OnnxModel.classify = answer_at_once
    main()
