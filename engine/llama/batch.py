"""The rows of a plan as llama.cpp takes them."""

from __future__ import annotations

import ctypes

import numpy as np

from engine.api import EngineError
from engine.llama.native import C, reason
from engine.plan import Plan


class Batch:
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

    def decode(self, context: C.llama_context_p, plan: Plan) -> None:
        """``llama_decode`` of the rows of a plan. Raises `EngineError` if llama.cpp refuses."""
        status = C.llama_decode(context, self._fill(plan))
        if status != 0:
            raise EngineError(f"llama_decode failed with status {status}{reason()}")

    def _fill(self, plan: Plan) -> C.llama_batch:
        n_tokens = len(plan.tokens)
        self._token[:n_tokens] = plan.tokens
        self._pos[:n_tokens] = plan.positions
        self._seq[:n_tokens] = plan.seqs
        self._logits[:n_tokens] = 0
        self._logits[list(plan.outputs)] = 1
        self._struct.n_tokens = n_tokens
        return self._struct
