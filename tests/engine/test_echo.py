from __future__ import annotations

import pytest
import trio

from engine import Chat, EngineError, LoadOptions, Message, Request, create
from tests.engine.asking import hear, raw


@pytest.fixture
async def echo():
    async with create("echo") as engine:
        await engine.load("e", "/no/such/file")
        yield engine


async def test_it_answers_with_the_words_of_the_last_message(echo):
    question = Request(Chat((Message("user", "first"), Message("user", " hello big\n world "))))
    heard = await hear(echo, "e", question)
    assert heard.pieces == ["hello", " big", "\n world"]
    assert heard.usage.prompt_tokens == 4
    assert heard.usage.completion_tokens == 3
    assert heard.usage.finish_reason == "stop"


async def test_raw_text_is_echoed_too(echo):
    assert (await hear(echo, "e", raw("a b"))).text == "a b"


async def test_two_tokens_a_second_the_first_after_half_a_second(autojump_clock):
    async with create("echo:2") as echo:
        await echo.load("e", "x")
        times = []
        async with echo.generate("e", raw("a b c")) as answer:
            async for _ in answer:
                times.append(trio.current_time())
        assert [t - times[0] + 0.5 for t in times] == pytest.approx([0.5, 1.0, 1.5])
        assert answer.usage.prefill_s == pytest.approx(0.5)
        assert answer.usage.tokens_per_second == pytest.approx(2.0)


async def test_answers_run_beside_each_other_at_full_rate(autojump_clock):
    async with create("echo:2") as echo:
        await echo.load("e", "x")
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(hear, echo, "e", raw("a b"))
        assert trio.current_time() - start == pytest.approx(1.0)


async def test_max_tokens_ends_it_with_length(echo):
    heard = await hear(echo, "e", raw("a b c", max_tokens=2))
    assert (heard.text, heard.usage.finish_reason) == ("a b", "length")


async def test_a_stop_string_ends_it(echo):
    heard = await hear(echo, "e", raw("a b STOP c", stop=("STOP",)))
    assert (heard.text, heard.usage.finish_reason) == ("a b ", "stop_string")


async def test_a_full_context_ends_it(echo):
    await echo.load("tiny", "x", LoadOptions(n_ctx=5))
    heard = await hear(echo, "tiny", raw("a b c"))
    assert (heard.text, heard.usage.finish_reason) == ("a b", "context")


async def test_a_prompt_longer_than_the_context_is_an_error(echo):
    heard = await hear(echo, "e", raw("w " * 8192))
    assert heard.error == (
        "invalid prompt: 8192 tokens; the context holds 8192, the answer included; "
        "shorten it, or LOAD with a larger n_ctx"
    )
    assert heard.usage.finish_reason == "error"


async def test_an_empty_prompt_is_an_error(echo):
    assert (await hear(echo, "e", raw("  \n"))).error == "the prompt is empty"


async def test_leaving_the_block_cancels(echo):
    async with echo.generate("e", raw("a b c")) as answer:
        assert answer.state == "queued"
        async for _ in answer:
            assert answer.state == "generating"
            break
    assert answer.state == "done"
    assert answer.usage.finish_reason == "cancelled"
    assert answer.usage.completion_tokens == 1


async def test_free_ends_a_waiting_answer_in_words(autojump_clock):
    async with create("echo:0.001") as echo:
        await echo.load("e", "x")
        async with trio.open_nursery() as nursery, echo.generate("e", raw("a")) as answer:
            nursery.start_soon(echo.free, "e")
            with pytest.raises(EngineError, match="model e was freed"):
                await anext(aiter(answer))
        assert answer.usage.finish_reason == "error"
        assert echo.status("e") is None


async def test_every_name_and_path_loads(echo):
    seen = []
    status = await echo.load("any", "/some/path", progress=seen.append)
    assert seen == [1.0]
    assert (status.name, status.path, status.state) == ("any", "/some/path", "ready")
    assert (status.engine, status.chat_template, status.file_bytes) == ("echo", True, None)
    assert [model.name for model in echo.models()] == ["e", "any"]


async def test_an_unknown_model_is_an_error_of_the_answer(echo):
    assert (await hear(echo, "f", raw("a"))).error == "no model f is loaded"
    with pytest.raises(EngineError, match="no model f is loaded"):
        await echo.free("f")


async def test_a_conversation_that_slides_is_answered_without_its_oldest_turns(echo):
    await echo.load("tiny", "x", LoadOptions(n_ctx=20))
    turns = [Message(role, "a b c") for _ in range(4) for role in ("user", "assistant")]
    chat = Chat((*turns, Message("user", "d e")))
    assert "overflow slide" in (await hear(echo, "tiny", Request(chat))).error
    async with echo.generate("tiny", Request(chat, overflow="slide")) as answer:
        assert "".join([piece async for piece in answer]) == "d e"
    assert (answer.dropped, answer.usage.prompt_tokens) == (6, 8)


async def test_texts_with_words_in_common_have_vectors_alike(echo):
    texts = ("a king and a horse", "a horse and a king", "one king and a horse", "file server")
    first, second, third, other = [await echo.embed("e", text) for text in texts]
    assert first.tokens == 5
    assert sum(value * value for value in first.vector) == pytest.approx(1.0)

    def alike(a, b):
        return sum(x * y for x, y in zip(a.vector, b.vector, strict=True))

    assert alike(first, second) == pytest.approx(1.0)
    assert 1 > alike(first, third) > alike(first, other)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("f", "a", "no model f is loaded"),
        ("e", " ", "invalid text: it is empty"),
        ("e", "w " * 8193, "invalid text: 8193 tokens; the model takes 8192 at most"),
    ],
)
async def test_what_cannot_be_embedded_is_an_error(echo, name, text, message):
    with pytest.raises(EngineError, match=f"^{message}$"):
        await echo.embed(name, text)


async def test_a_text_takes_as_long_as_a_token(autojump_clock):
    async with create("echo:2") as echo:
        await echo.load("e", "x")
        start = trio.current_time()
        await echo.embed("e", "a b c")
        assert trio.current_time() - start == pytest.approx(0.5)
