"""Lines out of writes: clients split long writes, and this puts them together again.

A line ends at a newline, at the end of a write shorter than 4,096 bytes, or when the file is
closed: ``9p`` writes 4,096 bytes at a time, Inferno 8,192, so a shorter write is a last one.
"""

from __future__ import annotations

import re

from fs9p import Error

SPLIT = 4096
"""Bytes: the smallest piece a client is known to cut a long write into (plan9port's ``9p``)."""


class Buffer:
    """The room that all unfinished lines of a session share. limit: bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0

    def change(self, before: int, after: int) -> None:
        """A line grew, or went. Raises `Error`, and counts nothing, where there is no room."""
        if after > before and self._used + after - before > self._limit:
            raise Error(f"temporarily out of room: unfinished lines take {self._used} bytes")
        self._used += after - before


class Lines:
    """Collects the bytes of one open file into lines. limit: bytes of one line."""

    def __init__(self, limit: int, buffer: Buffer | None = None) -> None:
        self._limit = limit
        self._buffer = buffer or Buffer(limit)
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that these bytes complete, without their newlines.

        Raises `Error`, and forgets the line begun, where a line passes the limit.
        """
        *lines, rest = (self._rest + data).split(b"\n")
        if len(data) < SPLIT:
            lines, rest = [*lines, rest] if rest else lines, b""
        try:
            if max(map(len, (*lines, rest)), default=0) > self._limit:
                raise Error(f"invalid: the line is longer than {self._limit} bytes")
            self._keep(rest)
        except Error:
            self.rest()
            raise
        return lines

    def rest(self) -> list[bytes]:
        """What is left when the file is closed: one line or none."""
        rest = self._rest
        self._keep(b"")
        return [rest] if rest else []

    def _keep(self, rest: bytes) -> None:
        self._buffer.change(len(self._rest), len(rest))
        self._rest = rest


def decode(data: bytes, what: str) -> str:
    """UTF-8 text, or raise `Error`."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Error(f"invalid {what}: it is not UTF-8 (at byte {error.start})") from None


MAX_ARGUMENT = 8192
"""Characters of the arguments of a command that takes words: two longest paths."""


def split_words(text: str) -> list[str]:
    """Words quoted as in rc(1): single quotes, a doubled one stands for itself.

    Raises `Error` for a quote that is not closed, and for more than `MAX_ARGUMENT` characters.
    """
    if len(text) > MAX_ARGUMENT:
        raise Error(f"invalid command: its arguments are longer than {MAX_ARGUMENT} characters")
    words = [match[0] for match in _WORD.finditer(text)]
    if any(_QUOTED.sub("", word).count("'") for word in words):
        raise Error("invalid command: a quote ' is not closed")
    return [_QUOTED.sub(lambda quoted: quoted[1].replace("''", "'"), word) for word in words]


# Possessive, so that no input makes the search go back.
_QUOTED = re.compile(r"'((?:[^']++|'')*+)'")
_WORD = re.compile(r"(?:[^\s']++|'(?:[^']++|'')*+'|')++")


def quote(word: str) -> str:
    """A word as `split_words` reads it back."""
    if word and not any(c.isspace() or c == "'" for c in word):
        return word
    return "'" + word.replace("'", "''") + "'"
