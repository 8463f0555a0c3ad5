"""`overflow`: what becomes of a conversation that is longer than the context.

The echo engine counts words, and answers with those of the question: 20 are the context here,
three the answer at most.
"""

import json

import pytest

from fs9p import Error
from tests.ctl.conftest import Client

TOO_LONG = (
    "invalid prompt: 21 tokens; the context holds 20, the answer included; "
    "RESET, overflow slide or less text help"
)


@pytest.fixture
async def small(make_bridge):
    async with make_bridge(model=None, max_conversation=60) as bridge:
        client = Client(bridge)
        await client.write("ctl", "LOAD small n_ctx=20")
        await client.write("params", "max_tokens 3\noverflow slide\n")
        yield client


async def dropped(client):
    return (await client.json("status"))["session"]["dropped"]


async def prompt_tokens(client):
    return (await client.json("usage"))["last"]["prompt_tokens"]


async def turns(client, count, text="a b c"):
    """So many turns of six words each; of three turns the next question drops two."""
    for _ in range(count):
        await client.ask(text)


async def test_an_answer_that_reaches_the_end_of_the_context_ends_there(small):
    await small.write("params", "max_tokens 9\noverflow stop\n")
    await turns(small, 2)
    assert await small.ask("a b c d e") == "a b c"
    assert (await small.json("usage"))["last"]["finish_reason"] == "context"


async def test_stop_a_full_context_is_an_error_that_says_what_to_do(small):
    await small.write("params", "overflow stop")
    await turns(small, 3)
    with pytest.raises(Error) as caught:
        await small.ask("d e f")
    assert caught.value.ename == TOO_LONG
    assert (await small.json("status"))["session"]["error"] == TOO_LONG


@pytest.mark.parametrize(
    ("path", "text"),
    [("ctl", "RESET"), ("params", "overflow slide"), ("prompt", "d"), ("context", "")],
)
async def test_what_the_error_says_helps(small, path, text):
    await small.write("params", "overflow stop")
    await turns(small, 3)
    with pytest.raises(Error):
        await small.ask("d e f")
    await small.write(path, text)
    question = "d" if path == "prompt" else "d e f"
    if path == "context":
        small.node("context").truncate()
    assert await (small.read("output") if path == "prompt" else small.ask(question)) == question


async def test_slide_the_oldest_turns_are_left_out_and_status_says_how_many_messages(small):
    await turns(small, 2)
    assert await dropped(small) == 0
    await turns(small, 1)
    await small.ask("d e f")
    assert await dropped(small) == 4
    assert await prompt_tokens(small) == 9


async def test_slide_the_system_prompt_stays(small):
    await small.write("system", "s")
    await turns(small, 3)
    await small.ask("d e f")
    assert await dropped(small) == 4
    assert await prompt_tokens(small) == 10


async def test_slide_the_next_question_goes_without_them_too(small):
    """Or everything would be computed anew, question after question."""
    await turns(small, 4)
    await small.ask("d")
    assert (await dropped(small), await prompt_tokens(small)) == (4, 13)


async def test_slide_more_are_left_out_when_it_is_full_again(small):
    await turns(small, 6)
    assert await dropped(small) == 8


async def test_slide_the_conversation_keeps_what_is_left_out(small):
    await turns(small, 6)
    assert await dropped(small) == 8
    saved = await small.read("context")
    assert [json.loads(line)["content"] for line in saved.splitlines()] == ["a b c"] * 12


async def test_a_saved_conversation_that_is_put_back_slides_again(small):
    await turns(small, 4)
    await small.write("context", await small.read("context"))
    assert await dropped(small) == 0
    await small.ask("d")
    assert await dropped(small) == 6


async def test_a_fork_goes_without_them_too(small):
    await small.open("clone").read()
    one = Client(small.session.bridge, "1")
    await one.write("params", "max_tokens 3\noverflow slide\n")
    await turns(one, 4)
    two = Client(small.session.bridge, (await small.open("1/clone").read()).decode())
    assert await dropped(two) == 4
    await two.ask("d")
    assert await prompt_tokens(two) == 13


async def test_reset_forgets_them(small):
    await turns(small, 4)
    await small.write("ctl", "RESET")
    assert await dropped(small) == 0
    assert await small.ask("d e f") == "d e f"
    assert await prompt_tokens(small) == 3


async def test_a_model_with_another_context_is_told_everything_again(small):
    await turns(small, 4)
    await small.write("ctl", "LOAD large n_ctx=100")
    await small.ask("d")
    assert (await dropped(small), await prompt_tokens(small)) == (0, 25)


async def test_stop_again_everything_is_asked_again(small):
    await turns(small, 4)
    await small.write("params", "overflow stop")
    with pytest.raises(Error, match="invalid prompt: 25 tokens"):
        await small.ask("d")
    assert await dropped(small) == 4, "it is that of the last question with an answer"


async def test_what_is_left_out_is_forgotten_when_the_conversation_is_longer_than_allowed(small):
    await turns(small, 6)
    assert (await dropped(small), len(small.session.messages)) == (8, 12)
    await turns(small, 1)
    assert (await dropped(small), len(small.session.messages)) == (0, 6)
    await small.ask("d")
    assert await prompt_tokens(small) == 7


async def test_one_question_longer_than_the_context_is_still_an_error(small):
    await turns(small, 2)
    with pytest.raises(Error, match="invalid prompt: 21 tokens; .* shorten it"):
        await small.ask("w " * 21)


async def test_a_cancelled_answer_leaves_them_out_too(make_bridge, autojump_clock):
    async with make_bridge("echo:2", model=None) as bridge:
        client = Client(bridge)
        await client.write("ctl", "LOAD small n_ctx=20")
        await client.write("params", "max_tokens 3\noverflow slide\n")
        await turns(client, 3)
        await client.write("prompt", "d e f")
        await client.open("output").read()
        await client.write("ctl", "CANCEL")
        assert await dropped(client) == 4


async def test_infer_takes_overflow_as_any_setting(small):
    await small.write("ctl", "INFER overflow=stop d e")
    assert (await small.json("ctl"))["data"] == "d e"
    with pytest.raises(Error, match="invalid overflow 'roll': it is stop or slide"):
        await small.write("ctl", "INFER overflow=roll d e")
