"""Headers of GGUF files, made by hand: what the `gguf` package would not write, too."""

from __future__ import annotations

import io
import struct

from engine import metadata

MAGIC = b"GGUF\x03\x00\x00\x00"


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def string(value: str) -> bytes:
    return struct.pack("<I", 8) + text(value)


def u32(value: int) -> bytes:
    return struct.pack("<II", 4, value)


def array(*values: int) -> bytes:
    return struct.pack(f"<IIQ{len(values)}I", 9, 4, len(values), *values)


def strings(values: list[str]) -> bytes:
    return struct.pack("<IIQ", 9, 8, len(values)) + b"".join(map(text, values))


def tensor(name: str, *dimensions: int) -> bytes:
    """What the list of tensors says of one."""
    sizes = struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
    return text(name) + sizes + struct.pack("<IQ", 0, 0)


def gguf(*tensors: bytes, **pairs: bytes) -> bytes:
    """What stands in a file behind its version. Of a key ``__`` is a dot."""
    body = b"".join(text(key.replace("__", ".")) + value for key, value in pairs.items())
    return struct.pack("<QQ", len(tensors), len(pairs)) + body + b"".join(tensors)


SMALL = {
    "general__name": string("small"),
    "x__rope__freq": struct.pack("<If", 6, 1.5),
    "x__block_count": u32(3),
    "x__context_length": u32(512),
    "x__embedding_length": u32(64),
    "x__attention__head_count": u32(8),
    "x__attention__head_count_kv": u32(2),
}

FACTS = {
    "general__architecture": string("x"),
    "general__type": string("model"),
    **SMALL,
    "general__file_type": u32(15),
}
"""Those of a model of `parameters` 6, with the tensor below."""

VOCABULARY = {
    "tokenizer__ggml__model": string("gpt2"),
    "tokenizer__ggml__tokens": strings(["<s>", "a", "", "b" * 300, "é"] * 500),
    "tokenizer__ggml__token_type": array(*[1] * 2500),
    "tokenizer__chat_template": string("{{ messages }}" * 100),
}

TENSOR = tensor("token_embd.weight", 2, 3)


def write(path, *tensors: bytes, size: int = 0, **pairs: bytes):
    """A file with such a header, and zeros behind it up to ``size`` bytes; its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pairs = pairs or {**FACTS, **VOCABULARY}
    data = MAGIC + gguf(*(tensors or (TENSOR,)), **pairs)
    path.write_bytes(data + bytes(max(size - len(data), 0)))
    return path


def read(data: bytes, *, whole: bool = False) -> metadata.Header:
    return metadata.read(io.BytesIO(data), whole=whole)
