"""What the header of a GGUF file says of a model, without llama.cpp.

It is wanted before a worker is started: to list a model, and to see whether it will fit. What
cannot be read is left out and no error: whether the file is any good is llama.cpp's business.
Keys may come in any order. The vocabulary among them is most of a header; it is passed over
string by string, 50 ms for a large one, so who wants only the sizes stops there. Source: gguf.md of
ggml-org/ggml.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

MAX_BYTES = 64 << 20
"""Bytes of a header that are looked at: the largest in use, with 262,144 tokens and twice as many
merges, has 16 MiB."""

MAX_PAIRS = 1 << 16
"""Keys, and tensors: a model has some fifty, and a thousand."""

MAX_ITEMS = 1 << 21
"""Items of all arrays that are looked at: half a second."""

MAX_NUMBERS = 512
"""Items of an array of numbers that is kept: there are arrays with one for every layer
(LLAMA_MAX_LAYERS)."""

WANTED = frozenset(
    {
        "file_type",
        "context_length",
        "block_count",
        "embedding_length",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
    }
)
"""Keys of the numbers that are kept, without the architecture's name in front."""

MAX_TEXT = 256
"""Bytes of a key that is looked at, and of a text that is kept."""

MAX_DIMENSIONS = 4
"""Of a tensor (GGML_MAX_DIMS)."""

_PIECE = 64 << 10
"""Bytes read at once: a thread that reads lets the others go on each time."""

_NUMBERS = {
    kind: struct.Struct(f"<{letter}")
    for kind, letter in zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True)
}
_STRING, _ARRAY = 8, 9
_KIND = struct.Struct("<I")
_LENGTH = struct.Struct("<Q")

Value = int | list[int] | None
"""A whole number, several, or what is neither."""

FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS",
    23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0",
    38: "MXFP4_MOE", 39: "NVFP4", 40: "Q1_0", 41: "Q2_0",
}  # fmt: skip
"""Names of ``general.file_type`` as files are named by them: LLAMA_FTYPE_MOSTLY_… of llama.h
(llama.cpp itself prints "Q4_K - Medium")."""


@dataclass
class Header:
    """What a header says. sizes: its whole numbers of the keys `WANTED`. kind: ``general.type``,
    such as model or adapter. parameters: None where the tensors were not reached. whole: whether
    all of it was read."""

    sizes: dict[str, Value] = field(default_factory=dict)
    architecture: str | None = None
    kind: str | None = None
    parameters: int | None = None
    chat_template: bool = False
    whole: bool = False

    @property
    def quantization(self) -> str | None:
        """Such as Q4_K_M; None where the file does not say, or by a number unknown here."""
        number = self.sizes.get("file_type")
        return FILE_TYPES.get(number) if isinstance(number, int) else None


def read(file: BinaryIO, *, whole: bool = False) -> Header:
    """The header of a file that is read up to its counts.

    whole: to the end of it. Otherwise only to the vocabulary, if the sizes came before.
    """
    found, reader = Header(), _Reader(file)
    try:
        tensors, pairs = reader.number(_LENGTH), reader.number(_LENGTH)
        if max(tensors, pairs) > MAX_PAIRS:
            return found
        for _ in range(pairs):
            key = reader.text()
            kind = reader.number(_KIND)
            if kind == _ARRAY and not whole and _enough(found) and key.startswith(b"tokenizer."):
                return found
            _take(found, key.decode("utf-8", "replace"), kind, reader)
        found.parameters = sum(_elements(reader) for _ in range(tensors)) or None
        found.whole = True
    except (_End, KeyError):
        pass
    return found


def _enough(found: Header) -> bool:
    return found.architecture is not None and "block_count" in found.sizes


def _take(found: Header, key: str, kind: int, reader: _Reader) -> None:
    """Read the value of a key, and keep it if it is one of those that are wanted."""
    if kind == _STRING:
        text = reader.text().decode("utf-8", "replace")
        if key == "general.architecture":
            found.architecture = text if text.isprintable() else None
        elif key == "general.type":
            found.kind = text if text.isprintable() else None
        elif key == "tokenizer.chat_template":
            found.chat_template = True
        return
    name = key.partition(".")[2]
    value = _array(reader) if kind == _ARRAY else reader.number(_NUMBERS[kind])
    if name in WANTED:
        found.sizes[name] = value if type(value) in (int, list) else None


def _array(reader: _Reader) -> list[int] | None:
    """The whole numbers of an array; None of strings, of too many, and of none."""
    kind, count = reader.number(_KIND), reader.number(_LENGTH)
    if kind == _STRING:
        reader.pass_texts(count)
        return None
    layout = _NUMBERS[kind]
    if count > MAX_NUMBERS:
        reader.skip(count * layout.size)
        return None
    return [value for value in reader.numbers(layout, count) if type(value) is int] or None


def _elements(reader: _Reader) -> int:
    """How many numbers the next tensor of the list has."""
    reader.text()
    dimensions = reader.number(_KIND)
    if dimensions > MAX_DIMENSIONS:
        raise _End
    elements = 1
    for _ in range(dimensions):
        elements *= reader.number(_LENGTH)
    reader.skip(_KIND.size + _LENGTH.size)  # its type, and where it lies
    return elements


class _End(Exception):
    """The header is cut off, or larger than a header is."""


class _Reader:
    """Reads a file forward, in pieces."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._data = b""
        self._at = 0
        self._begin = 0
        """Where ``_data`` begins, counted from where reading began."""
        self._items = 0

    def number(self, layout: struct.Struct) -> int:
        """The next number, which may be a float, too."""
        self._want(layout.size)
        (value,) = layout.unpack_from(self._data, self._at)
        self._at += layout.size
        return value  # type: ignore[no-any-return]

    def numbers(self, layout: struct.Struct, count: int) -> tuple[int, ...]:
        """So many of them."""
        self._count(count)
        self._want(count * layout.size)
        values = struct.unpack_from(f"<{count}{layout.format[-1]}", self._data, self._at)
        self._at += count * layout.size
        return values

    def text(self) -> bytes:
        """The next string, empty if it is longer than what is kept."""
        length = self.number(_LENGTH)
        if length > MAX_TEXT:
            self.skip(length)
            return b""
        self._want(length)
        self._at += length
        return self._data[self._at - length : self._at]

    def skip(self, size: int) -> None:
        """Go on so many bytes further."""
        self._at += size

    def pass_texts(self, count: int) -> None:
        """Go on behind so many strings."""
        self._count(count)
        length = _LENGTH.unpack_from
        while count:
            self._want(_LENGTH.size)
            data, at = self._data, self._at
            last = len(data) - _LENGTH.size
            while count and at <= last:
                at += _LENGTH.size + length(data, at)[0]
                count -= 1
            self._at = at

    def _count(self, items: int) -> None:
        self._items += items
        if self._items > MAX_ITEMS:
            raise _End

    def _want(self, size: int) -> None:
        """Have the next ``size`` bytes in ``_data``. Raises `_End`."""
        if self._at + size <= len(self._data):
            return
        if self._begin + self._at + size > MAX_BYTES:
            raise _End
        beyond = self._at - len(self._data)
        if beyond > 0:
            self._file.seek(beyond, 1)
        rest = self._data[self._at :]
        self._begin, self._at = self._begin + self._at, 0
        self._data = rest + self._file.read(max(_PIECE, size - len(rest)))
        if len(self._data) < size:
            raise _End


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
