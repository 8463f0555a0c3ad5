"""Which files of a repo on the hub a pull means: those of a name, of a quantisation, or the usual.

Names and sizes only. What the hub has, `ctl.download` asks.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.filesize import decimal

from ctl.address import CommandError
from ctl.caches import SNAPSHOT_DEPTH, SUFFIX
from engine import gguf

USUAL = "Q4_K_M"
"""The quantisation that is taken where none is asked for: llama.cpp's and Ollama's choice, too."""

_TARGET = re.compile(
    r"(?:https?://|hf://)?(?:(?:www\.)?(?:hf\.co|huggingface\.co)/)?"
    r"(?P<repo>\w[\w.-]*/\w[\w.-]*)"
    r"(?:/(?:(?:blob|resolve)/main/(?P<path>[^?#]+)(?:\?.*)?|tree/main)?|:(?P<file>[^:]+))?",
    re.ASCII,
)
"""A repo as people write it, or copy it from the browser."""

_COMPANION = re.compile(
    r".*(?:(?:^|[-._/])mmproj|(?:^|/)imatrix)(?:$|[-._/]).*|.*\.imatrix\.gguf", re.IGNORECASE
)
"""GGUF files that are no models: a projector for pictures, statistics for quantising. What was
quantised with these may say so in its name, too."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A model in a repo. files: its parts in order, mostly one. size: of all in bytes; None where
    the hub does not say."""

    files: tuple[str, ...]
    size: int | None

    @property
    def complete(self) -> bool:
        """Whether no part is missing."""
        part = gguf.split(self.files[0])
        return part is None or len(self.files) == part[2]

    @property
    def stem(self) -> str:
        """Its path without the number of a part, and without ``.gguf``."""
        part = gguf.split(self.files[0])
        return part[0] if part else self.files[0].removesuffix(SUFFIX)

    @property
    def name(self) -> str | None:
        """What a bridge calls it that finds it in the cache; None where it lies too deep."""
        folder, _, name = self.stem.rpartition("/")
        return name if len(folder.split("/")) <= SNAPSHOT_DEPTH else None


def target(text: str) -> tuple[str, str | None]:
    """The repo and, where there is one, the file or quantisation in ``REPO[:FILE]``.

    Raises `CommandError`.
    """
    match = _TARGET.fullmatch(text)
    if match is None:
        raise CommandError(
            f"{text} names no repo: that is OWNER/NAME, OWNER/NAME:FILE.gguf or OWNER/NAME:{USUAL}"
        )
    return match["repo"].removesuffix(".git"), match["path"] or match["file"]


def choices(sizes: Mapping[str, int | None]) -> list[Choice]:
    """The GGUF models among the files of a repo, the parts of a split one together."""
    sets: dict[str, list[str]] = {}
    for file in sorted(sizes):
        # What is not printable could command the terminal, and is no name in `models`.
        if file.endswith(SUFFIX) and file.isprintable():
            part = gguf.split(file)
            sets.setdefault(f"{part[0]} {part[2]}" if part else file, []).append(file)
    return [Choice(tuple(files), _sum([sizes[file] for file in files])) for files in sets.values()]


def _sum(sizes: Sequence[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def choose(repo: str, sizes: Mapping[str, int | None], wanted: str | None) -> Choice:
    """The model that is meant by a file's name, by a quantisation, or by neither.

    Raises `CommandError`, with the models there are.
    """
    everything = choices(sizes)
    models = [each for each in everything if not _COMPANION.fullmatch(each.files[0])] or everything
    if not everything:
        raise CommandError(
            f"{repo} has no GGUF files: repos that do are often called {repo.split('/')[1]}-GGUF"
        )
    among = models
    if wanted is None:
        found = models if len(models) == 1 else _of_quantisation(models, USUAL)
        problem = f"{repo} has {len(models)} models"
    elif wanted.lower().endswith(".gguf"):
        among = everything
        found = _of_name(everything, wanted)
        problem = f"{repo} has {len(found) or 'no'} files called {wanted}"
    else:
        found = _of_quantisation(models, wanted)
        problem = f"{repo} has {len(found) or 'no'} models of {wanted}"
    if len(found) != 1:
        raise CommandError(_please_name(repo, problem, found or among))
    if not found[0].complete:
        raise CommandError(
            f"{repo} lacks parts of {found[0].files[0]}: it has {len(found[0].files)}"
        )
    return found[0]


def _of_name(models: Sequence[Choice], wanted: str) -> list[Choice]:
    """Those with a file of that path, else of that name in any folder."""
    exact = [model for model in models if wanted in model.files]
    name = wanted.lower()
    return exact or [
        model
        for model in models
        if any(name in (file.lower(), file.lower().rpartition("/")[2]) for file in model.files)
    ]


def _of_quantisation(models: Sequence[Choice], wanted: str) -> list[Choice]:
    """Those that have it as a word of their name: Q4_K is none of x-Q4_K_M. A name that ends in
    it goes before one that goes on."""
    word = re.compile(rf"(?:^|[-._/]){re.escape(wanted)}(?=$|[-./])", re.IGNORECASE)
    found = [model for model in models if word.search(model.stem)]
    ends = [model for model in found if model.stem.lower().endswith(wanted.lower())]
    return ends if len(ends) == 1 else found


def _please_name(repo: str, problem: str, models: Sequence[Choice]) -> str:
    models = sorted(models, key=lambda model: model.size or 0)
    names = [model.files[0] for model in models]
    width = max(map(len, names))
    rows = [
        f"  {name:{width}}  {'' if model.size is None else decimal(model.size)}".rstrip()
        for name, model in zip(names, models, strict=True)
    ]
    one = shlex.quote(f"{repo}:{names[0]}")
    return "\n".join([f"{problem}; name one, as in llambo pull {one}", *rows])
