"""An engine in a thread of its own, asked from asyncio."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import msgspec
import pytest

from engine import EngineError, LoadOptions, frames
from engine.cluster import thread
from engine.cluster.thread import EngineThread
from engine.cluster.wire import Question, Spec
from tests.engine.asking import chat


def spec(engine="echo"):
    return Spec("m", "m", engine, LoadOptions(n_ctx=64))


@asynccontextmanager
async def running(engine="echo"):
    """The thread, its model loaded."""
    running = EngineThread(spec(engine))
    await running.start()
    try:
        await running.load("m")
        yield running
    finally:
        await asyncio.to_thread(running.end)


async def events_of(running, request):
    """All events of an answer, to the end."""
    stream = running.ask(Question(request))
    events = []
    try:
        while not events or isinstance(events[-1], frames.Token | frames.Admitted | frames.Working):
            events += await stream.take()
    finally:
        running.leave(stream)
    return events


def test_an_answer_comes_as_events_with_its_usage_at_the_end():
    async def main():
        async with running() as thread:
            admitted, *tokens, done = await events_of(thread, chat("one two"))
        assert isinstance(admitted, frames.Admitted)
        assert [(token.text, token.count) for token in tokens] == [("one", 1), (" two", 2)]
        assert (done.usage.completion_tokens, done.usage.finish_reason) == (2, "stop")

    asyncio.run(main())


def test_a_text_comes_as_a_vector():
    async def main():
        async with running() as thread:
            [event] = await events_of(thread, "a text")
        assert len(event.embedding.vector) == 8

    asyncio.run(main())


def test_what_is_wrong_with_a_request_is_its_last_event():
    async def main():
        async with running() as thread:
            [event] = await events_of(thread, chat("word " * 100))
        assert (type(event), event.lost) == (frames.Failed, False)
        assert "invalid" in event.error

    asyncio.run(main())


def test_a_stream_that_has_nothing_to_tell_says_that_it_is_alive(monkeypatch):
    monkeypatch.setattr(thread, "HEARTBEAT_S", 0.01)

    async def main():
        async with running("echo:1") as slow:
            stream = slow.ask(Question(chat("one")))
            events = []
            while not any(isinstance(event, frames.Working) for event in events):
                events += await stream.take()
            slow.leave(stream)
        assert [type(event) for event in events].count(frames.Admitted) == 1
        assert not any(isinstance(event, frames.Token) for event in events)

    asyncio.run(main())


def test_an_answer_that_is_left_is_cancelled():
    async def main():
        async with running("echo:20") as slow:
            stream = slow.ask(Question(chat("word " * 50)))
            await stream.take()
            slow.leave(stream)
            while stream.answer.usage is None:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert stream.answer.usage.finish_reason == "cancelled"

    asyncio.run(main())


def test_once_stopped_it_says_why_to_those_who_ask_and_have_asked():
    async def main():
        async with running("echo:1") as slow:
            early = asyncio.create_task(events_of(slow, chat("one two")))
            await asyncio.sleep(0)
            slow.stop("model m was freed")
            for events in (await early, await events_of(slow, chat("one"))):
                assert events[-1] == frames.Failed(0, "model m was freed")

    asyncio.run(main())


def test_an_engine_that_there_is_not_is_an_error_of_the_start():
    async def main():
        with pytest.raises(EngineError, match="no engine 'what'"):
            await EngineThread(spec("what")).start()

    asyncio.run(main())


def test_a_replica_has_the_threads_of_its_processors():
    options = msgspec.convert({"placement": {"num_cpus": 4}}, LoadOptions)
    assert thread._here(options, ()).n_threads == 4
    assert thread._here(msgspec.structs.replace(options, n_threads=2), ()).n_threads == 2


def test_the_more_streams_a_busy_replica_has_the_longer_each_waits_between_two_messages():
    async def main():
        async with running("echo:1") as slow:
            streams = [slow.ask(Question(chat("one"))) for _ in range(100)]
            slow.strain = 1.0
            assert slow.pace(streams[0]) == pytest.approx(100 * thread.PACE_S)
            for stream in streams:
                slow.leave(stream)

    asyncio.run(main())


def test_streams_of_a_replica_that_has_time_wait_as_long_as_the_gateway_says():
    async def main():
        async with running("echo:1") as slow:
            streams = [slow.ask(Question(chat("one"), pace=pace)) for pace in (0.0, 1.0)]
            assert [slow.pace(stream) for stream in streams] == [0.0, 1.0]
            for stream in streams:
                slow.leave(stream)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("strain", "busy", "then"),
    [(0.0, 0.1, 0.0), (0.0, 1.0, 0.25), (0.25, 1.0, 0.5), (0.9, 1.2, 1.0), (0.5, 0.5, 0.25)],
)
def test_a_replica_that_is_busy_puts_more_and_more_words_together(strain, busy, then):
    assert thread.strained(strain, busy) == pytest.approx(then)
