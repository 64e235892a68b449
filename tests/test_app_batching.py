"""Tests of the batches: texts of all users together, a limit on how many wait, errors that stay with their batch."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.batching import BATCH_CHARACTERS, Batcher, BusyError

WAIT = 120  # seconds, for what never comes


class Recorder:
    """Answers a text with its capitals, and notes the batches; can be held, and fails on "bad"."""

    def __init__(self):
        self.batches = []
        self.running, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def __call__(self, texts):
        self.running.set()
        self.go_on.wait(WAIT)
        self.batches.append(list(texts))
        if "bad" in texts:
            raise RuntimeError("bad text")
        return [text.upper() for text in texts]


def run(test, workers=1, max_waiting=100, padded=True):
    """Runs `test(batcher, recorder)` with a batcher that has started."""

    async def main():
        with ThreadPoolExecutor(workers) as executor:
            recorder = Recorder()
            batcher = Batcher(recorder, executor, workers, max_waiting, padded)
            batcher.start()
            try:
                await asyncio.wait_for(test(batcher, recorder), WAIT)
            finally:
                recorder.go_on.set()
                await batcher.stop()

    asyncio.run(main())


def test_texts_of_several_users_run_together_and_everybody_gets_their_own_answers():
    async def test(batcher, recorder):
        asked = [["a", "b"], ["c"], ["d", "e", "f"]]
        answers = await asyncio.gather(*map(batcher.classify, asked))
        assert answers == [["A", "B"], ["C"], ["D", "E", "F"]]
        assert [sorted(batch) for batch in recorder.batches] == [["a", "b", "c", "d", "e", "f"]]

    run(test)


def test_a_lone_text_does_not_wait_for_others():
    async def test(batcher, recorder):
        assert await batcher.classify(["a"]) == ["A"]
        assert recorder.batches == [["a"]]

    run(test)


def test_texts_of_similar_length_go_together_and_the_padded_batch_stays_small():
    async def test(batcher, recorder):
        long, short = "l" * 1000, "s" * 10
        await batcher.classify([short, long, short, long, short])
        assert recorder.batches == [[short] * 3, [long], [long]]
        recorder.batches.clear()
        await batcher.classify(["x" * 40] * 100)
        assert all(len(batch) * 40 <= BATCH_CHARACTERS for batch in recorder.batches)
        assert len(recorder.batches) == -(-100 * 40 // BATCH_CHARACTERS)

    run(test)


def test_without_padding_texts_run_in_turn():
    async def test(batcher, recorder):
        half = "l" * (BATCH_CHARACTERS // 2)
        await batcher.classify(["s", half, "s", half, "s"])
        assert recorder.batches == [["s", half, "s"], [half, "s"]]

    run(test, padded=False)


def test_a_text_longer_than_a_batch_runs_alone():
    async def test(batcher, recorder):
        text = "x" * (2 * BATCH_CHARACTERS)
        assert await batcher.classify([text]) == [text.upper()]

    run(test)


def test_the_text_that_has_waited_longest_comes_first():
    async def test(batcher, recorder):
        recorder.go_on.clear()
        asked = [asyncio.create_task(batcher.classify(["first"]))]
        await asyncio.to_thread(recorder.running.wait, WAIT)
        for text in ("l" * 1500, "s", "l" * 1501):
            asked.append(asyncio.create_task(batcher.classify([text])))
            await asyncio.sleep(0)
        recorder.go_on.set()
        await asyncio.gather(*asked)
        assert [len(batch[0]) for batch in recorder.batches] == [5, 1500, 1, 1501]

    run(test)


def test_what_would_wait_too_long_is_refused_at_once_and_whole():
    async def test(batcher, recorder):
        recorder.go_on.clear()
        first = asyncio.create_task(batcher.classify(["running"]))
        await asyncio.to_thread(recorder.running.wait, WAIT)
        second = asyncio.create_task(batcher.classify(["a", "b"]))
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await batcher.classify(["c", "d"])  # one too many
        assert batcher.num_waiting == 2
        third = asyncio.create_task(batcher.classify(["e"]))
        recorder.go_on.set()
        assert await asyncio.gather(first, second, third) == [["RUNNING"], ["A", "B"], ["E"]]
        assert await batcher.classify(["f", "g", "h"]) == ["F", "G", "H"]  # there is room again

    run(test, max_waiting=3)


def test_an_error_reaches_who_asked_and_the_next_are_answered():
    async def test(batcher, recorder):
        with pytest.raises(RuntimeError, match="bad text"):
            await batcher.classify(["bad"])
        assert await batcher.classify(["good"]) == ["GOOD"]

    run(test)


def test_a_request_that_was_given_up_does_not_hurt_those_beside_it():
    async def test(batcher, recorder):
        recorder.go_on.clear()
        given_up = asyncio.create_task(batcher.classify(["a"]))
        await asyncio.to_thread(recorder.running.wait, WAIT)
        also = asyncio.create_task(batcher.classify(["b"]))
        stays = asyncio.create_task(batcher.classify(["c"]))
        await asyncio.sleep(0)
        given_up.cancel()
        also.cancel()
        recorder.go_on.set()
        assert await stays == ["C"]
        assert await batcher.classify(["d"]) == ["D"]

    run(test)


def test_what_nobody_waits_for_any_more_leaves_the_queue_and_is_not_run():
    async def test(batcher, recorder):
        recorder.go_on.clear()
        first = asyncio.create_task(batcher.classify(["running"]))
        await asyncio.to_thread(recorder.running.wait, WAIT)
        given_up = asyncio.create_task(batcher.classify(["a", "b"]))
        stays = asyncio.create_task(batcher.classify(["c"]))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.wait([given_up])
        assert batcher.num_waiting == 1
        recorder.go_on.set()
        assert await asyncio.gather(first, stays) == [["RUNNING"], ["C"]]
        assert recorder.batches == [["running"], ["c"]]

    run(test)


def test_as_many_batches_run_at_a_time_as_there_are_workers():
    async def test(batcher, recorder):
        recorder.go_on.clear()
        asked = [asyncio.create_task(batcher.classify(["x" * BATCH_CHARACTERS])) for _ in range(3)]
        while batcher.num_waiting != 1:  # the other two are running
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert batcher.num_waiting == 1
        recorder.go_on.set()
        await asyncio.gather(*asked)

    run(test, workers=2)
