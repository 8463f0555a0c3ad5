"""Logprobs, all the way from SmolLM2 in its worker."""

from __future__ import annotations

import math

import pytest

from tests.engine.asking import chat, hear

pytestmark = pytest.mark.usefixtures("deadline")


@pytest.mark.parametrize("settings", [{"max_tokens": 9}, {"max_tokens": 40, "stop": (".",)}])
async def test_every_token_of_an_answer_has_them_and_greedy_is_always_first(llama, settings):
    request = chat("What is a llama?", temperature=0, logprobs=5, **settings)
    heard = await hear(llama, "smol", request)
    assert len(heard.logprobs) == heard.usage.completion_tokens
    said = b"".join(one.token for one in heard.logprobs).decode()
    assert said == heard.text if len(settings) == 1 else said.startswith(heard.text + ".")
    for one in heard.logprobs:
        assert (one.top[0].id, one.top[0].logprob) == (one.id, one.logprob)
        probabilities = [math.exp(other.logprob) for other in one.top]
        assert probabilities == sorted(probabilities, reverse=True)
        assert len(probabilities) == 5
        assert sum(probabilities) <= 1.0001


async def test_an_answer_that_ends_by_itself_has_one_for_each_token_but_the_last(llama):
    request = chat("Yes?", grammar='root ::= "yes no"', logprobs=1)
    heard = await hear(llama, "smol", request)
    assert heard.usage.finish_reason == "stop"
    assert b"".join(one.token for one in heard.logprobs) == b"yes no"


async def test_what_a_grammar_forbids_is_in_them_all_the_same(llama):
    question = "What is a llama?"
    free = await hear(llama, "smol", chat(question, temperature=0, logprobs=3, max_tokens=1))
    bound = await hear(
        llama,
        "smol",
        chat(question, temperature=0, logprobs=3, max_tokens=1, grammar="root ::= [0-9]+"),
    )
    assert bound.text.isdigit()
    assert bound.logprobs[0].top == free.logprobs[0].top


async def test_without_asking_there_are_none(llama):
    assert (await hear(llama, "smol", chat("Hello", max_tokens=4))).logprobs == []
