"""Can this file be loaded here? And if not, why not, in one sentence.

Of the file only the header is read: what is inside is llama.cpp's business.
"""

from __future__ import annotations

import importlib.util
import os
import re
import stat
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

from engine import memory, metadata
from engine.api import KV_TYPES, EngineError, LoadOptions, cache_size, scores_size
from engine.metadata import Header

_ON_CPU = re.compile(r"libggml(-base|-cpu.*|-blas|-rpc)?")
"""The libraries of ggml that use no GPU; each backend is one of its own."""

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.ASCII)

_MB = 1_000_000

_HEADER = struct.Struct("<4sI")
_VERSIONS = (2, 3)
"""What gguf.cpp reads. Version 1 was in use for a week in August 2023."""


class Unreadable(EngineError):
    """The system cannot read a file. Another time it may, though the file has not changed."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a model will take of the machine's memory, in bytes. cache: of the KV cache of
    ``n_cells`` tokens, and attention to them; 0 where the file does not say, or it may be on a
    GPU."""

    file: int
    n_cells: int = 0
    cache: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.file + self.cache


def examine(path: str, options: LoadOptions) -> Need:
    """What the GGUF file at ``path`` will take when it is loaded with these options.

    Raises `EngineError`, one sentence with the cause and the path, if it is no GGUF file or
    cannot be read. Touches the disk: call it in a thread.
    """
    found = header(path)
    with _naming(path):
        return need(found, sum(os.stat(part).st_size for part in parts(path)), options)


def header(path: str, *, whole: bool = False) -> Header:
    """What the header of the GGUF file at ``path`` says; see `metadata.read`. Of a model in parts
    the first has all but most tensors: whole adds those of the others up.

    Raises `EngineError` as `examine` does.
    """
    with _naming(path):
        info = os.stat(path)
        if stat.S_ISDIR(info.st_mode):
            raise EngineError(f"a directory, not a GGUF file: {path}")
        if not stat.S_ISREG(info.st_mode):
            # Opening a pipe or a device may wait for ever.
            raise EngineError(f"not a regular file: {path}")
        with Path(path).open("rb") as file:
            _check_header(file.read(_HEADER.size), path)
            found = metadata.read(file, whole=whole)
    if whole and found.whole:
        others = [header(part, whole=True) for part in islice(parts(path), 1, None)]
        found.parameters = sum(each.parameters or 0 for each in (found, *others)) or None
    return found


def need(header: Header, file: int, options: LoadOptions) -> Need:
    """What a model of ``file`` bytes with that header will take when it is loaded so."""
    sizes = header.sizes
    _, n_cells = cache_size(options, metadata.number(sizes, "context_length"))
    on_gpu = options.n_gpu_layers != 0 and _offloads()
    cell_bytes = metadata.cell_elements(sizes) * KV_TYPES[options.kv_type] / 8
    n_head = metadata.number(sizes, "attention.head_count")
    cell_bytes += scores_size(options, n_head, on_gpu=on_gpu)
    cache = 0 if on_gpu else int(max(n_cells, 0) * cell_bytes)
    return Need(file, n_cells, cache)


def split(name: str) -> tuple[str, int, int] | None:
    """What a file that is a part of a model is named by: the model's name, which part it is, from
    1, and how many there are. None if it is no part. Source: llama_split_path of llama.cpp."""
    match = _PART.fullmatch(name)
    if match is None or not 1 <= int(match[2]) <= int(match[3]):
        return None
    return match[1], int(match[2]), int(match[3])


def parts(path: str) -> Iterator[str]:
    """The paths of all parts of a model, given the first; of one in a single file, that. A name
    may speak of more than there are."""
    folder, name = os.path.split(path)
    first = split(name)
    if first is None or first[1] != 1:
        return iter((path,))
    prefix, _, count = first
    names = (f"{prefix}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1))
    return (os.path.join(folder, name) for name in names)


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Make one sentence of what the system says of a path."""
    try:
        yield
    except FileNotFoundError as missing:
        raise Unreadable(f"no such file: {missing.filename or path}") from None
    except PermissionError:
        raise Unreadable(f"permission denied: {path}") from None
    except (OSError, ValueError) as error:
        raise Unreadable(f"i/o error: {error}") from error


@cache
def _offloads() -> bool:
    """Whether llama.cpp was built for a GPU. Without importing it, which a worker does."""
    package = importlib.util.find_spec("llama_cpp")
    folders = (package.submodule_search_locations or []) if package else []
    libraries = [path for folder in folders for path in Path(folder, "lib").glob("libggml*.so")]
    return not all(_ON_CPU.fullmatch(path.stem) for path in libraries)


def _check_header(header: bytes, path: str) -> None:
    if not header:
        raise EngineError(f"an empty file, not a GGUF file: {path}")
    if header[:4] != b"GGUF":
        raise EngineError(f"not a GGUF file: {path}")
    if len(header) < _HEADER.size:
        raise EngineError(f"truncated GGUF file: {path}")
    version = _HEADER.unpack(header)[1]
    if version not in _VERSIONS:
        raise EngineError(f"GGUF version {version} is not supported (2 and 3 are): {path}")


def check_fits(path: str, need: Need, available: int) -> None:
    """Raises `EngineError` with both numbers if that takes more than ``available`` bytes."""
    if need.file > available:
        raise EngineError(
            f"model too large: it takes {need.file} bytes, "
            f"{available} bytes of memory are available: {path}"
        )
    if need.total > available:
        raise EngineError(
            f"invalid: context too large: {need.n_cells} cells take {need.cache // _MB} MB, "
            f"the model {need.file // _MB} MB, {available // _MB} MB are free; "
            "lower n_ctx or n_cells"
        )


def check_context(n_ctx: int, n_cells: int, cell_bytes: int) -> None:
    """Raises `EngineError` if a context for conversations of ``n_ctx`` tokens cannot be had, with
    a KV cache of ``n_cells`` cells of so many bytes.

    llama.cpp writes to all of the cache at once: what does not fit gets somebody killed.
    """
    available = memory.available()
    for name, value in (("n_ctx", n_ctx), ("n_cells", n_cells)):
        if not 0 < value < 1 << 31:
            raise EngineError(f"invalid {name} {value}: it is 1 to {(1 << 31) - 1} tokens")
    if n_cells * cell_bytes > available:
        raise EngineError(
            f"invalid: context too large: n_ctx {n_ctx} with n_cells {n_cells} takes "
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
