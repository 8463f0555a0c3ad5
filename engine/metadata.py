"""The sizes of a model among the metadata of its GGUF file, without llama.cpp.

They are wanted before a worker is started, to see whether it will fit. What cannot be read is
left out and no error: whether the file is any good is llama.cpp's business. Source: gguf.md of
ggml-org/ggml.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import BinaryIO

LOOKED_AT = 1 << 20
"""Bytes of metadata that are looked at. Converters write the sizes before the vocabulary, which
is the long part."""

_NUMBERS = {
    kind: struct.Struct(f"<{letter}")
    for kind, letter in zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True)
}
_STRING, _ARRAY = 8, 9
_KIND = struct.Struct("<I")
_LENGTH = struct.Struct("<Q")

Value = int | list[int] | None
"""A whole number, several, or what is neither."""


def sizes(file: BinaryIO) -> dict[str, Value]:
    """The metadata of a file that is read up to its counts, by key without the architecture's
    name in front; only what comes before the vocabulary."""
    found: dict[str, Value] = {}
    data = file.read(LOOKED_AT)
    try:
        (count,) = _LENGTH.unpack_from(data, _LENGTH.size)  # behind the number of tensors
        at = 2 * _LENGTH.size
        for _ in range(count):
            key, at = _text(data, at)
            if key.startswith(b"tokenizer."):
                break
            value, at = _value(data, at)
            found[key.partition(b".")[2].decode("utf-8", "replace")] = value
    except (struct.error, KeyError):
        pass  # cut off, or no metadata
    return found


def number(sizes: Mapping[str, Value], key: str) -> int:
    """A size; 0 where it is not known, the largest where every layer has its own."""
    value = sizes.get(key)
    return max(value, default=0) if isinstance(value, list) else value or 0


def cell_elements(sizes: Mapping[str, Value]) -> int:
    """Numbers that a token takes in the KV cache: in every layer, a key and a value for every
    head of them. 0 where it is not known; more than it is where layers share, or see only the
    last tokens."""
    n_head = number(sizes, "attention.head_count")
    heads = sizes.get("attention.head_count_kv") or sizes.get("attention.head_count")
    if not n_head or not heads:
        return 0
    width = number(sizes, "embedding_length") // n_head
    key = number(sizes, "attention.key_length") or width
    value = number(sizes, "attention.value_length") or width
    in_all = sum(heads) if isinstance(heads, list) else heads * number(sizes, "block_count")
    return in_all * (key + value)


def _text(data: bytes, at: int) -> tuple[bytes, int]:
    (length,) = _LENGTH.unpack_from(data, at)
    at += _LENGTH.size
    if at + length > len(data):
        raise struct.error("a text goes on beyond what was read")
    return data[at : at + length], at + length


def _value(data: bytes, at: int) -> tuple[Value, int]:
    (kind,) = _KIND.unpack_from(data, at)
    if kind != _ARRAY:
        return _scalar(data, kind, at + _KIND.size)
    (kind,) = _KIND.unpack_from(data, at + _KIND.size)
    (count,) = _LENGTH.unpack_from(data, at + 2 * _KIND.size)
    at += 2 * _KIND.size + _LENGTH.size
    items: list[int] = []
    # Every item takes a byte at least, so the end of what was read bounds this.
    for _ in range(count):
        item, at = _scalar(data, kind, at)
        if item is not None:
            items.append(item)
    return items or None, at


def _scalar(data: bytes, kind: int, at: int) -> tuple[int | None, int]:
    if kind == _STRING:
        return None, _text(data, at)[1]
    layout = _NUMBERS[kind]
    (value,) = layout.unpack_from(data, at)
    return value if type(value) is int else None, at + layout.size
