"""Texts of all users, run together: `await batcher.classify(texts)`.

A worker takes the text that has waited longest and some others, and has them run on a thread. In the meantime further
texts gather, so batches grow with the load by themselves and nobody waits for a batch to fill. The others are the next
in turn; for a model that pads a batch to its longest text, those closest in length.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import NamedTuple

from app.models import Answer

# Characters in a batch with its padding, about 150 tokens: more at a time outgrow a core's cache and are slower each.
BATCH_CHARACTERS = 600


class BusyError(Exception):
    """More texts are waiting than can be answered soon; try again in a second."""


class _Waiting(NamedTuple):
    text: str
    answer: asyncio.Future


class Batcher:
    """Collects texts and runs a model on them.

    Args:
        classify: texts to answers; called on the executor's threads, in as many calls at a time as there are workers.
        workers: batches that run, or wait for a thread of the executor, at a time.
        max_waiting: texts that may wait; beyond that `classify` refuses.
        padded: whether a batch is padded to its longest text.
        on_batch: told the size of every batch, for the statistics.
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
        """Ends the workers. Texts that still wait are given up: call it once all requests are answered."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    async def classify(self, texts: Sequence[str]) -> list[Answer]:
        """One answer a text.

        Raises:
            BusyError: too many texts are waiting; none of these was taken.
        """
        if len(self._waiting) + len(texts) > self._max_waiting:
            raise BusyError
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(text, loop.create_future()) for text in texts]
        self._waiting += waiting
        self._arrived.set()
        try:
            return await asyncio.gather(*(entry.answer for entry in waiting))
        except BaseException:  # given up, or one has failed: nobody needs the others any more
            not_needed = set(map(id, waiting))
            self._waiting = [entry for entry in self._waiting if id(entry) not in not_needed]
            raise

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
            except Exception as error:  # whoever asked is told; the worker lives on
                for entry in batch:
                    if not entry.answer.done():
                        entry.answer.set_exception(error)
                continue
            for entry, answer in zip(batch, answers, strict=True):
                if not entry.answer.done():  # its request was given up
                    entry.answer.set_result(answer)

    def _take(self) -> list[_Waiting]:
        """The text that has waited longest, and those that fit with it: of similar length where batches are padded."""
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
        taken = set(map(id, batch))
        self._waiting = [entry for entry in self._waiting if id(entry) not in taken]
        return batch
