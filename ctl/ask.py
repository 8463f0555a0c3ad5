"""`llambo ask`: a question from the command line, the answer as it is generated."""

from __future__ import annotations

import os
import queue
import sys
import threading
from itertools import groupby
from typing import Any, BinaryIO, TextIO

import msgspec

from ctl.client import Files

INTERRUPTED = 130
"""Exit status after ^C, as a shell gives it."""


def ask(files: Files, prompt: bytes, out: BinaryIO, err: TextIO) -> int:
    """Submit the prompt to the session of this attach and print the answer; the exit status.

    ^C cancels the answer, not only the command; what was generated until then is printed.
    Raises what `ctl.client.Files` does.
    """
    pieces: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()
    interrupted = threading.Event()

    def talk() -> None:
        # A thread of its own: an interrupt in the middle of a message would lose the connection,
        # and the CANCEL has to go over it.
        try:
            files.write("prompt", prompt)
            if interrupted.is_set():
                files.write("ctl", b"CANCEL\n")
            for piece in files.pieces("output"):
                pieces.put(piece)
            pieces.put(b"")
        except Exception as error:
            pieces.put(error)

    threading.Thread(target=talk, daemon=True).start()
    last = b"\n"
    while True:
        try:
            piece = pieces.get()
            if isinstance(piece, Exception):
                _end_line(last, out)
                raise piece
            if not piece:
                break
            try:
                out.write(_harmless(piece) if out.isatty() else piece)
                out.flush()
            except OSError:
                # Nobody reads on, as in `llambo ask … | head`, or there is no room.
                files.write("ctl", b"CANCEL\n")
                raise
            last = piece
        except KeyboardInterrupt:
            if interrupted.is_set():
                return INTERRUPTED
            interrupted.set()
            files.write("ctl", b"CANCEL\n")
    _end_line(last, out)
    err.write(_summary(files) + "\n")
    return INTERRUPTED if interrupted.is_set() else 0


_BIDI = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))

# Fewer than `ctl.screen.plain` takes from a name: in sentences joiners and wide spaces are right.
_CONTROLS = {
    code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0), *_BIDI) if chr(code) not in "\t\n"
}


def _harmless(piece: bytes) -> bytes:
    """What may go to a terminal: a model can be made to say escape sequences, too. The bridge
    cuts an answer between characters."""
    return piece.decode(errors="replace").translate(_CONTROLS).encode()


def _end_line(last: bytes, out: BinaryIO) -> None:
    if not last.endswith(b"\n"):
        out.write(b"\n")
        out.flush()


def _summary(files: Files) -> str:
    usage = msgspec.json.decode(files.read("usage"), type=dict[str, dict[str, Any] | None])["last"]
    if usage is None:
        return "no answer"
    seconds = usage["queue_s"] + usage["prefill_s"] + usage["decode_s"]
    ended = {
        "cancelled": ", cancelled",
        "length": ", cut at max_tokens",
        "context": ", context full",
    }
    return (
        f"{usage['completion_tokens']} tokens, {seconds:.2f} s, "
        f"{usage['tokens_per_second']:.1f} tokens/s{ended.get(usage['finish_reason'], '')}"
    )


def read_prompt(words: list[str]) -> bytes:
    """The prompt: the words of the command line, or standard input where there are none. A word
    ``-`` is standard input, as lines of its own.

    Bytes as they are: whether they are UTF-8 is for the bridge to say.
    """
    parts: list[bytes] = []
    for dash, group in groupby(words or ["-"], lambda word: word == "-"):
        parts.append(sys.stdin.buffer.read() if dash else os.fsencode(" ".join(group)))
    return b"\n".join(parts)
