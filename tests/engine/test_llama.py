"""The engine on the real thing: SmolLM2-135M-Instruct in a worker of llama.cpp."""

from __future__ import annotations

import os
import signal
import statistics
from pathlib import Path

import psutil
import pytest
import trio

from engine import Chat, EngineError, LoadOptions, Message, Request, Sampling
from engine.host import NO_REPACK, LlamaEngine
from tests.engine.asking import chat, hear, raw, workers

pytestmark = pytest.mark.usefixtures("deadline")

QUESTION = "What is artificial intelligence?"


async def test_a_loaded_model_tells_its_facts(llama, smol):
    status = llama.status("smol")
    assert (status.name, status.path, status.state, status.progress) == (
        "smol",
        smol,
        "ready",
        1.0,
    )
    assert (status.architecture, status.quantization) == ("llama", "Q4_1")
    assert status.parameters == 134515008
    assert status.file_bytes == 98362432
    assert status.memory_bytes > status.file_bytes
    assert (status.n_ctx, status.n_ctx_train) == (2048, 8192)
    assert (status.chat_template, status.engine) == (True, "llama")
    assert (status.error, status.note) == (None, None)


async def test_without_n_ctx_the_model_gets_what_it_was_trained_with(smol):
    async with LlamaEngine(repack=False) as engine:
        assert (await engine.load("smol", smol)).n_ctx == 8192


async def test_a_greedy_answer_is_sensible_and_the_same_twice(llama):
    first = await hear(llama, "smol", chat(QUESTION, temperature=0, max_tokens=24))
    second = await hear(llama, "smol", chat(QUESTION, temperature=0, max_tokens=24))
    assert "intelligence" in first.text
    assert first.text == second.text
    assert len(first.pieces) > 12, "it comes token by token"


async def test_the_same_seed_gives_the_same_text_and_another_another(llama):
    texts = [
        (await hear(llama, "smol", chat(QUESTION, seed=seed, max_tokens=24))).text
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


async def test_a_random_seed_gives_another_text(llama):
    request = chat("Write a story.", temperature=1.5, max_tokens=24)
    assert (await hear(llama, "smol", request)).text != (await hear(llama, "smol", request)).text


async def test_a_repeat_penalty_changes_a_greedy_answer(llama):
    counting = "1, 2, 3, 4, 5, 6, 7,"
    plain = await hear(llama, "smol", raw(counting, temperature=0, max_tokens=9))
    assert plain.text == " 8, 9, 10"
    penalised = raw(counting, temperature=0, max_tokens=9, repeat_penalty=2.0)
    assert "," not in (await hear(llama, "smol", penalised)).text


async def test_ten_at_once_get_each_his_own_answer(llama):
    heard = {}

    async def count_from(n: int) -> None:
        request = raw(f"{n}, {n + 1}, {n + 2}, {n + 3},", temperature=0, max_tokens=6)
        heard[n] = await hear(llama, "smol", request)

    async with trio.open_nursery() as nursery:
        for n in range(10, 110, 10):
            nursery.start_soon(count_from, n)
    assert {n: answer.text.split(",")[0] for n, answer in heard.items()} == {
        n: f" {n + 4}" for n in range(10, 110, 10)
    }


async def test_a_long_prompt_beside_short_ones_is_computed_right(llama):
    """It is cut into chunks, and the chunks share their steps with the others' tokens."""
    heard = {}

    async def count_on(start: int, end: int) -> None:
        text = "".join(f" {n}," for n in range(start, end))
        request = raw(text, temperature=0, max_tokens=6)
        heard[end] = (await hear(llama, "smol", request)).text.split(",")[0]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_on, 1, 120)
        for end in (20, 30, 40):
            nursery.start_soon(count_on, end - 5, end)
    assert heard == {120: " 120", 20: " 20", 30: " 30", 40: " 40"}


async def test_several_prompts_share_a_context_smaller_than_a_step(smol):
    async with LlamaEngine(repack=False) as engine:
        await engine.load("smol", smol, LoadOptions(n_ctx=60, n_seq=4, n_batch=8))
        heard = []

        async def ask() -> None:
            heard.append(await hear(engine, "smol", chat(QUESTION, max_tokens=5)))

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(ask)
    assert [answer.usage.finish_reason for answer in heard] == ["length"] * 8


async def test_a_context_that_cannot_be_had_fails_the_load(llama, smol):
    with pytest.raises(EngineError, match="context too large: 2000000000 cells take"):
        await llama.load("huge", smol, LoadOptions(n_ctx=1_000_000_000))


async def test_end_of_generation_is_reason_stop(llama):
    heard = await hear(llama, "smol", chat("What is 2 + 2?", temperature=0, max_tokens=200))
    assert heard.usage.finish_reason == "stop"
    assert heard.usage.completion_tokens < 200
    assert "<|im_end|>" not in heard.text


async def test_max_tokens_is_reason_length(llama):
    heard = await hear(llama, "smol", chat(QUESTION, max_tokens=5))
    assert (heard.usage.finish_reason, heard.usage.completion_tokens) == ("length", 5)


async def test_a_stop_string_is_reason_stop_string_and_not_part_of_the_text(llama):
    heard = await hear(llama, "smol", raw("1, 2, 3, 4,", temperature=0, stop=(" 8",)))
    assert (heard.text, heard.usage.finish_reason) == (" 5, 6, 7,", "stop_string")


async def test_a_full_context_is_reason_context(smol):
    async with LlamaEngine(repack=False) as engine:
        await engine.load("smol", smol, LoadOptions(n_ctx=50))
        heard = await hear(engine, "smol", chat(QUESTION, temperature=0))
        assert heard.usage.finish_reason == "context"
        assert heard.usage.prompt_tokens + heard.usage.completion_tokens == 50
        too_long = await hear(engine, "smol", raw("word " * 60))
    assert too_long.error == (
        "invalid prompt: 61 tokens; the context holds 50, the answer included; "
        "shorten it, or LOAD with a larger n_ctx"
    )


async def test_an_empty_raw_prompt_is_an_error(llama):
    assert (await hear(llama, "smol", raw(""))).error == "the prompt is empty"


async def test_usage_counts_tokens_and_seconds(llama):
    usage = (await hear(llama, "smol", chat(QUESTION, max_tokens=8))).usage
    assert (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) == (35, 0, 8)
    assert 0 < usage.queue_s < usage.prefill_s < usage.queue_s + usage.prefill_s + usage.decode_s
    assert usage.tokens_per_second == pytest.approx(7 / usage.decode_s)


async def test_the_next_turn_of_a_conversation_reuses_what_was_computed(llama):
    first = await hear(llama, "smol", chat(QUESTION, temperature=0, max_tokens=20))
    turn = Chat(
        (Message("user", QUESTION), Message("assistant", first.text), Message("user", "Why?"))
    )
    second = await hear(llama, "smol", Request(turn, Sampling(max_tokens=5)))
    assert second.usage.cached_tokens >= 35 + 18


async def test_the_system_message_takes_the_place_of_the_templates_own(llama):
    messages = (Message("system", "Be brief."), Message("user", QUESTION))
    heard = await hear(llama, "smol", Request(Chat(messages), Sampling(max_tokens=1)))
    assert heard.usage.prompt_tokens < 35


async def test_leaving_an_answer_frees_its_sequence(smol):
    async with LlamaEngine(repack=False) as engine, trio.open_nursery() as nursery:
        await engine.load("smol", smol, LoadOptions(n_ctx=512, n_seq=1))
        async with engine.generate("smol", chat("Tell a story.", max_tokens=400)) as first:
            await anext(aiter(first))
            async with engine.generate("smol", raw("1, 2, 3,", max_tokens=2)) as queued:
                await anext(aiter(first))
                assert (first.state, queued.state) == ("generating", "queued")
            # It was left while it waited; this one waits in its place.
            nursery.start_soon(hear, engine, "smol", raw("1, 2, 3,", max_tokens=2))
        assert first.usage.finish_reason == queued.usage.finish_reason == "cancelled"
        assert 2 <= first.usage.completion_tokens < 100


async def test_a_kill_in_mid_answer_leaves_the_text_so_far_and_the_next_prompt_works(llama):
    async with llama.generate("smol", chat("Tell a story.", max_tokens=400)) as answer:
        text = await anext(aiter(answer))
        (worker,) = workers()
        os.kill(worker.pid, signal.SIGKILL)
        died = None
        try:
            async for piece in answer:
                text += piece
        except EngineError as error:
            died = str(error)
    assert died == "worker of smol was killed by SIGKILL (signal 9)"
    assert text
    assert answer.usage.finish_reason == "error"
    assert answer.usage.prompt_tokens > 0
    assert (await hear(llama, "smol", chat(QUESTION, max_tokens=5))).error is None
    assert llama.status("smol").note == f"started again: {died}"


async def test_free_in_mid_answer_ends_it_in_words_and_gives_the_memory_back(llama):
    async with llama.generate("smol", chat("Tell a story.", max_tokens=400)) as answer:
        await anext(aiter(answer))
        await llama.free("smol")
        assert workers() == []
        with pytest.raises(EngineError, match="model smol was freed"):
            async for _ in answer:
                pass


async def test_interrupt_and_terminate_do_not_end_a_worker(llama):
    (worker,) = workers()
    async with llama.generate("smol", chat(QUESTION, max_tokens=20)) as answer:
        async for _ in answer:
            worker.send_signal(signal.SIGINT)
            worker.send_signal(signal.SIGTERM)
    assert answer.usage.finish_reason in ("length", "stop")


@pytest.mark.skipif(
    "amx_int8" not in Path("/proc/cpuinfo").read_text(),
    reason="this CPU has no AMX, with which llama.cpp crashes at its first decode",
)
async def test_a_crash_at_the_first_decode_is_survived(smol):
    async with LlamaEngine() as engine:
        status = await engine.load("smol", smol)
        assert (status.state, status.note) == ("ready", NO_REPACK)
        assert (await hear(engine, "smol", chat(QUESTION, max_tokens=5))).error is None


async def test_a_truncated_file_is_refused_with_the_cause(llama, smol, tmp_path):
    path = tmp_path / "half.gguf"
    whole = await trio.Path(smol).read_bytes()
    await trio.Path(path).write_bytes(whole[:50_000_000])
    with pytest.raises(EngineError, match=f"^truncated GGUF file: {path}: tensor"):
        await llama.load("half", str(path))
    await trio.Path(path).write_bytes(whole[:1000])
    with pytest.raises(EngineError, match=f"^truncated GGUF file: {path}: "):
        await llama.load("half", str(path))
    assert (await hear(llama, "smol", chat(QUESTION, max_tokens=5))).error is None


async def test_a_broken_file_is_refused_with_llama_cpps_reason(llama, tmp_path):
    path = tmp_path / "broken.gguf"
    await trio.Path(path).write_bytes(b"GGUF\x03\0\0\0" + b"\0" * 100)
    with pytest.raises(EngineError, match=f"^llama.cpp cannot load {path}: "):
        await llama.load("broken", str(path))


async def test_two_models_answer_beside_each_other(llama, smol):
    await llama.load("other", smol, LoadOptions(n_ctx=512))
    heard = {}

    async def ask(name: str) -> None:
        heard[name] = await hear(llama, name, raw("1, 2, 3, 4,", temperature=0, max_tokens=6))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "smol")
        nursery.start_soon(ask, "other")
    assert heard["smol"].text == heard["other"].text == " 5, 6,"
    await llama.free("other")
    assert [model.name for model in llama.models()] == ["smol"]


async def test_a_conversation_that_slides_is_answered_without_its_oldest_turns(smol):
    """And what is left of it is reused by the next question, which needs not slide again."""
    async with LlamaEngine(repack=False) as engine:
        await engine.load("smol", smol, LoadOptions(n_ctx=200))
        story = "Once there was a king who had a horse that could fly over the sea. "
        turns = [
            message
            for i in range(6)
            for message in (Message("user", f"Part {i}?"), Message("assistant", story))
        ]
        sampling = Sampling(temperature=0, max_tokens=10)

        async def ask(*messages: Message, overflow: str = "slide"):
            async with engine.generate(
                "smol", Request(Chat(messages), sampling, overflow)
            ) as answer:
                text = "".join([piece async for piece in answer])
            return text, answer.dropped, answer.usage

        system, question = Message("system", "Be brief."), Message("user", "And then?")
        with pytest.raises(EngineError, match=r"^invalid prompt: \d+ tokens; .* overflow slide"):
            await ask(system, *turns, question, overflow="stop")
        text, dropped, usage = await ask(system, *turns, question)
        assert dropped >= 4
        assert usage.prompt_tokens <= 100
        # It is the very prompt that the shorter conversation makes.
        assert (text, 0) == (await ask(system, *turns[dropped:], question))[:2]
        more = (question, Message("assistant", text), Message("user", "Why?"))
        _, dropped_again, next_usage = await ask(system, *turns[dropped:], *more)
        assert dropped_again == 0
        assert next_usage.cached_tokens >= usage.prompt_tokens - 5


async def test_a_load_does_not_stall_the_answers_of_another_model(llama, smol):
    """They share the processors while it loads, and nothing else."""
    usual, beside = [], []
    async with (
        llama.generate("smol", chat("Tell a long story.", max_tokens=1500)) as answer,
        trio.open_nursery() as nursery,
    ):
        gaps, last, loaded = usual, None, trio.Event()

        async def load() -> None:
            await llama.load("other", smol, LoadOptions(n_ctx=512))
            loaded.set()

        async for _ in answer:
            now = trio.current_time()
            gaps += [now - last] if last is not None else []
            last = now
            if len(usual) == 20 and gaps is usual:
                gaps = beside
                nursery.start_soon(load)
            if loaded.is_set():
                break
    assert len(beside) >= 3
    assert max(beside) < max(0.2, 10 * statistics.median(usual)), (max(beside), usual)


async def test_free_returns_when_the_memory_is_back(smol):
    def anonymous() -> int:
        """Bytes that nobody else has: of this process and its workers."""
        memory = [p.memory_info() for p in (psutil.Process(), *workers())]
        return sum(each.rss - each.shared for each in memory)

    async with LlamaEngine(repack=False) as engine:
        before = anonymous()
        status = await engine.load("smol", smol)
        loaded = anonymous()
        # 180 MiB are the cache; the file, which is mapped, is not among them.
        assert loaded - before > 180 << 20
        assert status.memory_bytes > status.file_bytes + (180 << 20)
        await engine.free("smol")
        assert anonymous() - before < 8 << 20
