"""Runs the texts of all users together, in batches.

    batcher = Batcher(model.classify, executor, workers=2, max_waiting=512, padded=True)
    batcher.start()
    answers = await batcher.classify(texts)

A worker takes the text that has waited longest and others that fit, and runs them on a thread. Texts that arrive in
the meantime make up the next batch, so batches grow with the load and nobody waits for a batch to fill. The others are
the next ones in order of arrival; for a model that pads a batch to its longest text, those of the most similar length.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import NamedTuple

from app.models import Answer

# Characters in a batch, padding included: about 150 tokens. Larger batches outgrow a core's cache, and each text takes
# longer.
BATCH_CHARACTERS = 600


class BusyError(Exception):
    """More texts are waiting than can be answered soon; trying again in a second helps."""


class _Waiting(NamedTuple):
    text: str
    answer: asyncio.Future  # or the error of its batch


class Batcher:
    """Collects texts and runs a model on them.

    Args:
        classify: texts to answers; called on the executor's threads.
        workers: number of batches that run, or wait for a thread of the executor, at the same time.
        max_waiting: number of texts that may wait; `classify` refuses more.
        padded: whether a batch is padded to its longest text.
        on_batch: called with the size of every batch, for the statistics.
    """

    def __init__(
        self,
        classify: Callable[[Sequence[str]], list[Answer]],
        executor: Executor,
        workers: int,
        max_waiting: int,
        padded: bool,
        on_batch: Callable[[int], None] = lambda size: None,
    ):
        self._classify, self._executor, self._on_batch = classify, executor, on_batch
        self._num_workers, self._max_waiting, self._padded = workers, max_waiting, padded
        self._waiting: list[_Waiting] = []
        self._arrived = asyncio.Event()
        self._workers: list[asyncio.Task] = []

    def start(self) -> None:
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._num_workers)]

    async def stop(self) -> None:
        """Ends the workers and gives up the texts that still wait, so call it after the last answer."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    async def classify(self, texts: Sequence[str]) -> list[Answer]:
        """Returns one answer for each text.

        Raises:
            BusyError: too many texts are waiting; none of these texts was taken.
        """
        if len(self._waiting) + len(texts) > self._max_waiting:
            raise BusyError
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(text, loop.create_future()) for text in texts]
        self._waiting += waiting
        self._arrived.set()
        try:
            answers = [await entry.answer for entry in waiting]
        except asyncio.CancelledError:  # the request was given up, so nobody needs the answers that are left
            not_needed = set(map(id, waiting))
            self._waiting = [entry for entry in self._waiting if id(entry) not in not_needed]
            raise
        if failed := [answer for answer in answers if isinstance(answer, Exception)]:
            raise failed[0]
        return answers

    async def _work(self) -> None:
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            batch = self._take()
            self._on_batch(len(batch))
            try:
                answers = await asyncio.get_running_loop().run_in_executor(
                    self._executor, self._classify, [entry.text for entry in batch]
                )
            except Exception as error:  # for the requests of these texts; the worker goes on
                answers = [error] * len(batch)
            for entry, answer in zip(batch, answers, strict=True):
                if not entry.answer.done():  # its request was given up
                    entry.answer.set_result(answer)

    def _take(self) -> list[_Waiting]:
        """Takes the text that has waited longest and others that fit; similar lengths where batches are padded."""
        in_turn = self._waiting
        if self._padded:
            length = len(in_turn[0].text)
            in_turn = sorted(in_turn, key=lambda entry: abs(len(entry.text) - length))
        batch, longest, total = [], 1, 0
        for entry in in_turn:
            longest, total = max(longest, len(entry.text)), total + len(entry.text)
            if batch and (longest * (len(batch) + 1) if self._padded else total) > BATCH_CHARACTERS:
                break
            batch.append(entry)
        if self._padded:
            taken = set(map(id, batch))
            self._waiting = [entry for entry in self._waiting if id(entry) not in taken]
        else:
            del self._waiting[: len(batch)]
        return batch
