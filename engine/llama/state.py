"""What a sequence of the cache holds, as bytes, and how to carry it to a cache of another shape.

The layout is that of ``llama_state_seq_get_data`` for a plain KV cache
(``llama_kv_cache::state_write`` of llama-kv-cache.cpp; llama-cpp-python is pinned): a magic number
and the sequence, the number of streams, and for each of them the number of cells and, unless that
is 0, what is in them. A sequence lies in one stream, so with another number of empty ones around
it a state fits into any cache of the model.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_HEAD = 8
_WORD = 4


@dataclass(frozen=True, slots=True)
class State:
    """What a sequence held, in a cache of so many streams."""

    data: NDArray[np.uint8]
    n_streams: int

    def fitted(self, n_streams: int) -> State:
        """The same for a cache of so many. Which of them it goes to is the reader's choice."""
        if n_streams == self.n_streams:
            return self
        streams = _HEAD + _WORD
        cells = self.data[streams : streams + _WORD * self.n_streams].view(np.uint32)
        before = int(np.flatnonzero(cells)[0])
        after = self.n_streams - 1 - before
        content = self.data[streams + _WORD * before : self.data.size - _WORD * after]
        count = np.array([n_streams], dtype=np.uint32).view(np.uint8)
        empty = np.zeros(_WORD * (n_streams - 1), dtype=np.uint8)
        return State(np.concatenate((self.data[:_HEAD], count, content, empty)), n_streams)


def is_plain(state: State, n_tokens: int) -> bool:
    """Whether this state of ``n_tokens`` in sequence 0 is laid out like that, to the last byte.

    Others are caches of several parts (sliding windows), with more for every cell, or recurrent.
    """
    try:
        return _end(state.data.tobytes(), state.n_streams, n_tokens) == state.data.size
    except struct.error:
        return False


def _end(data: bytes, n_streams: int, n_tokens: int) -> int:
    """Where a plain state would end. Raises `struct.error` beyond the end of ``data``."""
    if struct.unpack_from("<II", data, _HEAD) != (n_streams, n_tokens):
        return -1
    at = _HEAD + 8 + n_tokens * 12  # position, number of sequences, sequence
    transposed, n_layer = struct.unpack_from("<II", data, at)
    at += 8
    for _ in range(n_layer):
        at = _end_of_rows(data, at, n_tokens)
    for _ in range(n_layer):
        if transposed:
            _, element, rows = struct.unpack_from("<iII", data, at)
            at += 12 + element * rows * n_tokens
        else:
            at = _end_of_rows(data, at, n_tokens)
    return at + _WORD * (n_streams - 1)


def _end_of_rows(data: bytes, at: int, n_tokens: int) -> int:
    row: int
    _, row = struct.unpack_from("<iQ", data, at)
    return at + 12 + row * n_tokens
