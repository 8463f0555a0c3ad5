"""`llambo ask`: a question from the command line, the answer as it is generated."""

from __future__ import annotations

import os
import queue
import sys
import threading
from typing import Any, BinaryIO, TextIO

import msgspec
from py9p.messages import ProtocolError

from ctl.client import Files

INTERRUPTED = 130
"""Exit status after ^C, as a shell gives it."""


def ask(files: Files, prompt: bytes, out: BinaryIO, err: TextIO) -> int:
    """Submit the prompt to the session of this attach and print the answer; the exit status.

    ^C cancels the answer, not only the command; what was generated until then is printed.
    """
    pieces: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()

    def read() -> None:
        # A thread of its own: an interrupt in the middle of a message would lose the connection,
        # and the CANCEL has to go over it.
        try:
            for piece in files.pieces("output"):
                pieces.put(piece)
            pieces.put(b"")
        except (ProtocolError, OSError) as error:
            pieces.put(error)

    files.write("prompt", prompt)
    threading.Thread(target=read, daemon=True).start()
    interrupted = False
    last = b"\n"
    while True:
        try:
            piece = pieces.get()
            if isinstance(piece, Exception):
                raise piece
            if not piece:
                break
            out.write(piece)
            out.flush()
            last = piece
        except KeyboardInterrupt:
            if interrupted:
                return INTERRUPTED
            interrupted = True
            files.write("ctl", b"CANCEL\n")
        except BrokenPipeError:
            return 0
    if not last.endswith(b"\n"):
        out.write(b"\n")
        out.flush()
    err.write(_summary(files) + "\n")
    return INTERRUPTED if interrupted else 0


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
    """The prompt: the words of the command line, or standard input where there are none.

    Bytes as they are: whether they are UTF-8 is for the bridge to say.
    """
    return os.fsencode(" ".join(words)) if words else sys.stdin.buffer.read()
