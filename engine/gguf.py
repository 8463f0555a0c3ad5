"""Can this file be loaded here? And if not, why not, in one sentence.

Of the file only the header is read: what is inside is llama.cpp's business.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Sequence
from pathlib import Path

import psutil

from engine.api import EngineError

_HEADER = struct.Struct("<4sI")
_VERSIONS = (2, 3)
"""What gguf.cpp reads. Version 1 was in use for a week in August 2023."""


def check_file(path: str, spare: int = 0) -> int:
    """The size of the GGUF file at ``path`` in bytes.

    ``spare``: bytes of memory that will be free before it is loaded, beside what is available
    now. Raises `EngineError`, one sentence with the cause and the path, if it is no GGUF file,
    cannot be read or cannot fit. Touches the disk: call it in a thread.
    """
    try:
        info = os.stat(path)
        if stat.S_ISDIR(info.st_mode):
            raise EngineError(f"a directory, not a GGUF file: {path}")
        if not stat.S_ISREG(info.st_mode):
            # Opening a pipe or a device may wait for ever.
            raise EngineError(f"not a regular file: {path}")
        with Path(path).open("rb") as file:
            header = file.read(_HEADER.size)
    except FileNotFoundError:
        raise EngineError(f"no such file: {path}") from None
    except PermissionError:
        raise EngineError(f"permission denied: {path}") from None
    except (OSError, ValueError) as error:
        raise EngineError(f"i/o error: {error}") from error
    if not header:
        raise EngineError(f"an empty file, not a GGUF file: {path}")
    if header[:4] != b"GGUF":
        raise EngineError(f"not a GGUF file: {path}")
    if len(header) < _HEADER.size:
        raise EngineError(f"truncated GGUF file: {path}")
    version = _HEADER.unpack(header)[1]
    if version not in _VERSIONS:
        raise EngineError(f"GGUF version {version} is not supported (2 and 3 are): {path}")
    available = psutil.virtual_memory().available + spare
    if info.st_size > available:
        raise EngineError(
            f"model too large: it takes {info.st_size} bytes, "
            f"{available} bytes of memory are available: {path}"
        )
    return info.st_size


def check_context(n_ctx: int, n_cells: int, cell_bytes: int) -> None:
    """Raises `EngineError` if a context for conversations of ``n_ctx`` tokens cannot be had, with
    a KV cache of ``n_cells`` cells of so many bytes.

    llama.cpp writes to all of the cache at once: what does not fit gets somebody killed.
    """
    available = psutil.virtual_memory().available
    for name, value in (("n_ctx", n_ctx), ("n_cells", n_cells)):
        if not 0 < value < 1 << 31:
            raise EngineError(f"invalid {name} {value}: it is 1 to {(1 << 31) - 1} tokens")
    if n_cells * cell_bytes > available:
        raise EngineError(
            f"context too large: n_ctx {n_ctx} with n_cells {n_cells} takes "
            f"{n_cells * cell_bytes} bytes, {available} bytes of memory are available"
        )


def refusal(path: str, errors: Sequence[str]) -> str:
    """One sentence out of the errors llama.cpp logged when it did not load ``path``."""
    # The first line is the cause, those after it say who could not go on: "function: cause".
    cause = errors[0].partition(": ")[2] if errors else "llama.cpp gives no reason"
    cause = cause.removeprefix("error loading model: ")
    # The wordings of gguf.cpp and llama-model-loader.cpp for a file that ends too early.
    if "exceeds remaining file size" in cause or "not within the file bounds" in cause:
        return f"truncated GGUF file: {path}: {cause}"
    return f"llama.cpp cannot load {path}: {cause}"
