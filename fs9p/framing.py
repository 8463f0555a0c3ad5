"""From a stream's chunks to whole frames.

Knows the size field of a message and nothing else of it; no socket may come in here.
"""

from __future__ import annotations

import struct

from fs9p.fields import WireError

_SIZE = struct.Struct("<I")
_SMALLEST = 7
"""size[4] type[1] tag[2]: a message without fields."""


class Framer:
    """Cuts a stream of bytes into frames, in time linear in the bytes.

    Feed it a chunk, then take frames until there is none left, then feed it again. A size
    field is judged when it has arrived, before any of the frame behind it is kept, so
    that what is held never exceeds ``msize`` bytes and a chunk.

    msize: the largest frame allowed (bytes); may be changed between two frames.
    """

    def __init__(self, msize: int) -> None:
        self.msize = msize
        self._chunk: bytes | bytearray = b""
        self._at = 0
        self._partial = bytearray()
        self._wanted = _SIZE.size

    def feed(self, chunk: bytes | bytearray) -> None:
        """Take the next bytes of the stream; every whole frame before them has been taken."""
        if not self._partial:
            self._chunk = chunk
        else:
            self._partial += chunk
            if len(self._partial) < self._wanted:
                return
            # A buffer of its own for the next partial frame: this one is given away.
            self._chunk, self._partial = self._partial, bytearray()
        self._at = 0

    def next_frame(self) -> bytes | bytearray | None:
        """The next whole frame, None where more bytes are needed.

        Raises `WireError` for a size below 7 or above ``msize``; the stream cannot be
        read any further then.
        """
        chunk, start = self._chunk, self._at
        held = len(chunk) - start
        if not held:
            self._chunk = b""
            return None
        if held >= _SIZE.size:
            (size,) = _SIZE.unpack_from(chunk, start)
            if size < _SMALLEST:
                raise WireError(f"a frame of {size} bytes is too short for a message")
            if size > self.msize:
                raise WireError(f"a frame of {size} bytes is longer than msize, {self.msize}")
            if held == size and start == 0:
                self._chunk = b""
                return chunk
            if held >= size:
                self._at = start + size
                return chunk[start : start + size]
            self._wanted = size
        else:
            self._wanted = _SIZE.size
        self._partial += memoryview(chunk)[start:]
        self._chunk, self._at = b"", 0
        return None
