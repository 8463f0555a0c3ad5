"""Lines out of writes: clients split long writes, and this puts them together again.

A line ends at a newline, at the end of a write shorter than 4,096 bytes, or when the file is
closed: ``9p`` writes 4,096 bytes at a time, Inferno 8,192, so a shorter write is a last one.
"""

from __future__ import annotations

from fs9p import Error

SPLIT = 4096
"""Bytes: the smallest piece a client is known to cut a long write into (plan9port's ``9p``)."""


class Lines:
    """Collects the bytes of one open file into lines. limit: bytes of one line."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that these bytes complete, without their newlines.

        Raises `Error`, and forgets the line begun, where a line passes the limit.
        """
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest
        if len(data) < SPLIT:
            lines += self.rest()
        if max(map(len, (*lines, self._rest)), default=0) > self._limit:
            self._rest = b""
            raise Error(f"invalid: the line is longer than {self._limit} bytes")
        return lines

    def rest(self) -> list[bytes]:
        """What is left when the file is closed: one line or none."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []


def decode(data: bytes, what: str) -> str:
    """UTF-8 text, or raise `Error`."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Error(f"invalid {what}: it is not UTF-8 (at byte {error.start})") from None


def split_words(text: str) -> list[str]:
    """Words quoted as in rc(1): single quotes, a doubled one stands for itself.

    Raises `Error` for a quote that is not closed.
    """
    words: list[str] = []
    word: str | None = None
    quoted = False
    i = 0
    while i < len(text):
        c = text[i]
        if quoted:
            if c != "'":
                word = (word or "") + c
            elif text[i + 1 : i + 2] == "'":
                word = (word or "") + "'"
                i += 1
            else:
                quoted = False
        elif c == "'":
            quoted = True
            word = word or ""
        elif c.isspace():
            if word is not None:
                words.append(word)
            word = None
        else:
            word = (word or "") + c
        i += 1
    if quoted:
        raise Error("invalid command: a quote ' is not closed")
    if word is not None:
        words.append(word)
    return words


def quote(word: str) -> str:
    """A word as `split_words` reads it back."""
    if word and not any(c.isspace() or c == "'" for c in word):
        return word
    return "'" + word.replace("'", "''") + "'"
