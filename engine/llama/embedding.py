"""Texts into vectors: a context of llama.cpp for a model whose file names a pooling.

A context of its own, since one for embeddings computes no answers. Sampling and scheduling must
not come in.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.api import DEFAULT_N_CTX, Embedding, EngineError, LoadOptions
from engine.gguf import check_context
from engine.llama.batch import Batch
from engine.llama.context import WARM_UP
from engine.llama.model import Model
from engine.llama.native import C, cores, reason
from engine.plan import Plan

ENCODER_N_CTX = 2048
"""Tokens of a text at most for an encoder where `LoadOptions.n_ctx` is 0. It computes a text at
once, and the next one waits, and attention goes by the square."""

CHUNK = 128
"""Tokens of a text in one decode of a decoder, on a CPU. More is no faster there, and every
token costs memory for logits that nobody wants."""


class Embedder:
    """A context for the vectors of ``model``, made by ``llama_init_from_model``.

    Encoders (BERT and its like; they have no KV cache) take a text at once, and llama.cpp pools.
    Decoders take it in chunks; llama.cpp pools within a chunk only, so pooling is done here.
    whole: take it at once in any case. Raises `EngineError` with llama.cpp's reason.
    """

    def __init__(self, model: Model, options: LoadOptions, *, whole: bool = False) -> None:
        self._model = model
        self._whole = whole or _is_encoder(model)
        most = ENCODER_N_CTX if self._whole else DEFAULT_N_CTX
        # Beyond what it was trained with, BERT has no positions.
        self.n_ctx = min(options.n_ctx or most, model.n_ctx_train)
        self._n_batch = self.n_ctx if self._whole else options.n_batch if model.on_gpu else CHUNK
        self._n_embd: int = C.llama_model_n_embd_out(model.pointer)
        self._context = self._make(options)
        self._memory = C.llama_get_memory(self._context)
        self._batch = Batch(self._n_batch)

    def warm_up(self) -> None:
        """Embed a few tokens: here a broken backend shows itself (see `Context.warm_up`)."""
        self._pool([max(self._model.bos, 0)] * min(WARM_UP, self.n_ctx))

    def embed(self, text: str) -> Embedding:
        """The vector of a text, of length 1 as llama-server gives it.

        Raises `EngineError` for one that is empty, or longer than the context.
        """
        tokens = self._model.text_tokens(text)
        if not tokens:
            raise EngineError("invalid text: it is empty")
        if len(tokens) > self.n_ctx:
            raise EngineError(
                f"invalid text: {len(tokens)} tokens; the model takes {self.n_ctx} at most"
            )
        pooled = self._pool(tokens)
        length = float(np.linalg.norm(pooled))
        return Embedding(len(tokens), (pooled / length if length > 0 else pooled).tolist())

    def _pool(self, tokens: list[int]) -> NDArray[np.float32]:
        if self._whole:
            self._decode(tokens, 0)
            (pooled,) = self._vectors(C.llama_get_embeddings_seq(self._context, 0), 1)
            return np.array(pooled, dtype=np.float32)
        total = np.zeros(self._n_embd, dtype=np.float32)
        for start in range(0, len(tokens), self._n_batch):
            chunk = tokens[start : start + self._n_batch]
            self._decode(chunk, start)
            rows = self._vectors(C.llama_get_embeddings(self._context), len(chunk))
            if self._model.pooling == C.LLAMA_POOLING_TYPE_MEAN:
                total += rows.sum(axis=0) / len(tokens)
            elif self._model.pooling == C.LLAMA_POOLING_TYPE_LAST:
                total = rows[-1].copy()
            elif start == 0:
                total = rows[0].copy()
        return total

    def _decode(self, tokens: list[int], start: int) -> None:
        """``llama_decode`` of tokens from position ``start`` on, which is ``llama_encode`` for an
        encoder."""
        plan = Plan()
        plan.add(0, tokens, start)
        plan.outputs = dict.fromkeys(range(len(tokens)), 0)
        if start == 0 and self._memory:
            C.llama_memory_clear(self._memory, False)
        self._batch.decode(self._context, plan)

    def _vectors(self, pointer: object, rows: int) -> NDArray[np.float32]:
        if not pointer:
            raise EngineError(f"llama.cpp gives no embedding{reason()}")
        values: NDArray[np.float32] = np.ctypeslib.as_array(pointer, (rows, self._n_embd))
        return values

    def _make(self, options: LoadOptions) -> C.llama_context_p:
        model = self._model
        if not model.on_gpu:
            # An encoder keeps nothing; the others a cache of f16.
            cell_bytes = 0 if self._whole else 2 * model.cell_elements()
            check_context(self.n_ctx, self.n_ctx, cell_bytes)
        params = C.llama_context_default_params()
        params.n_ctx = self.n_ctx
        params.n_batch = params.n_ubatch = self._n_batch
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = options.n_threads or cores()
        params.embeddings = True
        params.pooling_type = model.pooling if self._whole else C.LLAMA_POOLING_TYPE_NONE
        context: C.llama_context_p | None = C.llama_init_from_model(model.pointer, params)
        if not context:
            raise EngineError(f"no context of {self.n_ctx} tokens{reason()}")
        return context


def _is_encoder(model: Model) -> bool:
    """Whether llama.cpp makes no KV cache for it. Only a context tells: a small one, for that."""
    params = C.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 32
    params.n_seq_max = 1
    context = C.llama_init_from_model(model.pointer, params)
    if not context:
        raise EngineError(f"no context of 32 tokens{reason()}")
    try:
        return not C.llama_get_memory(context)
    finally:
        C.llama_free(context)
