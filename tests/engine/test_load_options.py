"""What LOAD can be told, on the real thing: SmolLM2 in a worker of llama.cpp."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGUFWriter

from engine import EngineError, LoadOptions
from engine.host import LlamaEngine
from tests.engine.asking import chat, hear

pytestmark = pytest.mark.usefixtures("deadline")

N_EMBD = 576


@pytest.fixture
def adapter(tmp_path):
    """Writes a LoRA adapter of rank 2 for the queries of SmolLM2's first layer."""

    def write(n_embd: int = N_EMBD) -> str:
        path = tmp_path / f"{n_embd}.gguf"
        writer = GGUFWriter(path, "llama")
        writer.add_string("general.type", "adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", 2.0)
        random = np.random.default_rng(1)
        for name, shape in (("a", (2, n_embd)), ("b", (n_embd, 2))):
            values = random.standard_normal(shape, dtype=np.float32)
            writer.add_tensor(f"blk.0.attn_q.weight.lora_{name}", values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return str(path)

    return write


async def say(smol: str, **options) -> str:
    async with LlamaEngine(repack=False) as engine:
        await engine.load("smol", smol, LoadOptions(n_ctx=512, n_seq=2, **options))
        heard = await hear(engine, "smol", chat("Who are you?", temperature=0, max_tokens=12))
        assert heard.error is None
        return heard.text


async def test_a_lora_adapter_changes_the_answer_as_its_scale_says(smol, adapter):
    plain = await say(smol)
    assert await say(smol, lora=((adapter(), 0.0),)) == plain
    assert await say(smol, lora=((adapter(), 1.0),)) != plain


async def test_an_adapter_is_still_there_when_the_cache_was_cut_anew(smol, adapter):
    """The first question needs more than a stream has."""
    options = {"lora": ((adapter(), 1.0),), "n_cells": 4096}
    async with LlamaEngine(repack=False) as engine:
        await engine.load("smol", smol, LoadOptions(n_ctx=4096, **options))
        first = await hear(engine, "smol", chat("Who are you?", temperature=0, max_tokens=12))
        await hear(engine, "smol", chat("Name " * 300, temperature=0, max_tokens=1))
        again = await hear(engine, "smol", chat("Who are you?", temperature=0, max_tokens=12))
    assert first.text == again.text


async def test_an_adapter_of_another_model_is_refused_with_its_path(smol, adapter):
    async with LlamaEngine(repack=False) as engine:
        path = adapter(64)
        with pytest.raises(EngineError, match=f"no LoRA adapter for this model: {path}"):
            await engine.load("smol", smol, LoadOptions(lora=((path, 1.0),)))


@pytest.mark.parametrize("kv_type", ["f32", "q8_0"])
async def test_the_type_of_the_cache_shows_in_its_memory(smol, kv_type):
    sizes = {}
    for each in ("f16", kv_type):
        async with LlamaEngine(repack=False) as engine:
            status = await engine.load("smol", smol, LoadOptions(kv_type=each))
            sizes[each] = status.memory_bytes
    assert (sizes[kv_type] > sizes["f16"]) == (kv_type == "f32")


async def test_a_quantised_cache_without_flash_attention_is_refused_in_words(smol):
    async with LlamaEngine(repack=False) as engine:
        with pytest.raises(EngineError, match="no context of 1024 tokens.*[Ff]lash"):
            await engine.load(
                "smol", smol, LoadOptions(n_ctx=512, kv_type="q8_0", flash_attn="off")
            )
