"""What is computed once for many, on the real thing: SmolLM2 in a worker of llama.cpp."""

from __future__ import annotations

import pytest
import trio

from engine import Chat, LoadOptions, Message, Request, Sampling
from engine.host import LlamaEngine
from tests.engine.asking import Heard, hear

pytestmark = pytest.mark.usefixtures("deadline")

RULES = " ".join(f"Rule {n}: be polite to guest number {n} of the house." for n in range(1, 20))
"""Some 300 tokens."""

QUESTIONS = ("Who are you?", "What is rule 7?", "Name a colour.", "Count to five.", "Say hello.")


def ask(question: str, system: str = RULES, **sampling) -> Request:
    messages = (Message("system", system), Message("user", question))
    return Request(Chat(messages), Sampling(temperature=0, **{"max_tokens": 24} | sampling))


async def all_at_once(engine: LlamaEngine, requests: list[Request]) -> list[Heard]:
    heard: dict[int, Heard] = {}

    async def listen(number: int, request: Request) -> None:
        heard[number] = await hear(engine, "smol", request)

    async with trio.open_nursery() as nursery:
        for number, request in enumerate(requests):
            nursery.start_soon(listen, number, request)
    return [heard[number] for number in sorted(heard)]


@pytest.fixture
async def load(smol):
    """Loads SmolLM2 anew, with these options."""
    async with LlamaEngine(repack=False) as engine:

        async def load(**options) -> LlamaEngine:
            await engine.load("smol", smol, LoadOptions(**{"n_ctx": 2048} | options))
            return engine

        yield load


async def test_those_that_come_together_compute_their_common_beginning_once(load):
    engine = await load()
    heard = await all_at_once(engine, [ask(question) for question in QUESTIONS])
    cached = sorted(each.usage.cached_tokens for each in heard)
    assert cached[0] == 0
    assert min(cached[1:]) > 250
    assert len({each.text for each in heard}) == len(QUESTIONS)


async def test_a_beginning_is_used_while_its_answer_runs_and_after_it(load):
    engine = await load()
    async with engine.generate("smol", ask("Tell a story.", max_tokens=200)) as running:
        await anext(aiter(running))
        beside = await hear(engine, "smol", ask("Who are you?"))
    after = await hear(engine, "smol", ask("Name a colour."))
    assert min(beside.usage.cached_tokens, after.usage.cached_tokens) > 250


@pytest.mark.parametrize("system", ["Be polite.", RULES], ids=["short", "long"])
async def test_sharing_does_not_change_an_answer(load, system):
    texts = []
    for share in (False, True):
        engine = await load(share=share)
        heard = [await hear(engine, "smol", ask(question, system)) for question in QUESTIONS]
        assert all((each.usage.cached_tokens > 0) == share for each in heard[1:])
        texts.append([each.text for each in heard])
    assert texts[0] == texts[1]


async def test_nor_does_it_when_all_come_together(load):
    texts = []
    for share in (False, True):
        engine = await load(share=share)
        heard = await all_at_once(engine, [ask(question, RULES) for question in QUESTIONS])
        texts.append([each.text for each in heard])
    alone = await hear(engine, "smol", ask(QUESTIONS[0], RULES))
    assert texts[0] == texts[1]
    assert texts[0][0] == alone.text


async def test_with_flash_attention_it_changes_none_whose_own_part_is_a_tile(load):
    """Tiles round otherwise than single tokens do: docs/design.md, "Rounding"."""
    texts = []
    for share in (False, True):
        engine = await load(share=share, flash_attn="on")
        requests = [ask(f"{question} {RULES}", RULES) for question in QUESTIONS]
        texts.append([(await hear(engine, "smol", request)).text for request in requests])
    assert texts[0] == texts[1]


async def test_what_gave_way_is_brought_back_and_goes_on_the_same(load):
    engine = await load(n_seq=1)
    systems = [f"You are number {n}. Be polite." for n in range(3)]
    first = [await hear(engine, "smol", ask("Who are you?", system)) for system in systems]
    again = [await hear(engine, "smol", ask("Who are you?", system)) for system in systems]
    assert [each.text for each in first] == [each.text for each in again]
    assert all(each.usage.prompt_tokens - each.usage.cached_tokens <= 2 for each in again)


@pytest.mark.parametrize(
    "options",
    [{"n_cells": 8192}, {"n_cells": 2048, "flash_attn": "on"}],
    ids=["larger streams", "unified"],
)
async def test_a_cache_cut_anew_keeps_what_runs(load, options):
    """One that needs more than a stream comes to others that have begun. Without flash attention
    an answer that goes on in a unified cache is rounded otherwise."""
    engine = await load(n_ctx=1500, n_seq=8, **options)
    short = [ask(question, "Be brief.", max_tokens=60) for question in QUESTIONS]
    alone = await hear(engine, "smol", short[0])
    async with engine.generate("smol", short[0]) as answer:
        text = await anext(aiter(answer))
        long = ask("What is rule 7?", RULES * 3, max_tokens=300)
        others = await all_at_once(engine, [*short[1:], long])
        text += "".join([piece async for piece in answer])
    assert [each.error for each in others] == [None] * 5
    assert text == alone.text


@pytest.mark.parametrize("options", [{"kv_type": "q8_0"}, {"flash_attn": "on"}])
async def test_options_of_the_cache_work_with_sharing(load, options):
    engine = await load(**options)
    heard = await all_at_once(engine, [ask(question) for question in QUESTIONS])
    assert all("error" not in str(each.error) for each in heard)
    assert sorted(each.usage.cached_tokens for each in heard)[1] > 250
