"""`prompt`: what is a question, when it is submitted, and its answer through the same open."""

import pytest
import trio

from ctl.session import SUBMIT_AFTER
from fs9p import Error
from tests.ctl.conftest import Client


async def test_a_prompt_is_answered_in_output(client):
    assert await client.ask("hello big world\n") == "hello big world"


async def test_what_one_open_writes_is_one_prompt_whatever_the_offsets_say(client):
    prompt = client.open("prompt")
    await prompt.write(b"one ", 0)
    await prompt.write(b"two ", 0)
    await prompt.write(b"three", 7)
    prompt.close()
    assert await client.read("output") == "one two three"


async def test_only_one_trailing_newline_is_dropped(client):
    await client.write("prompt", "a\n\n")
    assert client.session.turn.prompt == "a\n"


async def test_a_read_submits_and_gives_the_whole_answer(slow, autojump_clock):
    prompt = slow.open("prompt")
    await prompt.write(b"one two three")
    assert await prompt.read() == b"one two three"
    assert await prompt.read() == b""


async def test_the_first_read_after_the_submission_is_byte_0_of_the_answer(client):
    prompt = client.open("prompt")
    await prompt.write(b"one two")
    assert await prompt.read(offset=7) == b"one two"
    assert await prompt.read(offset=11) == b"two"


async def test_a_write_after_a_read_begins_the_next_prompt(client):
    prompt = client.open("prompt")
    await prompt.write(b"first")
    assert await prompt.read() == b"first"
    await prompt.write(b"second", 5)
    assert await prompt.read() == b"second"


async def test_an_open_without_a_write_submits_nothing(client):
    prompt = client.open("prompt")
    assert await prompt.read() == b""
    prompt.close()
    with pytest.raises(Error, match="no prompt yet"):
        await client.read("output")


async def test_a_lost_connection_discards_what_was_not_submitted(client):
    prompt = client.open("prompt")
    await prompt.write(b"half a thou")
    prompt.hangup()
    with pytest.raises(Error, match="no prompt yet"):
        await client.read("output")


async def test_reading_status_or_ctl_submits_nothing(client):
    prompt = client.open("prompt")
    await prompt.write(b"still writing")
    await client.read("status")
    await client.read("ctl")
    assert client.session.turn is None


async def test_a_reader_of_output_waits_for_a_prompt_that_is_being_written(client):
    prompt = client.open("prompt")
    await prompt.write(b"soon")
    async with trio.open_nursery() as nursery:
        answers = []

        async def read():
            answers.append(await client.read("output"))

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        await prompt.write(b" now")
        prompt.close()
    assert answers == ["soon now"]


async def test_a_waiting_reader_submits_the_prompt_a_second_after_its_last_write(
    client, autojump_clock
):
    prompt = client.open("prompt")
    await prompt.write(b"never closed")
    began = trio.current_time()
    assert await client.read("output") == "never closed"
    assert trio.current_time() - began == pytest.approx(SUBMIT_AFTER)


async def test_a_write_to_a_prompt_that_a_reader_submitted_fails(client, autojump_clock):
    prompt = client.open("prompt")
    await prompt.write(b"never closed")
    await client.read("output")
    with pytest.raises(Error, match="submitted already"):
        await prompt.write(b"more")


async def test_a_write_while_an_answer_runs_is_busy_and_says_what_to_do(slow, autojump_clock):
    await slow.write("prompt", "one two three")
    with pytest.raises(Error, match=r"busy: .*new.*clone"):
        await slow.write("prompt", "another")


async def test_a_write_while_another_open_holds_a_prompt_is_busy(client):
    await client.open("prompt").write(b"mine")
    with pytest.raises(Error, match=r"busy: .*new.*clone"):
        await client.write("prompt", "yours")


async def test_a_refused_write_leaves_the_running_answer_alone(slow, autojump_clock):
    await slow.write("prompt", "one two three")
    with pytest.raises(Error, match="busy"):
        await slow.write("prompt", "another")
    assert await slow.read("output") == "one two three"


async def test_opening_a_prompt_never_fails_while_an_answer_runs(slow, autojump_clock):
    await slow.write("prompt", "one two three")
    slow.open("prompt")


async def test_a_write_without_a_model_says_how_to_load_one(make_bridge):
    async with make_bridge(model=None) as bridge:
        with pytest.raises(Error, match="no model loaded: write LOAD path to ctl"):
            await Client(bridge).write("prompt", "hello")


async def test_a_prompt_that_is_not_utf8_becomes_a_failed_turn(client):
    await client.ask("an older answer")
    prompt = client.open("prompt")
    await prompt.write(b"caf\xe9")
    prompt.close()
    with pytest.raises(Error, match="invalid prompt: it is not UTF-8"):
        await client.read("output")
    assert (await client.json("status"))["session"]["state"] == "failed"


async def test_a_character_may_be_split_between_writes(client):
    prompt = client.open("prompt")
    await prompt.write("é".encode()[:1])
    await prompt.write("é".encode()[1:])
    assert (await prompt.read()).decode() == "é"


async def test_an_empty_prompt_becomes_a_failed_turn(client):
    await client.write("prompt", "\n")
    with pytest.raises(Error, match="invalid prompt: it is empty"):
        await client.read("output")


async def test_a_prompt_longer_than_the_context_says_the_limit_in_tokens(client):
    await client.write("prompt", "word " * 9000)
    with pytest.raises(Error, match=r"9000 tokens.* 8192"):
        await client.read("output")


async def test_a_prompt_over_the_byte_limit_fails_at_the_write_and_is_dropped(make_bridge):
    async with make_bridge(max_prompt=10) as bridge:
        client = Client(bridge)
        prompt = client.open("prompt")
        await prompt.write(b"12345")
        with pytest.raises(Error, match="longer than 10 bytes"):
            await prompt.write(b"678901")
        prompt.close()
        assert client.session.turn is None


async def test_a_prompt_may_be_longer_than_a_message(client):
    text = " ".join(f"w{i}" for i in range(250)) + " end"
    await client.write("params", "max_tokens 1000")
    prompt = client.open("prompt")
    for at in range(0, len(text), 100):
        await prompt.write(text[at : at + 100].encode(), at)
    prompt.close()
    assert await client.read("output") == text


async def test_cancelling_a_read_does_not_cancel_the_answer(slow, autojump_clock):
    prompt = slow.open("prompt")
    await prompt.write(b"one two three")
    with trio.move_on_after(0.6):
        await prompt.read()
    assert await slow.read("output") == "one two three"


async def test_a_reader_who_waited_for_a_lost_prompt_gets_no_older_answer(client):
    await client.ask("an older one")
    prompt = client.open("prompt")
    await prompt.write(b"half a thou")
    async with trio.open_nursery() as nursery:

        async def read():
            with pytest.raises(Error, match="i/o error: the prompt .* was dropped"):
                await client.read("output")

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        prompt.hangup()


async def test_cancel_drops_a_prompt_that_is_being_written(client):
    prompt = client.open("prompt")
    await prompt.write(b"half a thou")
    await client.write("ctl", "CANCEL")
    with pytest.raises(Error, match="this prompt was dropped"):
        await prompt.write(b"ght")
    prompt.close()
    assert await client.ask("another") == "another"


async def test_reading_a_prompt_whose_session_ends_is_an_error(slow_bridge, autojump_clock):
    client = Client(slow_bridge, "new")
    prompt = client.open("prompt")
    await prompt.write(b"one two three")
    async with trio.open_nursery() as nursery:

        async def read():
            with pytest.raises(Error, match="session is closed"):
                await prompt.read()

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        client.detach()
