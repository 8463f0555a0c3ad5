"""A model of llama.cpp: its file, its facts, its tokenizer and its chat template.

Every public method names the functions of ``llama.h`` it stands for.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any, cast

from jinja2 import TemplateError
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from engine.api import Chat, EngineError, LoadOptions, Raw
from engine.gguf import refusal
from engine.llama.native import C, errors, reason
from engine.metadata import FILE_TYPES
from engine.template import ChatTemplate


class Model:
    """A model, loaded by ``llama_model_load_from_file``.

    repack: ``use_extra_bufts``. progress: called with 0 to 1 while the file is read. Raises
    `EngineError` with llama.cpp's reason. Lives as long as its process: nothing is freed.
    """

    def __init__(
        self, path: str, options: LoadOptions, repack: bool, progress: Callable[[float], None]
    ) -> None:
        self.pointer = self._load(path, options, repack, progress)
        self.vocab = C.llama_model_get_vocab(self.pointer)
        self.n_vocab: int = C.llama_vocab_n_tokens(self.vocab)
        self.architecture = self._meta("general.architecture")
        self.parameters: int = C.llama_model_n_params(self.pointer)
        self.quantization = self._quantization()
        self.n_ctx_train: int = C.llama_model_n_ctx_train(self.pointer)
        self.pooling = self._pooling()
        """llama.cpp's pooling type, where the file names one that makes a vector of a text. Such
        a model embeds and does not generate: its last layers were not trained for that."""
        causal = self._meta(f"{self.architecture}.attention.causal") != "false"
        if C.llama_model_has_encoder(self.pointer) or (self.pooling is None and not causal):
            raise EngineError(
                f"a {self.architecture} model without pooling neither generates nor embeds: {path}"
            )
        self.trims = not (
            C.llama_model_is_recurrent(self.pointer) or C.llama_model_is_hybrid(self.pointer)
        )
        """Whether a sequence can be cut anywhere: recurrent states cannot."""
        self.window: int = C.llama_model_n_swa(self.pointer)
        """Tokens that layers with a sliding window see; 0 where all see everything."""
        self.on_gpu = bool(C.llama_supports_gpu_offload()) and options.n_gpu_layers != 0
        """Whether layers run on a GPU, where large batches pay."""
        self.bos: int = C.llama_vocab_bos(self.vocab)
        self._adds_bos: bool = C.llama_vocab_get_add_bos(self.vocab)
        self._pieces: dict[int, bytes] = {}
        self.suppressed = self._suppressed()
        """Tokens that the model's file says must not come (``llama_vocab_get_suppress_tokens``)."""
        self.note: str | None = None
        """What an operator should know."""
        self._template = self._chat_template()

    @property
    def has_chat_template(self) -> bool:
        """Whether `tokens` takes a `Chat`."""
        return self._template is not None

    @property
    def n_head(self) -> int:
        """Heads of attention, 1 at least."""
        return max(int(C.llama_model_n_head(self.pointer)), 1)

    def cell_elements(self) -> int:
        """Numbers that a token takes in the cache: in every layer, a key and a value for every
        head of them. More than it is where layers share, or have none."""
        head: int = C.llama_model_n_embd(self.pointer) // self.n_head
        n_layer: int = C.llama_model_n_layer(self.pointer)
        heads: int = n_layer * C.llama_model_n_head_kv(self.pointer)
        return heads * head * 2

    def attention_costs(self) -> tuple[float, float]:
        """What every token before it adds to the cost of computing one, without tiles and with
        them, where all the rest that a token costs is 1.

        By the multiplications of each, and how fast a CPU does them: measured on SmolLM2-135M
        (``python -m benchmarks.attention``), a weight 37 G a second, attention 3 G, in tiles 21 G.
        """
        head: int = C.llama_model_n_embd(self.pointer)
        attention = 2 * head * C.llama_model_n_layer(self.pointer) / max(self.parameters, 1)
        return attention * 37 / 3, attention * 37 / 21

    def adapters(
        self, lora: tuple[tuple[str, float], ...]
    ) -> list[tuple[C.llama_adapter_lora_p, float]]:
        """LoRA adapters, each with its scale (``llama_adapter_lora_init``)."""
        loaded = []
        for path, scale in lora:
            adapter = C.llama_adapter_lora_init(self.pointer, os.fsencode(path))
            if not adapter:
                raise EngineError(f"no LoRA adapter for this model: {path}{reason()}")
            loaded.append((adapter, scale))
        return loaded

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
        if self._adds_bos and tokens[:1] != [self.bos]:
            tokens.insert(0, self.bos)
        return tokens

    def text_tokens(self, text: str) -> list[int]:
        """The tokens of a text to embed (``llama_tokenize``), between those that the model wants
        around it; markers of special tokens in it are text."""
        return self._tokenize(text, special=False, around=True) if text else []

    def piece(self, token: int) -> bytes:
        """The bytes of a token (``llama_token_to_piece``); none for special ones."""
        piece = self._pieces.get(token)
        if piece is None:
            buffer = ctypes.create_string_buffer(256)
            length = C.llama_token_to_piece(self.vocab, token, buffer, 256, 0, False)
            if length < 0:
                buffer = ctypes.create_string_buffer(-length)
                length = C.llama_token_to_piece(self.vocab, token, buffer, -length, 0, False)
            piece = self._pieces[token] = buffer.raw[:length]
        return piece

    def shown(self, token: int) -> bytes:
        """The bytes of a token for somebody to look at: its name where it is a special one."""
        return self.piece(token) or self._text(token).encode()

    def ends(self, token: int) -> bool:
        """Whether the token ends generation (``llama_vocab_is_eog``)."""
        return bool(C.llama_vocab_is_eog(self.vocab, token))

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
            raise EngineError(refusal(path, errors()))
        return model

    def _tokenize(self, text: str, special: bool, around: bool = False) -> list[int]:
        """around: with BOS, EOS, CLS or SEP where the vocabulary says so."""
        data = text.encode()
        # A token has a byte at least.
        room = len(data) + 8
        buffer = (C.llama_token * room)()
        n = C.llama_tokenize(self.vocab, data, len(data), buffer, room, around, special)
        if n < 0:
            buffer = (C.llama_token * -n)()
            n = C.llama_tokenize(self.vocab, data, len(data), buffer, -n, around, special)
        return buffer[:n]

    def _chat_template(self) -> ChatTemplate | None:
        source = C.llama_model_chat_template(self.pointer, None)
        if not source:
            return None
        source = source.decode("utf-8", "replace")
        eos = C.llama_vocab_eos(self.vocab)
        try:
            formatter = Jinja2ChatFormatter(
                template=source, bos_token=self._text(self.bos), eos_token=self._text(eos)
            )
        except TemplateError as error:
            self.note = f"the model's chat template cannot be used: {error}"
            return None

        def render(messages: list[dict[str, str]]) -> str:
            return formatter(messages=cast(Any, messages)).prompt

        attributes = [C.llama_vocab_get_attr(self.vocab, i) for i in range(self.n_vocab)]
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

    def _quantization(self) -> str:
        """As files are named; llama.cpp's words where it guesses."""
        number = C.llama_model_ftype(self.pointer)
        return FILE_TYPES.get(number) or C.llama_ftype_name(number).decode()

    def _pooling(self) -> int | None:
        pooling = self._meta(f"{self.architecture}.pooling_type")
        known = (
            C.LLAMA_POOLING_TYPE_MEAN,
            C.LLAMA_POOLING_TYPE_CLS,
            C.LLAMA_POOLING_TYPE_LAST,
        )
        return int(pooling) if pooling in map(str, known) else None

    def _suppressed(self) -> tuple[int, ...]:
        count = ctypes.c_int32(0)
        tokens = C.llama_vocab_get_suppress_tokens(self.vocab, ctypes.byref(count))
        return tuple(tokens[: count.value]) if count.value else ()

    def _text(self, token: int) -> str:
        return C.llama_vocab_get_text(self.vocab, token).decode() if token >= 0 else ""

    def _meta(self, key: str) -> str:
        buffer = ctypes.create_string_buffer(256)
        C.llama_model_meta_val_str(self.pointer, key.encode(), buffer, 256)
        return buffer.value.decode("utf-8", "replace")
