"""What `engine.api` promises of every engine, asked of each: the two that come with the bridge,
the example, and those that you name.

    LLAMBO_ENGINES='mine:ARGUMENT' pytest tests/engine/test_contract.py

`LLAMBO_ENGINES` are specifications as `--engine` takes them, with commas between them. Their
answers must have some tokens and not depend on chance at temperature 0. An engine that reads
files gets the path of SmolLM2.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import trio

from engine import EngineError, LoadOptions, create
from engine.host import LlamaEngine
from tests.engine.asking import chat, hear

EXAMPLE = Path(__file__).parents[2] / "examples/engine"
OTHERS = [spec for spec in os.environ.get("LLAMBO_ENGINES", "").split(",") if spec]
QUESTION = "Please tell me a story of ten sentences about a fox and a file server."


def made(spec, monkeypatch):
    if spec == "example":
        monkeypatch.syspath_prepend(str(EXAMPLE))
        import upside

        return upside.make("1000", max_models=4, worker_timeout=60.0)
    # Without repacking: see `tests.engine.conftest.llama`.
    return LlamaEngine(repack=False) if spec == "llama" else create(spec)


@pytest.fixture(params=["echo", "example", "llama", *OTHERS])
async def engine(request, monkeypatch, model, deadline):
    """The engine, with a model `m`."""
    async with made(request.param, monkeypatch) as engine:
        path = str(model) if engine.reads_files else "m"
        await engine.load("m", path, LoadOptions(n_ctx=1024))
        yield engine


def question(**sampling):
    return chat(QUESTION, **{"temperature": 0.0, "max_tokens": 20, **sampling})


async def test_an_answer_comes_in_pieces_and_then_its_usage_is_known(engine):
    async with engine.generate("m", question()) as answer:
        assert (answer.usage, answer.state) == (None, "queued")
        pieces = [piece async for piece in answer]
        usage = answer.usage
    assert all(pieces)
    assert len(pieces) > 1
    assert answer.state == "done"
    assert answer.dropped == 0
    assert usage.prompt_tokens > 0
    assert 0 < usage.completion_tokens <= 20
    assert usage.finish_reason in ("stop", "length")


async def test_max_tokens_ends_an_answer(engine):
    heard = await hear(engine, "m", question(max_tokens=2))
    assert (heard.usage.completion_tokens, heard.usage.finish_reason) == (2, "length")


async def test_a_stop_string_ends_an_answer_and_is_not_part_of_it(engine):
    whole = (await hear(engine, "m", question())).text
    stop = whole[4:8]
    heard = await hear(engine, "m", question(stop=(stop,)))
    assert (heard.text, heard.usage.finish_reason) == (whole[: whole.index(stop)], "stop_string")


async def test_leaving_the_block_cancels_and_the_next_question_is_answered(engine):
    async with engine.generate("m", question(max_tokens=500)) as answer:
        await anext(aiter(answer))
    assert answer.state == "done"
    assert answer.usage.finish_reason == "cancelled"
    assert (await hear(engine, "m", question())).text


async def test_a_reader_that_is_cancelled_waits_no_longer(engine):
    with trio.CancelScope() as scope:
        async with engine.generate("m", question(max_tokens=500)) as answer:
            await anext(aiter(answer))
            scope.cancel()
            async for _ in answer:
                pass
    assert scope.cancelled_caught
    assert answer.usage.finish_reason == "cancelled"


async def test_free_ends_running_answers_with_an_error(engine):
    async with engine.generate("m", question(max_tokens=500)) as answer:
        pieces = aiter(answer)
        await anext(pieces)
        await engine.free("m")
        with pytest.raises(EngineError):
            async for _ in pieces:
                pass
    assert answer.usage.finish_reason == "error"
    assert engine.status("m") is None
    assert engine.models() == []


async def test_a_model_that_is_not_there_fails_the_iteration_not_the_entering(engine):
    async with engine.generate("other", question()) as answer:
        with pytest.raises(EngineError):
            await anext(aiter(answer))
    assert answer.usage.finish_reason == "error"
    for asked in (engine.free("other"), engine.embed("other", "text")):
        with pytest.raises(EngineError):
            await asked
    assert engine.status("other") is None


async def test_a_prompt_longer_than_the_context_is_an_error_of_that_answer_alone(engine):
    heard = await hear(engine, "m", chat("word " * 2000))
    assert (heard.text, heard.usage.finish_reason) == ("", "error")
    assert "invalid" in heard.error
    assert (await hear(engine, "m", question())).text


async def test_a_model_loaded_the_same_way_again_goes_on_as_it_is(engine):
    [before] = engine.models()
    async with engine.generate("m", question()) as answer:
        pieces = aiter(answer)
        await anext(pieces)
        seen = []
        status = await engine.load("m", before.path, LoadOptions(n_ctx=1024), seen.append)
        assert [piece async for piece in pieces]
    assert (status.name, status.path, status.state) == ("m", before.path, "ready")
    assert seen[-1:] in ([], [1.0])


async def test_questions_are_answered_beside_each_other(engine):
    heard = []

    async def ask():
        heard.append((await hear(engine, "m", question())).text)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(ask)
    assert len(heard) == 4
    assert all(heard)


async def test_the_status_says_what_the_model_is(engine):
    status = engine.status("m")
    assert engine.models() == [status]
    assert (status.name, status.state, status.progress) == ("m", "ready", 1.0)
    assert (status.engine, status.generates, status.error) == (engine.kind, True, None)
    assert status.n_ctx == 1024


async def test_the_room_for_another_model_is_a_number_of_bytes(engine):
    assert engine.room() >= 0


async def test_a_model_embeds_if_it_says_so(engine):
    if engine.status("m").embeds:
        vector = (await engine.embed("m", "a text")).vector
        assert math.hypot(*vector) == pytest.approx(1.0)
    else:
        with pytest.raises(EngineError):
            await engine.embed("m", "a text")
