"""The tokens that come into question, as the array that llama.cpp's samplers work on.

``llama_sampler_sample`` builds that array of the whole vocabulary for every token of every answer.
Where only the likeliest matter, numpy finds them faster, and the array is a few entries long.
Measured (``python -m benchmarks.sampling``: SmolLM2's 49,152 tokens, one core with AVX-512,
microseconds a token):

    settings                            llama_sampler_sample   Sampler
    temperature 0                                 92              27
    temperature 0, repeat_penalty 1.1            274              59
    the defaults                                  71              42
    the defaults, repeat_penalty 1.1             283              65
    top_k 0 (all of them, here too)              654             688

Which sampler does what must not come in.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from engine.llama.native import C

Logits = npt.NDArray[np.float32]
Ids = npt.NDArray[np.intp]

_ROWS = 64
"""The vocabulary is cut into so many rows to bound the k-th logit from below: 16 to 128 cost the
same."""

_ENTRY = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


def likeliest(logits: Logits, k: int) -> Ids:
    """The tokens that may be among the ``k`` likeliest: these, and mostly a few more; all where
    that costs no more. In the order of the vocabulary.

    The largest logits of groups of tokens are logits, too: the k-th of them is at most the k-th
    of all. What is below it is out.
    """
    n_vocab = len(logits)
    columns = n_vocab // _ROWS
    if k <= 0 or 4 * k >= n_vocab:
        return np.arange(n_vocab)
    if 4 * k <= columns:
        largest = logits[: columns * _ROWS].reshape(_ROWS, columns).max(axis=0)
    else:
        largest = logits
    bound = np.partition(largest, len(largest) - k)[len(largest) - k]
    found = np.flatnonzero(logits >= bound)
    # A NaN compares with nothing.
    return found if len(found) >= k else np.arange(n_vocab)


class Candidates:
    """A ``llama_token_data_array`` with room for every token of a vocabulary."""

    def __init__(self, n_vocab: int) -> None:
        self._entries = np.zeros(n_vocab, dtype=_ENTRY)
        self._ids = self._entries["id"]
        self._logits = self._entries["logit"]
        self._array = C.llama_token_data_array(
            data=self._entries.ctypes.data_as(C.llama_token_data_p)
        )
        self._pointer = ctypes.byref(self._array)

    def __len__(self) -> int:
        return int(self._array.size)

    def fill(self, ids: Ids, logits: Logits) -> None:
        """Let these tokens be the candidates, with their logits."""
        count = len(ids)
        self._ids[:count] = ids
        # All there are is all in their order.
        self._logits[:count] = logits[ids] if count < len(logits) else logits
        self._reset(count)

    def apply(self, sampler: C.llama_sampler_p) -> int | None:
        """``llama_sampler_apply``; the token it selected, if it did."""
        C.llama_sampler_apply(sampler, self._pointer)
        selected = self._array.selected
        return int(self._ids[selected]) if 0 <= selected < self._array.size else None

    def drop_excluded(self) -> None:
        """Take out what a sampler gave a logit of minus infinity: some samplers make NaN of it."""
        count = len(self)
        kept = np.flatnonzero(self._logits[:count] != -np.inf)
        if len(kept) < count:
            self._entries[: len(kept)] = self._entries[kept]
        self._reset(len(kept))

    def ids(self) -> list[int]:
        """The tokens."""
        return list(map(int, self._ids[: len(self)]))

    def best(self) -> int:
        """The likeliest of them."""
        return int(self._ids[self._logits[: len(self)].argmax()])

    def _reset(self, count: int) -> None:
        self._array.size = count
        self._array.selected = -1
        self._array.sorted = False


@lru_cache(1)
def candidates(n_vocab: int) -> Candidates:
    """The array that all answers of a worker use in turn: 12 bytes for each of the vocabulary."""
    return Candidates(n_vocab)
