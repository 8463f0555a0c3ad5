"""A context of llama.cpp: the KV cache, the operations on it, and the decodes that fill it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from engine.api import (
    KV_TYPES,
    ROWS,
    EngineError,
    LoadOptions,
    cache_size,
    flash_attention,
    scores_size,
)
from engine.cache import streams
from engine.gguf import check_context
from engine.llama.batch import Batch
from engine.llama.model import Model
from engine.llama.native import C, cores, reason
from engine.llama.sampler import Sampler
from engine.llama.state import State, is_plain
from engine.plan import Copy, Drop, Operation, Plan, Reshape, Restore, Save, Shape, Tile, Trim

CHUNK = 64
"""Tokens of a prompt in a decode: a tile of the CPU's flash attention (Q_TILE_SZ in ggml-cpu's
ops.cpp), and enough without it. ``python -m benchmarks.attention``."""

CALM_CHUNK = 128
"""The same with flash attention, while nobody waits for his next token: somebody may come who does.
Without it more at once is slower."""

FAR = 1500
"""Tokens before it from which on half a chunk is computed at once without flash attention, while
answers run: behind 4,000 it takes 0.26 s, a whole one 0.57, one at the start 0.21 (``python -m
benchmarks.attention``)."""

FIRST = 512
"""Cells of a stream at first: a question and an answer of 256 tokens, the default."""

SCRATCH = 64 << 20
"""Bytes at most that are kept for copies from one stream to another: 2,800 tokens of SmolLM2."""

WARM_UP = 4
"""Tokens in the larger of the two warm-up decodes."""

_TYPES = {
    "f32": C.GGML_TYPE_F32,
    "f16": C.GGML_TYPE_F16,
    "q8_0": C.GGML_TYPE_Q8_0,
    "q5_1": C.GGML_TYPE_Q5_1,
    "q5_0": C.GGML_TYPE_Q5_0,
    "q4_1": C.GGML_TYPE_Q4_1,
    "q4_0": C.GGML_TYPE_Q4_0,
}
_FLASH = {
    "auto": C.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": C.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": C.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}


class Context:
    """A context for ``model``, made by ``llama_init_from_model``, as `LoadOptions` says.

    Its cache is cut in ``shape``, and anew by a `Reshape`, which makes another context. Raises
    `EngineError` with llama.cpp's reason.
    """

    def __init__(self, model: Model, options: LoadOptions) -> None:
        self._model = model
        self._options = options
        self.n_ctx, n_cells = cache_size(options, model.n_ctx_train)
        self.n_seq = min(max(options.n_seq, 1), C.llama_max_parallel_sequences())
        # Every running answer has a token in a step, and a prompt at least one beside them.
        self.n_batch = max(options.n_batch, self.n_seq + 1, WARM_UP)
        # llama.cpp makes a batch no larger than the context.
        self.n_cells = max(n_cells, self.n_batch)
        cell_bytes = int(model.cell_elements() * KV_TYPES[options.kv_type] / 8)
        if not model.on_gpu:
            scores = scores_size(options, model.n_head, on_gpu=False)
            check_context(self.n_ctx, self.n_cells, cell_bytes + scores)
        self._flash = flash_attention(options, on_gpu=model.on_gpu)
        tiles = not model.on_gpu and self._flash != "off"
        self.chunk = self.n_batch if model.on_gpu else CHUNK
        self.calm_chunk = CALM_CHUNK if tiles else self.chunk
        self.far = None if model.on_gpu or tiles else FAR
        self.store = (options.cache_ram << 20) // max(cell_bytes, 1) if options.share else 0
        """Cells whose contents `cache_ram` holds."""
        self.share = options.share
        # Cells behind the window are not in a state (llama_kv_cache::state_write), and may be
        # taken for others (find_slot): what is left when such a sequence is cut lacks them.
        self.trims = model.trims and not 0 < model.window < self.n_ctx
        self.tile = Tile(CHUNK, *model.attention_costs()) if tiles else None
        # Many small ones at first: to find that out later would cost all of them a new cut.
        many = min(self.n_seq, max(self.n_cells // FIRST, 1))
        self.shape = streams(self.n_cells, self.n_seq, many, 1) or Shape(
            self.n_seq, self.n_cells, unified=True
        )
        self._adapters = model.adapters(options.lora)
        self._batch = Batch(self.n_batch)
        self._saved: dict[int, State] = {}
        self._scratch: State | None = None
        self._scratch_of: int | None = None
        """The sequence that holds what is in the scratch: one copied to many is read once."""
        self._context: C.llama_context_p | None = None
        self.reshapes = False
        """Whether the cache can be cut anew: known once it is warm."""
        self._make(self.shape)

    def warm_up(self) -> None:
        """Decode once as a single answer does and once as several do, and forget it. Where what
        a sequence holds cannot be carried over, the cache is unified from now on; nor is it
        saved, for how large that would be is unknown: a recurrent state has no cells.

        Here a broken backend shows itself, before anybody waits for an answer. One token is
        not enough: the AMX crash (ggml-org/llama.cpp#20824) needs two or more in a batch.
        """
        token = max(self._model.bos, 0)
        for n_tokens in (1, WARM_UP):
            plan = Plan()
            plan.add(0, [token] * n_tokens, 0)
            plan.outputs[n_tokens - 1] = 0
            self.carry_out(plan)
            self.reshapes = is_plain(self._read(0), n_tokens)
            C.llama_memory_clear(self._memory, False)
        if not self.reshapes:
            self.store = 0
        if not self.reshapes and not self.shape.unified:
            self.forget(Shape(self.n_seq, self.n_cells, unified=True))

    def carry_out(self, plan: Plan) -> None:
        """The operations of a plan on the cache, then ``llama_decode`` of its rows.

        Raises `EngineError` if llama.cpp refuses; what is in the cache is unknown then, and
        it has to be forgotten.
        """
        for operation in plan.operations:
            self._operate(operation)
        self._scratch_of = None
        if self._scratch is not None and self._scratch.data.size > SCRATCH:
            self._scratch = None
        assert self._context is not None
        self._batch.decode(self._context, plan)

    def forget(self, shape: Shape) -> None:
        """Forget everything, and cut the cache like that."""
        self._saved.clear()
        self._scratch_of = None
        self._make(shape)

    def sample(self, sampler: Sampler, row: int) -> int:
        """The next token of an answer, by the logits of a row of the last decode."""
        assert self._context is not None
        return sampler.sample(self._context, row)

    def _make(self, shape: Shape) -> None:
        """A context of this shape in the place of the one there is: there is no memory for two.
        Raises `EngineError`, and then there is none."""
        C.llama_free(self._context)
        self._context = None
        params = C.llama_context_default_params()
        params.n_ctx = shape.n_cells
        params.n_seq_max = shape.n_seq
        params.kv_unified = shape.unified
        params.n_batch = self.n_batch
        # What llama.cpp computes at once, and takes memory for; more brings nothing here.
        most = params.n_ubatch if self._model.on_gpu else max(2 * self.calm_chunk, ROWS)
        params.n_ubatch = min(self.n_batch, max(most, self.n_seq))
        # Else it takes memory for the logits of every token of a prompt.
        params.n_outputs_max = self.n_seq
        params.n_threads = params.n_threads_batch = self._options.n_threads or cores()
        params.type_k = params.type_v = _TYPES[self._options.kv_type]
        params.flash_attn_type = _FLASH[self._flash]
        self._context = C.llama_init_from_model(self._model.pointer, params)
        if not self._context:
            raise EngineError(f"no context of {shape.n_cells} tokens{reason()}")
        self._memory = C.llama_get_memory(self._context)
        self.shape = shape
        self._adapt()

    def _adapt(self) -> None:
        """``llama_set_adapters_lora``: a context begins with none."""
        n = len(self._adapters)
        if not n:
            return
        pointers = (C.llama_adapter_lora_p_ctypes * n)(
            *(ctypes.cast(adapter, C.llama_adapter_lora_p_ctypes) for adapter, _ in self._adapters)
        )
        scales = (ctypes.c_float * n)(*(scale for _, scale in self._adapters))
        if C.llama_set_adapters_lora(self._context, pointers, n, scales) != 0:
            raise EngineError(f"the LoRA adapters do not fit this model{reason()}")

    # The cache

    def _operate(self, operation: Operation) -> None:
        match operation:
            case Trim(seq, start):
                self._trim(seq, start)
            case Copy(src, dst, n) if self.shape.unified:
                C.llama_memory_seq_cp(self._memory, src, dst, 0, n)
            case Copy(src, dst, n):
                if self._scratch is None or self._scratch_of != src:
                    self._scratch, self._scratch_of = self._read(src, self._scratch), src
                self._write(dst, self._scratch)
                self._trim(dst, n)
            case Save(seq, key):
                self._saved[key] = self._read(seq)
            case Restore(key, dst, n):
                self._write(dst, self._saved[key])
                self._trim(dst, n)
            case Drop(key):
                del self._saved[key]
            case Reshape(shape, moves):
                self._reshape(shape, moves)

    def _trim(self, seq: int, start: int) -> None:
        self._touch(seq)
        if not C.llama_memory_seq_rm(self._memory, seq, start, -1):
            raise EngineError(f"llama_memory_seq_rm refused to cut sequence {seq}")

    def _reshape(self, shape: Shape, moves: Iterable[tuple[int, int]]) -> None:
        states = [(new, self._read(old)) for old, new in moves]
        self._scratch_of = None
        self._make(shape)
        for seq, state in states:
            self._write(seq, state)

    def _read(self, seq: int, into: State | None = None) -> State:
        """What a sequence holds (``llama_state_seq_get_data``). into: memory to use for it."""
        size = C.llama_state_seq_get_size(self._context, seq)
        old = None if into is None else into.data.base
        if isinstance(old, np.ndarray) and size <= old.size <= SCRATCH:
            # Memory that was written to before costs a fifth of what new memory does.
            data = old[:size]
        else:
            data = np.empty(size, dtype=np.uint8)[:]
        if C.llama_state_seq_get_data(self._context, _bytes(data), size, seq) != size:
            raise EngineError(f"llama_state_seq_get_data failed for sequence {seq}{reason()}")
        return State(data, self._n_streams)

    def _write(self, seq: int, state: State) -> None:
        """Let a sequence hold that (``llama_state_seq_set_data``)."""
        self._touch(seq)
        data = state.fitted(self._n_streams).data
        if C.llama_state_seq_set_data(self._context, _bytes(data), data.size, seq) == 0:
            raise EngineError(f"llama_state_seq_set_data failed for sequence {seq}{reason()}")

    def _touch(self, seq: int) -> None:
        if self._scratch_of == seq:
            self._scratch_of = None

    @property
    def _n_streams(self) -> int:
        return 1 if self.shape.unified else self.shape.n_seq


def _bytes(state: NDArray[np.uint8]) -> ctypes._Pointer[ctypes.c_uint8]:
    return state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
