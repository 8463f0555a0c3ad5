"""Lines out of a byte stream: the framing of the line protocol. No socket may come in here.

A line ends at LF or CRLF, the last one also at the end of the input. How the bytes were cut on
their way makes no difference. Lines are taken one by one, so that what waits costs its bytes
and no more, however short they are.
"""

from __future__ import annotations

import re

_CR = ord("\r")
_EMPTY_LINES = re.compile(rb"[\r\n]*")


class LineSplitter:
    """Collects bytes into lines. limit: bytes of one line, its end apart."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = bytearray()
        self._start = 0
        self._searched = 0
        """Up to where there is no LF behind the start."""
        self._ended = False
        self.overlong = False
        """Whether a line passed the limit. There are no lines after that."""

    def __len__(self) -> int:
        """Bytes that wait to be taken."""
        return len(self._bytes) - self._start

    def feed(self, data: bytes) -> None:
        """More of the input; nothing is its end."""
        if self.overlong:
            return
        del self._bytes[: self._start]
        self._searched -= self._start
        self._start = 0
        self._bytes += data
        self._ended = not data

    def take(self) -> bytes | None:
        """The next line that is not empty, without its end; None while there is no whole one."""
        empty = _EMPTY_LINES.match(self._bytes, self._start)
        assert empty is not None
        self._start = empty.end()
        found = self._bytes.find(b"\n", max(self._start, self._searched))
        self._searched = end = found if found >= 0 else len(self._bytes)
        if end > self._start and self._bytes[end - 1] == _CR:
            end -= 1
        if end - self._start > self._limit:
            self.overlong = True
            self._bytes.clear()
            self._start = self._searched = 0
        if end == self._start or self.overlong or (found < 0 and not self._ended):
            return None
        line = bytes(self._bytes[self._start : end])
        self._start = self._searched
        return line
