"""`output`: pieces as they come, the end, the next turn, errors."""

import json

import pytest
import trio

from engine import EngineError
from fs9p import Error
from tests.ctl.conftest import Client


async def test_pieces_arrive_as_they_are_generated(slow, autojump_clock):
    await slow.write("prompt", "one two three")
    output = slow.open("output")
    seen = []
    while piece := await output.read():
        seen.append((round(trio.current_time() % 1000, 1), piece))
    times = [at - seen[0][0] for at, _ in seen]
    assert [piece for _, piece in seen] == [b"one", b" two", b" three"]
    assert times == pytest.approx([0.0, 0.5, 1.0])


async def test_output_before_any_prompt_is_an_error(client):
    with pytest.raises(Error, match="^no prompt yet$"):
        await client.read("output")


async def test_a_read_at_0_begins_the_answer_again(client):
    await client.write("prompt", "one two")
    output = client.open("output")
    await output.read_all()
    assert await output.read(offset=0) == b"one two"


async def test_an_open_output_goes_on_with_the_next_turn(slow, autojump_clock):
    await slow.write("prompt", "first")
    output = slow.open("output")
    assert await output.read_all() == b"first"
    await slow.write("prompt", "second one")
    assert await output.read_all() == b"second one"


async def test_the_end_of_an_answer_is_told_even_when_the_next_has_begun(slow, autojump_clock):
    await slow.write("prompt", "first")
    output = slow.open("output")
    assert await output.read() == b"first"
    await slow.write("prompt", "second")
    assert await output.read() == b""
    assert await output.read() == b"second"


async def test_an_open_output_stays_with_the_turn_it_first_read(slow, autojump_clock):
    await slow.ask("one two")
    output = slow.open("output")
    assert await output.read(3) == b"one"
    await slow.write("prompt", "newer")
    assert await output.read_all() == b" two"


async def test_the_text_is_cut_between_characters_only(client):
    await client.write("prompt", "ééé")
    output = client.open("output")
    while output.waits():
        await trio.lowlevel.checkpoint()
    assert await output.read(3) == "é".encode()


async def test_a_read_too_short_for_a_character_still_makes_progress(client):
    await client.ask("é")
    output = client.open("output")
    assert [await output.read(1), await output.read(1), await output.read(1)] == [
        b"\xc3",
        b"\xa9",
        b"",
    ]


async def test_the_text_of_a_failed_turn_is_readable_before_its_error(
    slow, slow_bridge, autojump_clock
):
    await slow.write("prompt", "one two three")
    output = slow.open("output")
    assert await output.read() == b"one"
    await slow_bridge.free("echo")
    with pytest.raises(Error, match="freed"):
        await output.read()


async def test_a_failed_turn_leaves_the_conversation_as_it_was(slow, slow_bridge, autojump_clock):
    await slow.ask("fine")
    before = await slow.read("context")
    await slow.write("prompt", "one two")
    await slow_bridge.free("echo")
    with pytest.raises(Error):
        await slow.read("output")
    assert await slow.read("context") == before


async def test_two_readers_see_the_same_answer(slow, autojump_clock):
    await slow.write("prompt", "one two three")
    answers = []

    async def read():
        answers.append(await slow.read("output"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(read)
    assert answers == ["one two three"] * 2


async def test_cancel_ends_the_answer_and_keeps_its_text(slow, autojump_clock):
    await slow.write("prompt", "one two three")
    output = slow.open("output")
    assert await output.read() == b"one"
    await slow.write("ctl", "CANCEL")
    assert await output.read_all() == b""
    assert (await slow.json("usage"))["last"]["finish_reason"] == "cancelled"
    assert json.loads((await slow.read("context")).splitlines()[1])["content"] == "one"


async def test_a_question_right_after_a_cancel_is_not_busy(slow, autojump_clock):
    await slow.write("prompt", "one two three")
    await slow.write("ctl", "CANCEL")
    assert await slow.ask("next") == "next"


async def test_usage_counts_the_last_answer_and_all(client):
    await client.ask("one two three")
    await client.ask("four")
    usage = await client.json("usage")
    assert usage["last"]["completion_tokens"] == 1
    assert usage["total"]["completion_tokens"] == 4
    assert usage["total"]["requests"] == 2
    assert list(usage["last"]) == [
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
        "finish_reason",
        "queue_s",
        "prefill_s",
        "decode_s",
        "tokens_per_second",
    ]


async def test_a_defect_in_the_engine_fails_the_answer_and_nothing_else(bridge, monkeypatch):
    def broken(name, request):
        raise RuntimeError("a defect")

    client = Client(bridge)
    with monkeypatch.context() as patch:
        patch.setattr(bridge.engine, "generate", broken)
        await client.write("prompt", "hello")
        with pytest.raises(Error, match="i/o error: internal error"):
            await client.read("output")
    assert await client.ask("hello again") == "hello again"


async def test_an_engine_error_is_the_error_of_the_answer(bridge, monkeypatch):
    def refuse(name, request):
        raise EngineError("the worker of echo was killed by SIGKILL")

    monkeypatch.setattr(bridge.engine, "generate", refuse)
    client = Client(bridge)
    await client.write("prompt", "hello")
    with pytest.raises(Error, match="SIGKILL"):
        await client.read("output")
    assert "SIGKILL" in (await client.json("status"))["session"]["error"]
