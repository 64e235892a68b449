"""Texts of all users, run together: `await batcher.classify(texts)`.

One worker a core takes the text that has waited longest and those closest to it in length, and runs them on a thread.
While it runs, further texts gather, so batches grow with the load by themselves and nobody waits for a batch to fill.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import NamedTuple

from app.models import Answer

# Characters in a batch with its padding, about 400 tokens: more at a time outgrow a core's cache and are slower each.
BATCH_CHARACTERS = 400


class BusyError(Exception):
    """More texts are waiting than can be answered soon; try again in a second."""


class _Waiting(NamedTuple):
    text: str
    answer: asyncio.Future


class Batcher:
    """Collects texts and runs a model on them.

    Args:
        classify: texts to answers; called on the executor's threads, in as many calls at a time as there are workers.
        workers: batches that run at a time.
        max_waiting: texts that may wait; beyond that `classify` refuses.
        on_batch: told the size of every batch, for the statistics.
    """

    def __init__(
        self,
        classify: Callable[[Sequence[str]], list[Answer]],
        executor: Executor,
        workers: int,
        max_waiting: int,
        on_batch: Callable[[int], None] = lambda size: None,
    ):
        self._classify, self._executor, self._on_batch = classify, executor, on_batch
        self._num_workers, self._max_waiting = workers, max_waiting
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
        """The text that has waited longest, and those of similar length that fit with it."""
        length = len(self._waiting[0].text)
        by_similarity = sorted(self._waiting, key=lambda entry: abs(len(entry.text) - length))
        batch, longest = [], 1
        for entry in by_similarity:
            longest = max(longest, len(entry.text))
            if batch and (len(batch) + 1) * longest > BATCH_CHARACTERS:
                break
            batch.append(entry)
        taken = set(map(id, batch))
        self._waiting = [entry for entry in self._waiting if id(entry) not in taken]
        return batch
