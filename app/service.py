"""What page and API share: models, threads, limits and statistics.

service = Service([load_model("outputs/toxic_comments-odd")], workers=2)
service.start()
answers = await service.classify(["I hate you"])
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

from app.batching import Batcher
from app.cores import core_for_each_thread
from app.models import Answer, Model

MAX_BODY_BYTES = 1_000_000
MAX_BODY_SECONDS = 60
MAX_CHARACTERS = 5_000
MAX_TEXTS = 256
# About a second's work of two cores, so that accepted texts are answered soon.
MAX_WAITING = 512
RETRY_AFTER_SECONDS = 1


class Service:
    """Answers texts with any of the models.

    Args:
        models: models with different names; the first is the default.
        workers: number of batches that run at the same time, over all models: the number of cores.
        max_waiting: number of texts that may wait for each model.
    """

    def __init__(self, models: Sequence[Model], workers: int, max_waiting: int = MAX_WAITING):
        self.models = {model.name: model for model in models}
        self.default = models[0].name
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = Counter(
            "http_requests", "Requests by path and status.", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "http_request_seconds", "From the request to the whole answer.", ["path"], registry=self.registry
        )
        texts = Counter("classified_texts", "Texts that a model has answered.", ["model"], registry=self.registry)
        batch_sizes = Histogram(
            "batch_size",
            "Texts run together.",
            ["model"],
            registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32, 64),
        )
        self._executor = ThreadPoolExecutor(
            workers, thread_name_prefix="model", initializer=core_for_each_thread(workers)
        )

        def batcher(model: Model) -> Batcher:
            def count(size: int) -> None:
                texts.labels(model.name).inc(size)
                batch_sizes.labels(model.name).observe(size)

            # One batch more than there are threads, so that no thread waits for its next batch.
            return Batcher(model.classify, self._executor, workers + 1, max_waiting, model.runs_together, count)

        self._batchers = {name: batcher(model) for name, model in self.models.items()}
        waiting = Gauge("waiting_texts", "Texts that wait for a model.", ["model"], registry=self.registry)
        for name, entry in self._batchers.items():
            waiting.labels(name).set_function(lambda entry=entry: entry.num_waiting)

    def start(self) -> None:
        for batcher in self._batchers.values():
            batcher.start()

    async def stop(self) -> None:
        for batcher in self._batchers.values():
            await batcher.stop()
        self._executor.shutdown()

    async def classify(self, texts: Sequence[str], model: str | None = None) -> list[Answer]:
        """Returns one answer for each text, from the named model or the default.

        Raises:
            BusyError: too many texts are waiting.
        """
        return await self._batchers[model or self.default].classify(texts)

    def observe(self, path: str, status: int, started: float) -> None:
        """Counts a request; `started` is its `time.perf_counter`."""
        self.requests.labels(path, status).inc()
        self.seconds.labels(path).observe(time.perf_counter() - started)


def is_blank(text: str) -> bool:
    """Returns whether the text has only white space, control and invisible characters."""
    return not any(character.isprintable() and not character.isspace() for character in text)
