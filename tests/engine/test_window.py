"""A model whose layers see only the last tokens: what they no longer see is not in the cache."""

from __future__ import annotations

import pytest

from engine import LoadOptions
from engine.host import LlamaEngine
from engine.llama import Context, Model
from tests.engine import tiny_gemma
from tests.engine.asking import Heard, hear, raw


@pytest.fixture
def gemma(tmp_path) -> str:
    path = str(tmp_path / "gemma.gguf")
    tiny_gemma.write(path)
    return path


def letters(first: int, n: int) -> str:
    """So many tokens: the model has one for a byte."""
    return "".join(chr(ord("a") + (first + 7 * i * i) % 26) for i in range(n))


async def answers(path: str, prompts: list[str], **options) -> list[Heard]:
    """The answers to these prompts, one after the other."""
    async with LlamaEngine(repack=False) as engine:
        await engine.load("gemma", path, LoadOptions(n_ctx=512, **options))
        requests = [raw(text, temperature=0, max_tokens=6) for text in prompts]
        return [await hear(engine, "gemma", request) for request in requests]


@pytest.mark.usefixtures("deadline")
async def test_sharing_changes_no_answer(gemma):
    rules = letters(1, 100)
    prompts = [rules + letters(3, 60), letters(20, 60), rules + letters(5, 9)]
    shared = await answers(gemma, prompts, n_seq=1)
    alone = await answers(gemma, prompts, n_seq=1, share=False)
    assert [len(each.text.split()) for each in alone] == [6, 6, 6]
    assert [each.text for each in shared] == [each.text for each in alone]


def test_a_window_as_large_as_the_context_hides_nothing(gemma):
    def trims(n_ctx: int) -> bool:
        options = LoadOptions(n_ctx=n_ctx)
        return Context(Model(gemma, options, repack=False, progress=lambda _: None), options).trims

    assert [trims(tiny_gemma.WINDOW), trims(tiny_gemma.WINDOW + 1)] == [True, False]


def test_what_cannot_be_carried_over_is_not_saved(gemma):
    options = LoadOptions(n_ctx=512)
    context = Context(Model(gemma, options, repack=False, progress=lambda _: None), options)
    assert context.store > 0
    context.warm_up()
    assert (context.reshapes, context.store, context.shape.unified) == (False, 0, True)
