"""What an answer may look like: GBNF, or a JSON schema, followed by llama.cpp's automaton.

llama.cpp answers some grammars by ending the process; `engine.gbnf` keeps these away from it, and
nothing here hands it a token that it does not allow.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from llama_cpp.llama_grammar import json_schema_to_gbnf

from engine.api import EngineError
from engine.gbnf import check
from engine.llama.candidates import Candidates
from engine.llama.model import Model
from engine.llama.native import C

CONVERSION_TIME = 1.0
"""Seconds that the conversion of a schema may take: all answers wait for it. A hundred properties
take 5 ms."""

MAX_COUNT = 1000
"""The largest maxItems, minLength and so on: llama.cpp's converter writes each item out."""

MAX_NAME = 128
"""Characters of a property's name: the names of rules are made of all those on the way."""

_COUNTS = ("minItems", "maxItems", "minLength", "maxLength")
_QUANTIFIER = re.compile(r"\{\s*([0-9]*)\s*,?\s*([0-9]*)\s*\}")


class Grammar:
    """A grammar at one place of one answer (``llama_sampler_init_grammar``, rule ``root``). The
    prompt is no part of what it describes.

    text: GBNF, or a JSON schema where it begins with a brace, with which no GBNF begins. Raises
    `EngineError` that says what is wrong with it.
    """

    def __init__(self, model: Model, text: str) -> None:
        gbnf = _gbnf(text)
        with _stderr() as told:
            self._sampler = C.llama_sampler_init_grammar(model.vocab, gbnf.encode(), b"root")
        if not self._sampler:
            raise EngineError(f"invalid grammar: {_reason(told)}")
        self._one = C.llama_token_data()
        self._array = C.llama_token_data_array(data=ctypes.pointer(self._one), size=1)

    def allows(self, token: int) -> bool:
        """Whether the answer can go on with that token, or end, where it is one that ends it."""
        self._one.id = C.llama_token(token)
        self._one.logit, self._one.p = 1.0, 0.0
        self._array.selected, self._array.sorted = -1, False
        C.llama_sampler_apply(self._sampler, ctypes.byref(self._array))
        return bool(self._one.logit != float("-inf"))

    def restrict(self, candidates: Candidates) -> None:
        """Leave only those that it allows."""
        candidates.apply(self._sampler)
        candidates.drop_excluded()

    def accept(self, token: int) -> None:
        """The answer goes on with that token, which it allows and which does not end it."""
        C.llama_sampler_accept(self._sampler, token)

    def close(self) -> None:
        """The answer has ended (``llama_sampler_free``)."""
        C.llama_sampler_free(self._sampler)


@lru_cache(32)
def _gbnf(text: str) -> str:
    """The GBNF that a `Sampling.grammar` stands for, checked. Kept: a session asks with the same
    one again and again."""
    gbnf = _convert(text) if text.lstrip().startswith("{") else text
    if "\0" in gbnf:
        raise EngineError("invalid grammar: it has a NUL character")
    check(gbnf)
    return gbnf


def _convert(text: str) -> str:
    try:
        schema = json.loads(text)
        _check_schema(schema)
        with _time_limit(CONVERSION_TIME):
            gbnf: str = json_schema_to_gbnf(text)
            return gbnf
    except EngineError:
        raise
    except TimeoutError:
        raise EngineError("invalid grammar: the JSON schema takes too long to convert") from None
    # The converter takes a schema apart without looking: whatever is wrong with it shows as any
    # of Python's exceptions, AssertionError and ValueError with words.
    except Exception as error:
        what = str(error) if isinstance(error, (AssertionError, ValueError)) else repr(error)
        raise EngineError(f"invalid grammar: not a usable JSON schema: {what[:200]}") from error


def _check_schema(schema: object) -> None:
    """Refuse what would make the converter write gigabytes."""
    todo: list[Any] = [schema]
    while todo:
        part = todo.pop()
        if isinstance(part, list):
            todo += part
        elif isinstance(part, dict):
            for key, value in part.items():
                if len(key) > MAX_NAME:
                    raise EngineError(
                        f"invalid grammar: a name in the schema is longer than {MAX_NAME}"
                    )
                if key in _COUNTS and isinstance(value, int):
                    _check_count(key, value)
                if key == "pattern" and isinstance(value, str):
                    for match in _QUANTIFIER.finditer(value):
                        for number in filter(None, match.groups()):
                            _check_count("pattern", int(number[:9]))
                todo.append(value)


def _check_count(key: str, value: int) -> None:
    if not 0 <= value <= MAX_COUNT:
        raise EngineError(
            f"invalid grammar: {key} {str(value)[:12]}: the schema takes 0 to {MAX_COUNT}"
        )


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raises `TimeoutError` in a block of Python that takes longer. For the main thread."""

    def expire(_number: int, _frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, expire)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _stderr() -> Iterator[list[str]]:
    """Gathers what is printed on stderr in the block: llama.cpp says there what is wrong with a
    grammar, followed by all of it, and the bridge's log is no place for that."""
    told: list[str] = []
    with open(os.memfd_create("stderr"), "w+b") as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield told
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            told += file.read(4096).decode("utf-8", "replace").splitlines()


def _reason(told: list[str]) -> str:
    for line in told:
        _, found, what = line.partition("error parsing grammar: ")
        if found:
            return what[:80]
    return "llama.cpp does not take it (left recursion?)"
