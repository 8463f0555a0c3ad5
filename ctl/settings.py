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
        Number("typical_p", float, 0, 1),
        Number("mirostat", int, 0, 2),
        Number("mirostat_tau", float, 0, 100),
        Number("mirostat_eta", float, 0, 1),
        Number("logprobs", int, 0, 20),
    )
}
CHOICES = {"format": ("chat", "raw"), "overflow": ("stop", "slide")}
LISTS = ("stop", "logit_bias")
"""Settings that can be given several times: the first replaces what was there, later ones add."""

MAX_STOPS = 16
MAX_STOP = 256
"""Stop strings of a session, and characters of one: each is looked for in every token."""

MAX_BIASES = 256
"""Tokens of a session with a bias."""

MAX_BIAS = 100
"""Of a logit, up or down: enough to force a token, or to keep it away while there is another."""

MAX_GRAMMAR = 65_536
"""Characters of a grammar or schema: the worker reads it for every answer."""


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
        lines += [f"logit_bias {token} {bias}" for token, bias in self.sampling.logit_bias] or [
            "logit_bias"
        ]
        lines.append(f"format {'chat' if chat else 'raw'}")
        lines.append(f"overflow {self.overflow}")
        return "".join(f"{text}\n" for text in lines).encode()

    def with_value(self, name: str, value: str, *, add: bool = False) -> Settings:
        """These settings with one changed. Raises `Error` that says what would be right.

        add: one of `LISTS` joins what is there instead of replacing it.
        """
        if name in NUMBERS:
            return self._sampling(**{name: NUMBERS[name].parse(value)})
        if name == "stop":
            stops = (*(self.sampling.stop if add else ()), *_stop(value))
            if len(stops) > MAX_STOPS:
                raise Error(f"invalid stop: there can be at most {MAX_STOPS}")
            return self._sampling(stop=stops)
        if name == "logit_bias":
            biases = dict(self.sampling.logit_bias if add else ()) | _bias(value)
            if len(biases) > MAX_BIASES:
                raise Error(f"invalid logit_bias: there can be at most {MAX_BIASES}")
            return self._sampling(logit_bias=tuple(biases.items()))
        if name in CHOICES and value not in CHOICES[name]:
            raise Error(f"invalid {name} {value[:24]!r}: it is {' or '.join(CHOICES[name])}")
        if name == "format":
            return msgspec.structs.replace(self, chat=value == "chat")
        if name == "overflow":
            return msgspec.structs.replace(self, overflow=value)
        raise Error(f"invalid setting {name[:24]!r}: reading params lists those there are")

    def with_grammar(self, text: str) -> Settings:
        """These settings with another grammar, or none if the text is blank. Raises `Error` if
        it is too long; what else is wrong with it the worker tells."""
        if len(text) > MAX_GRAMMAR:
            raise Error(f"invalid grammar: it is longer than {MAX_GRAMMAR} characters")
        return self._sampling(grammar=text if text.strip() else "")

    def without_logprobs(self) -> Settings:
        """These settings for an answer whose logprobs nobody can read."""
        return self._sampling(logprobs=0)

    def _sampling(self, **values: object) -> Settings:
        return msgspec.structs.replace(
            self, sampling=msgspec.structs.replace(self.sampling, **values)
        )


def _bias(value: str) -> dict[int, float]:
    if not value:
        return {}
    # INFER's words have no spaces: there it is logit_bias=TOKEN:BIAS.
    match = _BIAS.fullmatch(value)
    try:
        bias = float(match[2]) if match else math.nan
    except ValueError:
        bias = math.nan
    if match is None or not (abs(bias) <= MAX_BIAS or bias == -math.inf):
        raise Error(
            f"invalid logit_bias {value[:24]!r}: it takes a token's number and a bias"
            f" from -{MAX_BIAS} to {MAX_BIAS}, or -inf"
        )
    return {int(match[1]): bias}


_BIAS = re.compile(r"([0-9]{1,8})(?:\s*:\s*|\s+)(\S+)", re.ASCII)


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
        if name not in NUMBERS and name not in CHOICES and name not in LISTS:
            break
        if name in seen and name not in LISTS:
            raise Error(f"invalid: {name} is given twice")
        settings = settings.with_value(name, match[2], add=name in seen)
        seen.add(name)
        at = match.end()
    return settings, text[at:]


def split_setting(line: str) -> tuple[str, str]:
    """Name and value of a line of `params`; an empty name for an empty line."""
    name, _, value = line.strip().partition(" ")
    return name, value.strip()
