"""Texts into vectors, by real workers: a BERT of random weights, which numpy computes too, and
SmolLM2 with a pooling written into its file, as a decoder that embeds."""

from __future__ import annotations

import os
import signal
import struct
from functools import partial

import numpy as np
import pytest
import trio
import trio.lowlevel
from gguf import PoolingType

from engine import EngineError, LoadOptions
from engine.host import LlamaEngine
from engine.llama import Embedder, Model
from tests.engine import tiny_bert
from tests.engine.asking import chat, hear, workers

pytestmark = pytest.mark.usefixtures("deadline")

POOLINGS = [PoolingType.MEAN, PoolingType.CLS, PoolingType.LAST]
STORY = "A king rode his horse along the sea. "


@pytest.fixture
def bert(tmp_path):
    """Makes the file of a BERT."""

    def make(pooling: PoolingType | None = PoolingType.MEAN) -> str:
        path = str(tmp_path / "bert.gguf")
        tiny_bert.write(path, pooling)
        return path

    return make


@pytest.fixture
async def engine(bert):
    async with LlamaEngine(repack=False) as engine:
        await engine.load("bert", bert())
        yield engine


@pytest.fixture(scope="session")
def smol_that_embeds(smol, tmp_path_factory):
    """SmolLM2 with ``llama.pooling_type`` in its header, at 1, mean."""

    def pair(key: bytes, kind: int, value: bytes) -> bytes:
        return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value

    with open(smol, "rb") as file:
        whole = file.read()
    pooling = pair(b"llama.pooling_type", 4, struct.pack("<I", 1))
    # What comes behind the header has to stay aligned to 32 bytes.
    filler = pair(b"x" * (64 - len(pooling) - 13), 0, b"\0")
    (n_pairs,) = struct.unpack_from("<Q", whole, 16)
    header = whole[:16] + struct.pack("<Q", n_pairs + 2) + pooling + filler
    path = tmp_path_factory.mktemp("models") / "smol-embeds.gguf"
    path.write_bytes(header + whole[24:])
    return str(path)


@pytest.mark.parametrize("pooling", POOLINGS)
async def test_a_vector_is_what_numpy_makes_of_the_same_weights(bert, pooling):
    async with LlamaEngine(repack=False) as engine:
        await engine.load("bert", bert(pooling))
        embedding = await engine.embed("bert", "The king asks questions")
    pieces = ["the", "king", "[UNK]", "question", "##s"]
    assert embedding.tokens == len(pieces) + 2
    # ggml's GELU goes through a table of half floats.
    expected = tiny_bert.vector(pieces, pooling)
    np.testing.assert_allclose(embedding.vector, expected, atol=2e-3)
    assert np.linalg.norm(embedding.vector) == pytest.approx(1.0)


async def test_a_typed_marker_is_text(engine):
    embedding = await engine.embed("bert", "king [SEP]")
    np.testing.assert_allclose(
        embedding.vector,
        tiny_bert.vector(["king", "[UNK]", "[UNK]", "[UNK]"], PoolingType.MEAN),
        atol=2e-3,
    )


async def test_the_status_says_what_a_model_can_do(engine, smol):
    await engine.load("smol", smol, LoadOptions(n_ctx=512))
    able = {model.name: (model.generates, model.embeds) for model in engine.models()}
    assert able == {"bert": (False, True), "smol": (True, False)}
    assert engine.status("bert").n_ctx == tiny_bert.N_CTX


async def test_a_text_longer_than_the_context_is_refused_with_both_numbers(engine):
    text = "king " * (tiny_bert.N_CTX - 2)
    assert (await engine.embed("bert", text)).tokens == tiny_bert.N_CTX
    with pytest.raises(EngineError, match="^invalid text: 33 tokens; the model takes 32 at most$"):
        await engine.embed("bert", text + "king")


async def test_a_text_of_too_many_bytes_is_not_even_tokenised(engine):
    with pytest.raises(EngineError, match="^invalid text: 2049 bytes; the model takes 32 tokens"):
        await engine.embed("bert", "k" * 2049)


@pytest.mark.parametrize("n_ctx", [16, 4096])
async def test_a_context_can_be_smaller_than_trained_and_is_never_larger(bert, n_ctx):
    async with LlamaEngine(repack=False) as engine:
        status = await engine.load("bert", bert(), LoadOptions(n_ctx=n_ctx))
        assert status.n_ctx == min(n_ctx, tiny_bert.N_CTX)
        with pytest.raises(EngineError, match=f"the model takes {status.n_ctx} at most"):
            await engine.embed("bert", "king " * status.n_ctx)


async def test_an_empty_text_is_refused(engine):
    with pytest.raises(EngineError, match="^invalid text: it is empty$"):
        await engine.embed("bert", "")


async def test_a_model_that_embeds_generates_no_text_and_says_so(engine):
    heard = await hear(engine, "bert", chat("Hello"))
    assert heard.error == "invalid: bert generates no text; use embed"


async def test_a_model_that_generates_has_no_embeddings_and_says_so(llama):
    with pytest.raises(EngineError, match="^invalid: smol has no embeddings; it takes a model"):
        await llama.embed("smol", "Hello")


@pytest.mark.parametrize("pooling", [None, PoolingType.NONE, PoolingType.RANK])
async def test_an_encoder_without_pooling_is_of_no_use(bert, pooling):
    path = bert(pooling)
    async with LlamaEngine(repack=False) as engine:
        with pytest.raises(EngineError) as caught:
            await engine.load("bert", path)
    assert str(caught.value) == (
        f"a bert model without pooling neither generates nor embeds: {path}"
    )


async def test_of_many_at_once_everybody_gets_his_own(engine):
    texts = [" ".join(["king"] * n) for n in range(1, 21)]
    alone = [await engine.embed("bert", text) for text in texts]
    together = {}

    async def embed(text: str) -> None:
        together[text] = await engine.embed("bert", text)

    async with trio.open_nursery() as nursery:
        for text in texts:
            nursery.start_soon(embed, text)
    assert [together[text] for text in texts] == alone


async def test_who_leaves_a_text_that_waits_leaves_nothing_behind(engine):
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(partial(engine.embed, "bert", "king " * 30))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert (await engine.embed("bert", "a king")).tokens == 4


async def test_a_text_waits_for_a_model_that_is_started_again(engine):
    (worker,) = workers()
    before = await engine.embed("bert", "a king")
    os.kill(worker.pid, signal.SIGKILL)
    while engine.status("bert").state == "ready":
        await trio.lowlevel.checkpoint()
    assert await engine.embed("bert", "a king") == before


async def test_free_ends_a_text_in_words(engine):
    errors = []

    async def embed() -> None:
        with pytest.raises(EngineError) as caught:
            await engine.embed("bert", "king " * 30)
        errors.append(str(caught.value))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(embed)
        await trio.testing.wait_all_tasks_blocked()
        await engine.free("bert")
    assert errors == ["model bert was freed"]


async def test_an_unknown_model_is_an_error(engine):
    with pytest.raises(EngineError, match="^no model other is loaded$"):
        await engine.embed("other", "a king")


async def test_a_decoder_taken_in_chunks_gives_what_llama_cpp_pools_at_once(smol_that_embeds):
    options = LoadOptions(n_ctx=512)
    model = Model(smol_that_embeds, options, False, lambda fraction: None)
    chunks, whole = Embedder(model, options), Embedder(model, options, whole=True)
    for text in (STORY, STORY * 30):
        ours, theirs = chunks.embed(text), whole.embed(text)
        assert ours.tokens == theirs.tokens
        assert np.dot(ours.vector, theirs.vector) > 0.9999


async def test_texts_alike_have_vectors_alike(smol_that_embeds):
    async with LlamaEngine(repack=False) as engine:
        status = await engine.load("smol", smol_that_embeds, LoadOptions(n_ctx=512))
        assert (status.generates, status.embeds) == (False, True)
        texts = (STORY, "The queen's horse ran on the beach.", "x = [i**2 for i in range(10)]")
        king, queen, code = [(await engine.embed("smol", text)).vector for text in texts]
    assert np.dot(king, queen) > np.dot(king, code)
