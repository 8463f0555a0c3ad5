"""The llama.cpp functions used, typed: a model, its context, its tokenizer, its samplers.

The one place that touches the ``llama_cpp`` package, and with it numpy and jinja2; only the
worker process imports it. Scheduling and pipes must not come in. Every public method names
the functions of ``llama.h`` it stands for.
"""

from __future__ import annotations

import ctypes
import logging
import os
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import llama_cpp.llama_cpp as C
import numpy as np
from jinja2 import TemplateError
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from engine.api import Chat, EngineError, LoadOptions, Raw, Sampling
from engine.batch import Plan, Trim
from engine.gguf import check_context, refusal
from engine.template import ChatTemplate

DEFAULT_N_CTX = 8192
"""Tokens of context at most where `LoadOptions.n_ctx` is 0. The cache is allocated at once:
8,192 tokens are 180 MiB for a model of 135 M parameters, 1 GiB for one of 8 G."""

WARM_UP = 4
"""Tokens in the larger of the two warm-up decodes."""

_LEVELS = {3: logging.WARNING, 4: logging.ERROR}
"""GGML_LOG_LEVEL_WARN and ERROR of ggml.h. Below them llama.cpp tells hundreds of lines a load
(info is 2, debug 1, and 5 goes on with the line before)."""

log: deque[tuple[int, str]] = deque(maxlen=1000)
"""What llama.cpp logged and nobody took yet: a level of `logging`, and the text of a line."""


def _keep_log(level: int, text: bytes, _user_data: object) -> None:
    # Called from C, from any thread: nothing here may raise.
    if level in _LEVELS:
        log.append((_LEVELS[level], text.decode("utf-8", "replace").rstrip()))


# C keeps the pointer: the object must live as long as the process.
_log_callback = C.llama_log_callback(_keep_log)
C.llama_log_set(_log_callback, ctypes.c_void_p(0))


class Llama:
    """A loaded model with its context, made by ``llama_model_load_from_file`` and
    ``llama_init_from_model``, with one KV cache for all sequences (``kv_unified``).

    repack: ``use_extra_bufts``. progress: called with 0 to 1 while the file is read. Raises
    `EngineError` with llama.cpp's reason. Lives as long as its process: nothing is freed.
    """

    def __init__(
        self, path: str, options: LoadOptions, repack: bool, progress: Callable[[float], None]
    ) -> None:
        self._model = self._load(path, options, repack, progress)
        self._vocab = C.llama_model_get_vocab(self._model)
        self._n_vocab: int = C.llama_vocab_n_tokens(self._vocab)
        self.architecture = self._meta("general.architecture")
        self.parameters: int = C.llama_model_n_params(self._model)
        self.quantization: str = C.llama_ftype_name(C.llama_model_ftype(self._model)).decode()
        self.n_ctx_train: int = C.llama_model_n_ctx_train(self._model)
        self.n_ctx = options.n_ctx or min(self.n_ctx_train, DEFAULT_N_CTX)
        if C.llama_model_has_encoder(self._model):
            raise EngineError(f"a {self.architecture} model generates no text: {path}")
        self.trims = not (
            C.llama_model_is_recurrent(self._model) or C.llama_model_is_hybrid(self._model)
        )
        """Whether a sequence can be cut anywhere (`trim`): recurrent states cannot."""
        self.on_gpu = bool(C.llama_supports_gpu_offload()) and options.n_gpu_layers != 0
        """Whether layers run on a GPU, where large batches pay."""
        self.n_seq = min(max(options.n_seq, 1), C.llama_max_parallel_sequences())
        self._ctx = self._context(options)
        self._memory = C.llama_get_memory(self._ctx)
        self.n_cells: int = C.llama_n_ctx(self._ctx)
        self.n_batch: int = C.llama_n_batch(self._ctx)
        self._batch = _Batch(self.n_batch)
        self._bos: int = C.llama_vocab_bos(self._vocab)
        self._adds_bos: bool = C.llama_vocab_get_add_bos(self._vocab)
        self._pieces: dict[int, bytes] = {}
        self.note: str | None = None
        """What an operator should know."""
        self._template = self._chat_template()

    @property
    def has_chat_template(self) -> bool:
        """Whether `tokens` takes a `Chat`."""
        return self._template is not None

    def warm_up(self) -> None:
        """Decode once as a single answer does and once as several do, and forget it.

        Here a broken backend shows itself, before anybody waits for an answer. One token is
        not enough: the AMX crash (ggml-org/llama.cpp#20824) needs two or more in a batch.
        """
        token = max(self._bos, 0)
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
        status = C.llama_decode(self._ctx, self._batch.fill(plan))
        if status != 0:
            raise EngineError(f"llama_decode failed with status {status}{_reason()}")

    def clear(self) -> None:
        """Forget all sequences (``llama_memory_clear``)."""
        C.llama_memory_clear(self._memory, False)

    def tokens(self, prompt: Chat | Raw) -> list[int]:
        """The tokens of a prompt (``llama_tokenize``), with one BOS where the model wants it.

        Raises `EngineError` if the model has no chat template, or its template refuses the
        conversation.
        """
        if isinstance(prompt, Raw):
            tokens = self._tokenize(prompt.text, special=True)
        elif self._template is None:
            raise EngineError("the model has no chat template: use format raw")
        else:
            try:
                spans = self._template.spans(prompt.messages)
            # raise_exception() of a template is a ValueError; a template that expects other
            # keys than role and content fails with any of the others.
            except (TemplateError, ValueError, TypeError, LookupError, AttributeError) as error:
                raise EngineError(f"the chat template refuses this: {error}") from error
            tokens = [t for span in spans for t in self._tokenize(span.text, span.special)]
        # Some templates write BOS themselves: two of them make answers worse.
        if self._adds_bos and tokens[:1] != [self._bos]:
            tokens.insert(0, self._bos)
        return tokens

    def piece(self, token: int) -> bytes:
        """The bytes of a token (``llama_token_to_piece``); none for special ones."""
        piece = self._pieces.get(token)
        if piece is None:
            buffer = ctypes.create_string_buffer(256)
            length = C.llama_token_to_piece(self._vocab, token, buffer, 256, 0, False)
            if length < 0:
                buffer = ctypes.create_string_buffer(-length)
                length = C.llama_token_to_piece(self._vocab, token, buffer, -length, 0, False)
            piece = self._pieces[token] = buffer.raw[:length]
        return piece

    def ends(self, token: int) -> bool:
        """Whether the token ends generation (``llama_vocab_is_eog``)."""
        return bool(C.llama_vocab_is_eog(self._vocab, token))

    def sampler(self, sampling: Sampling, prompt: Sequence[int]) -> Sampler:
        """What chooses the tokens of one answer to ``prompt``."""
        return Sampler(self._ctx, self._n_vocab, self.n_ctx, sampling, prompt)

    def _load(
        self, path: str, options: LoadOptions, repack: bool, progress: Callable[[float], None]
    ) -> C.llama_model_p:
        def on_progress(fraction: float, _user_data: object) -> bool:
            progress(fraction)
            return True

        params = C.llama_model_default_params()
        params.n_gpu_layers = options.n_gpu_layers
        params.use_extra_bufts = repack
        params.progress_callback = C.llama_progress_callback(on_progress)
        if not options.use_mmap:
            params.load_mode = C.LLAMA_LOAD_MODE_NONE
        model: C.llama_model_p | None = C.llama_model_load_from_file(os.fsencode(path), params)
        if not model:
            raise EngineError(refusal(path, _errors()))
        return model

    def _context(self, options: LoadOptions) -> C.llama_context_p:
        # Every running answer has a token in a step, and a prompt at least one beside them.
        n_batch = max(options.n_batch, self.n_seq + 1, WARM_UP)
        # llama.cpp makes a batch no larger than the context.
        n_cells = max(self.n_ctx, n_batch)
        if not self.on_gpu:
            check_context(self.n_ctx, n_cells * self._cell_bytes())
        params = C.llama_context_default_params()
        params.n_ctx = n_cells
        params.n_batch = n_batch
        params.n_ubatch = min(params.n_ubatch, n_batch)
        params.n_seq_max = self.n_seq
        params.n_threads = params.n_threads_batch = options.n_threads or _cores()
        params.kv_unified = True
        context: C.llama_context_p | None = C.llama_init_from_model(self._model, params)
        if not context:
            raise EngineError(f"no context of {self.n_ctx} tokens{_reason()}")
        return context

    def _cell_bytes(self) -> int:
        """What a token takes in the cache: in every layer, a key and a value of f16 for every
        head of them. More than it is where layers share, or have none."""
        n_head = max(C.llama_model_n_head(self._model), 1)
        head: int = C.llama_model_n_embd(self._model) // n_head
        n_kv_heads: int = C.llama_model_n_layer(self._model) * C.llama_model_n_head_kv(self._model)
        return n_kv_heads * head * 2 * 2

    def _trim(self, trim: Trim) -> None:
        if not C.llama_memory_seq_rm(self._memory, trim.seq, trim.start, -1):
            raise EngineError(f"llama_memory_seq_rm refused to cut sequence {trim.seq}")

    def _tokenize(self, text: str, special: bool) -> list[int]:
        data = text.encode()
        # A token has a byte at least; BOS and the like are not added here.
        room = len(data) + 8
        buffer = (C.llama_token * room)()
        n = C.llama_tokenize(self._vocab, data, len(data), buffer, room, False, special)
        if n < 0:
            buffer = (C.llama_token * -n)()
            n = C.llama_tokenize(self._vocab, data, len(data), buffer, -n, False, special)
        return buffer[:n]

    def _chat_template(self) -> ChatTemplate | None:
        source = C.llama_model_chat_template(self._model, None)
        if not source:
            return None
        source = source.decode("utf-8", "replace")
        eos = C.llama_vocab_eos(self._vocab)
        try:
            formatter = Jinja2ChatFormatter(
                template=source, bos_token=self._text(self._bos), eos_token=self._text(eos)
            )
        except TemplateError as error:
            self.note = f"the model's chat template cannot be used: {error}"
            return None

        def render(messages: list[dict[str, str]]) -> str:
            return formatter(messages=cast(Any, messages)).prompt

        attributes = [C.llama_vocab_get_attr(self._vocab, i) for i in range(self._n_vocab)]
        control = C.LLAMA_TOKEN_ATTR_CONTROL | C.LLAMA_TOKEN_ATTR_UNKNOWN
        user_defined = [
            self._text(i)
            for i, attribute in enumerate(attributes)
            if attribute & C.LLAMA_TOKEN_ATTR_USER_DEFINED
        ]
        return ChatTemplate(
            render,
            control=(
                self._text(i) for i, attribute in enumerate(attributes) if attribute & control
            ),
            markers=(text for text in user_defined if not text.isspace() and text in source),
        )

    def _text(self, token: int) -> str:
        return C.llama_vocab_get_text(self._vocab, token).decode() if token >= 0 else ""

    def _meta(self, key: str) -> str:
        buffer = ctypes.create_string_buffer(256)
        C.llama_model_meta_val_str(self._model, key.encode(), buffer, 256)
        return buffer.value.decode("utf-8", "replace")


class Sampler:
    """llama.cpp's own samplers, in the order llama-server has them: penalties, top_k, top_p,
    min_p, temperature, and the seeded draw (``llama_sampler_init_dist``). Temperature 0 is
    penalties and the likeliest token.

    The same seed and prompt give the same text as far as llama.cpp's arithmetic does. Measured
    (CPU, flash attention): neither a reused prefix nor the number of tokens in the batch
    changes a logit, but once the cache reaches 512 cells the work for a lone token is split
    over the threads by cells, so which cells an answer lies in does, and can tip a close
    choice. The same prompt asked again gets its old cells (`Scheduler`), and so its old text.
    """

    def __init__(
        self,
        ctx: C.llama_context_p,
        n_vocab: int,
        n_ctx: int,
        sampling: Sampling,
        prompt: Sequence[int],
    ) -> None:
        self._ctx = ctx
        self._n_vocab = n_vocab
        self._chain = None
        penalties = self._penalties(sampling, n_ctx)
        greedy = sampling.temperature <= 0
        if greedy and penalties is None:
            # Without a chain: an argmax over the logits is cheaper than llama.cpp's array of
            # candidates, which it builds anew for every token.
            return
        chain = self._chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        if penalties is not None:
            C.llama_sampler_chain_add(chain, penalties)
        if greedy:
            C.llama_sampler_chain_add(chain, C.llama_sampler_init_greedy())
        else:
            seed = sampling.seed if sampling.seed >= 0 else secrets.randbits(32)
            C.llama_sampler_chain_add(chain, C.llama_sampler_init_top_k(sampling.top_k))
            C.llama_sampler_chain_add(chain, C.llama_sampler_init_top_p(sampling.top_p, 1))
            C.llama_sampler_chain_add(chain, C.llama_sampler_init_min_p(sampling.min_p, 1))
            C.llama_sampler_chain_add(chain, C.llama_sampler_init_temp(sampling.temperature))
            C.llama_sampler_chain_add(chain, C.llama_sampler_init_dist(seed & 0xFFFFFFFF))
        if penalties is not None:
            for token in prompt[-self._last_n(sampling, n_ctx) :]:
                C.llama_sampler_accept(penalties, token)

    def sample(self, row: int) -> int:
        """The next token, by the logits of a row of the last batch
        (``llama_get_logits_ith`` or ``llama_sampler_sample``)."""
        if self._chain is not None:
            return int(C.llama_sampler_sample(self._chain, self._ctx, row))
        logits = C.llama_get_logits_ith(self._ctx, row)
        return int(np.ctypeslib.as_array(logits, (self._n_vocab,)).argmax())

    def close(self) -> None:
        """The answer has ended (``llama_sampler_free``)."""
        if self._chain is not None:
            C.llama_sampler_free(self._chain)
            self._chain = None

    def _penalties(self, sampling: Sampling, n_ctx: int) -> C.llama_sampler_p | None:
        last_n = self._last_n(sampling, n_ctx)
        factors = (
            sampling.repeat_penalty,
            sampling.frequency_penalty,
            sampling.presence_penalty,
        )
        if last_n == 0 or factors == (1.0, 0.0, 0.0):
            return None
        penalties: C.llama_sampler_p = C.llama_sampler_init_penalties(
            self._n_vocab, last_n, *factors
        )
        return penalties

    @staticmethod
    def _last_n(sampling: Sampling, n_ctx: int) -> int:
        return n_ctx if sampling.penalty_last_n < 0 else sampling.penalty_last_n


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


def _errors() -> list[str]:
    return [text for level, text in log if level == logging.ERROR]


def _reason() -> str:
    """What llama.cpp logged last as an error, to be put after a sentence."""
    errors = _errors()
    return f": {errors[-1]}" if errors else ""


def _cores() -> int:
    return len(os.sched_getaffinity(0))
