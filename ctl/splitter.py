"""Lines out of a byte stream: the framing of the line protocol. No socket may come in here.

A line ends at LF or CRLF, the last one also at the end of the input. How the bytes were cut on
their way makes no difference.
"""

from __future__ import annotations


class LineSplitter:
    """Collects bytes into lines. limit: bytes of one line, its end apart."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = bytearray()
        self.overlong = False
        """Whether a line passed the limit. There are no lines after that."""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that these bytes complete, without their ends."""
        first, *others = data.split(b"\n")
        self._rest += first
        if not others:
            return self._within(())
        whole = bytes(self._rest)
        self._rest = bytearray(others.pop())
        return self._within((whole, *others))

    def end(self) -> list[bytes]:
        """What is left at the end of the input: one line or none."""
        rest, self._rest = bytes(self._rest), bytearray()
        return self._within((rest,)) if rest else []

    def _within(self, lines: tuple[bytes, ...]) -> list[bytes]:
        """Of these lines those before one that is too long."""
        taken: list[bytes] = []
        for line in lines:
            line = line.removesuffix(b"\r")
            self.overlong = self.overlong or len(line) > self._limit
            if self.overlong:
                break
            taken.append(line)
        # A CR at its end may turn out to be none of the line.
        if len(self._rest) - self._rest.endswith(b"\r") > self._limit:
            self.overlong = True
        if self.overlong:
            self._rest.clear()
        return taken
