"""A context of llama.cpp: the KV cache, and the decodes that read and fill it."""

from __future__ import annotations

import ctypes
import os

import numpy as np

from engine.api import EngineError, LoadOptions
from engine.batch import Plan, Trim
from engine.gguf import DEFAULT_N_CTX, check_context
from engine.llama.model import Model
from engine.llama.native import C, reason
from engine.llama.sampler import Sampler

WARM_UP = 4
"""Tokens in the larger of the two warm-up decodes."""


class Context:
    """A context for ``model``, made by ``llama_init_from_model``, with one KV cache for all
    sequences (``kv_unified``). Raises `EngineError` with llama.cpp's reason."""

    def __init__(self, model: Model, options: LoadOptions) -> None:
        self.n_ctx = options.n_ctx or min(model.n_ctx_train, DEFAULT_N_CTX)
        self.n_seq = min(max(options.n_seq, 1), C.llama_max_parallel_sequences())
        self._model = model
        self._context = self._make(options)
        self._memory = C.llama_get_memory(self._context)
        self.n_cells: int = C.llama_n_ctx(self._context)
        self.n_batch: int = C.llama_n_batch(self._context)
        self._batch = _Batch(self.n_batch)

    def warm_up(self) -> None:
        """Decode once as a single answer does and once as several do, and forget it.

        Here a broken backend shows itself, before anybody waits for an answer. One token is
        not enough: the AMX crash (ggml-org/llama.cpp#20824) needs two or more in a batch.
        """
        token = max(self._model.bos, 0)
        for n_tokens in (1, WARM_UP):
            plan = Plan()
            plan.tokens, plan.positions = [token] * n_tokens, list(range(n_tokens))
            plan.seqs, plan.outputs = [0] * n_tokens, {n_tokens - 1: 0}
            self.decode(plan)
            self.clear()

    def decode(self, plan: Plan) -> None:
        """Carry out a plan: ``llama_memory_seq_rm`` for its trims, then ``llama_decode``.

        Raises `EngineError` if llama.cpp refuses; what is in the cache is unknown then, and
        it has to be cleared.
        """
        for trim in plan.trims:
            self._trim(trim)
        status = C.llama_decode(self._context, self._batch.fill(plan))
        if status != 0:
            raise EngineError(f"llama_decode failed with status {status}{reason()}")

    def clear(self) -> None:
        """Forget all sequences (``llama_memory_clear``)."""
        C.llama_memory_clear(self._memory, False)

    def sample(self, sampler: Sampler, row: int) -> int:
        """The next token of an answer, by the logits of a row of the last decode."""
        return sampler.sample(self._context, row)

    def _make(self, options: LoadOptions) -> C.llama_context_p:
        # Every running answer has a token in a step, and a prompt at least one beside them.
        n_batch = max(options.n_batch, self.n_seq + 1, WARM_UP)
        # llama.cpp makes a batch no larger than the context.
        n_cells = max(self.n_ctx, n_batch)
        if not self._model.on_gpu:
            check_context(self.n_ctx, n_cells * self._model.cell_bytes())
        params = C.llama_context_default_params()
        params.n_ctx = n_cells
        params.n_batch = n_batch
        params.n_ubatch = min(params.n_ubatch, n_batch)
        params.n_seq_max = self.n_seq
        params.n_threads = params.n_threads_batch = options.n_threads or _cores()
        params.kv_unified = True
        context: C.llama_context_p | None = C.llama_init_from_model(self._model.pointer, params)
        if not context:
            raise EngineError(f"no context of {self.n_ctx} tokens{reason()}")
        return context

    def _trim(self, trim: Trim) -> None:
        if not C.llama_memory_seq_rm(self._memory, trim.seq, trim.start, -1):
            raise EngineError(f"llama_memory_seq_rm refused to cut sequence {trim.seq}")


class _Batch:
    """A ``llama_batch`` over numpy arrays, filled a column at a time; one sequence a token."""

    def __init__(self, n_tokens: int) -> None:
        self._token = np.zeros(n_tokens, dtype=np.int32)
        self._pos = np.zeros(n_tokens, dtype=np.int32)
        self._seq = np.zeros(n_tokens, dtype=np.int32)
        self._n_seq = np.ones(n_tokens, dtype=np.int32)
        self._logits = np.zeros(n_tokens, dtype=np.int8)
        int32 = ctypes.POINTER(ctypes.c_int32)
        first = self._seq.ctypes.data
        self._seq_ids = (int32 * n_tokens)(
            *(ctypes.cast(first + 4 * i, int32) for i in range(n_tokens))
        )
        self._struct = C.llama_batch(
            n_tokens=0,
            token=self._token.ctypes.data_as(int32),
            embd=None,
            pos=self._pos.ctypes.data_as(int32),
            n_seq_id=self._n_seq.ctypes.data_as(int32),
            seq_id=self._seq_ids,
            logits=self._logits.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def fill(self, plan: Plan) -> C.llama_batch:
        n_tokens = len(plan.tokens)
        self._token[:n_tokens] = plan.tokens
        self._pos[:n_tokens] = plan.positions
        self._seq[:n_tokens] = plan.seqs
        self._logits[:n_tokens] = 0
        self._logits[list(plan.outputs)] = 1
        self._struct.n_tokens = n_tokens
        return self._struct


def _cores() -> int:
    return len(os.sched_getaffinity(0))
