"""From the bytes of tokens to text a reader may have: whole characters, no stop strings.

Pure: bytes in, text out. What a token is, and where its bytes come from, must not come in.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable


class TextStream:
    """The text of one answer, fed token by token.

    Two things are held back until it is known what they are: a UTF-8 sequence that is not
    whole yet, and text with which a stop string may begin. Bytes that are no UTF-8 become
    U+FFFD.

    Of several stop strings the one that is complete first ends the answer (of two complete at
    the same character, the longer), so the outcome does not depend on how the text was cut
    into tokens.
    """

    def __init__(self, stop: Iterable[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = tuple(dict.fromkeys(text for text in stop if text))
        self._held = ""
        self.stopped = False
        """A stop string was met: the text is complete, and nothing more comes out."""

    def feed(self, data: bytes) -> str:
        """The bytes of the next token; returns the text that is now certain, maybe none."""
        return self._pass(self._decoder.decode(data))

    def flush(self) -> str:
        """The answer has ended: returns what was held back."""
        text = self._pass(self._decoder.decode(b"", final=True))
        if self.stopped:
            return text
        text, self._held = text + self._held, ""
        return text

    def _pass(self, text: str) -> str:
        if self.stopped:
            return ""
        if not self._stop:
            return text
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)[1]]
        keep = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of ``text`` are a beginning of ``stop``."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
