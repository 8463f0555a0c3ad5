"""The sampling settings of a session: the `params` file and the ``name=value`` of INFER.

One table says what exists, in which range. Nothing of sessions or files comes in.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass

import msgspec

from engine.api import Overflow, Sampling
from fs9p import Error


@dataclass(frozen=True, slots=True)
class Number:
    """A numeric setting: what it is called, which numbers it takes."""

    name: str
    kind: type[int] | type[float]
    low: float
    high: float

    def parse(self, text: str) -> float:
        """The value, or raise `Error` with the range."""
        try:
            value = self.kind(text)
        except ValueError:
            value = math.nan
        if not self.low <= value <= self.high:
            what = "a whole number" if self.kind is int else "a number"
            raise Error(
                f"invalid {self.name} {text[:24]!r}: it takes {what} from {self.low} to {self.high}"
            )
        return value


NUMBERS = {
    number.name: number
    for number in (
        Number("max_tokens", int, 1, 1_000_000),
        Number("temperature", float, 0, 5),
        Number("top_p", float, 0, 1),
        Number("top_k", int, 0, 1_000_000),
        Number("min_p", float, 0, 1),
        Number("seed", int, -1, 2**32 - 2),
        Number("repeat_penalty", float, 0.01, 10),
        Number("presence_penalty", float, -2, 2),
        Number("frequency_penalty", float, -2, 2),
        Number("penalty_last_n", int, -1, 1_000_000),
    )
}
CHOICES = {"format": ("chat", "raw"), "overflow": ("stop", "slide")}

MAX_STOPS = 16
MAX_STOP = 256
"""Stop strings of a session, and characters of one: each is looked for in every token."""


class Settings(msgspec.Struct, frozen=True):
    """What `params` holds. chat: whether prompts go through the model's chat template;
    None: where it has one. overflow: what becomes of a conversation longer than the context."""

    sampling: Sampling = Sampling()
    chat: bool | None = None
    overflow: Overflow = "stop"

    def text(self, *, chat_template: bool) -> bytes:
        """The `params` file: every setting with its value, a line each."""
        chat = self.chat if self.chat is not None else chat_template
        lines = [f"{name} {getattr(self.sampling, name)}" for name in NUMBERS]
        # A bare `stop` clears the list, so that a saved file restores what it was made from.
        lines += [
            f"stop {json.dumps(stop, ensure_ascii=False)}" for stop in self.sampling.stop
        ] or ["stop"]
        lines.append(f"format {'chat' if chat else 'raw'}")
        lines.append(f"overflow {self.overflow}")
        return "".join(f"{text}\n" for text in lines).encode()

    def with_value(self, name: str, value: str, *, add_stop: bool = False) -> Settings:
        """These settings with one changed. Raises `Error` that says what would be right.

        add_stop: a stop string joins those that are there instead of replacing them.
        """
        if name in NUMBERS:
            number = NUMBERS[name].parse(value)
            return msgspec.structs.replace(
                self, sampling=msgspec.structs.replace(self.sampling, **{name: number})
            )
        if name == "stop":
            stops = (*(self.sampling.stop if add_stop else ()), *_stop(value))
            if len(stops) > MAX_STOPS:
                raise Error(f"invalid stop: there can be at most {MAX_STOPS}")
            return msgspec.structs.replace(
                self, sampling=msgspec.structs.replace(self.sampling, stop=stops)
            )
        if name in CHOICES and value not in CHOICES[name]:
            raise Error(f"invalid {name} {value[:24]!r}: it is {' or '.join(CHOICES[name])}")
        if name == "format":
            return msgspec.structs.replace(self, chat=value == "chat")
        if name == "overflow":
            return msgspec.structs.replace(self, overflow=value)
        raise Error(f"invalid setting {name[:24]!r}: reading params lists those there are")


def _stop(value: str) -> tuple[str, ...]:
    if not value:
        return ()
    try:
        text = msgspec.json.decode(value, type=str)
    except ValueError:
        text = ""
    if not 0 < len(text) <= MAX_STOP:
        raise Error(
            f"invalid stop {value[:24]!r}: it takes a JSON string of 1 to {MAX_STOP} characters"
        )
    return (text,)


_LEADING = re.compile(r"(\w+)=(\S+)(?:\s+|$)")


def split_leading(settings: Settings, text: str) -> tuple[Settings, str]:
    """Take known ``name=value`` words from the front of an INFER's argument.

    The first word that is none begins the prompt (``x=hello`` asks ``x=hello``). Raises
    `Error` for a known name with a value out of range, or one that is given twice.
    """
    seen: set[str] = set()
    at = 0
    while match := _LEADING.match(text, at):
        name = match[1]
        if name not in NUMBERS and name not in CHOICES and name != "stop":
            break
        if name in seen and name != "stop":
            raise Error(f"invalid: {name} is given twice")
        settings = settings.with_value(name, match[2], add_stop=name in seen)
        seen.add(name)
        at = match.end()
    return settings, text[at:]


def split_setting(line: str) -> tuple[str, str]:
    """Name and value of a line of `params`; an empty name for an empty line."""
    name, _, value = line.strip().partition(" ")
    return name, value.strip()
