"""TOML as it is written; the standard library only reads it. Source: toml.io, v1.0.0."""

from __future__ import annotations

import json
import re

_BARE_KEY = re.compile("[A-Za-z0-9_-]+")


def value(of: object) -> str:
    """A value on one line: text, numbers, truths, dates, and lists of them.

    Raises `ValueError` for text that is no Unicode, such as a path with a stray byte.
    """
    if isinstance(of, bool):
        return str(of).lower()
    if isinstance(of, str):
        of.encode()
        # JSON leaves raw what TOML and terminals do not: DEL and what else does not print.
        return "".join(map(_visible, json.dumps(of, ensure_ascii=False)))
    if isinstance(of, list):
        return f"[{', '.join(map(value, of))}]"
    return str(of)


def key(name: str) -> str:
    """A key, in quotes where it needs them."""
    return name if _BARE_KEY.fullmatch(name) else value(name)


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
