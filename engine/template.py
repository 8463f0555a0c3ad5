"""A conversation through a model's chat template, with nothing in it read as a marker.

Chat templates glue messages together with special tokens as text: ``<|im_end|>`` ends a turn.
Tokenised as a whole, a message that contains that text would end its own turn and could put
words into another's mouth. Here the result is cut into spans, each to be tokenised by itself,
so that a special token's text in a message comes out as ordinary characters.

Pure: how a template is rendered, and what a tokenizer is, comes in from outside.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from engine.api import Message

Render = Callable[[list[dict[str, str]]], str]
"""Messages with the keys role and content → the text of the prompt."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the prompt. ``special``: its markers count as special tokens."""

    text: str
    special: bool


class ChatTemplate:
    """A template and the special tokens that must not be typed into it.

    control: texts of the control tokens, which nobody may type. markers: texts of those
    user-defined tokens which the template itself uses. A model writes these in its answers
    (``<think>``), so they count in an assistant's messages, and nowhere else.
    """

    def __init__(self, render: Render, *, control: Iterable[str], markers: Iterable[str]) -> None:
        self._render = render
        control = set(control)
        self._typed = {
            "assistant": _any_of(control),
            "user": _any_of(control | set(markers)),
            "system": _any_of(control | set(markers)),
        }

    def spans(self, messages: Iterable[Message]) -> list[Span]:
        """The prompt, ready for the tokenizer. Raises what the renderer raises.

        Where no message contains a special token's text, that is one span, so the tokens are
        exactly those the model was trained with.
        """
        messages = list(messages)
        opening, closing = _unused_characters(messages)
        shielded = False

        def shield(message: Message) -> dict[str, str]:
            nonlocal shielded
            content, count = self._typed[message.role].subn(
                lambda found: f"{opening}{found[0]}{closing}", message.content
            )
            shielded = shielded or count > 0
            return {"role": message.role, "content": content}

        text = self._render([shield(message) for message in messages])
        return _split(text, opening, closing) if shielded else [Span(text, special=True)]


def _any_of(texts: set[str]) -> re.Pattern[str]:
    """Matches any of the texts, the longest where several begin; never matches for none."""
    longest_first = sorted((re.escape(text) for text in texts if text), key=len, reverse=True)
    return re.compile("|".join(longest_first) or r"(?!)")


def _unused_characters(messages: list[Message]) -> tuple[str, str]:
    """Two characters that are in no message and that nobody can guess.

    From the private use area of plane 15, which no tokenizer's special tokens use.
    """
    while True:
        pair = chr(0xF0000 + secrets.randbelow(0xFFFE)), chr(0xF0000 + secrets.randbelow(0xFFFE))
        if pair[0] != pair[1] and not any(c in m.content for m in messages for c in pair):
            return pair


def _split(text: str, opening: str, closing: str) -> list[Span]:
    """Cut at the shields. A template may cut a message in two and leave half a shield (as
    those do that drop ``<think>…</think>``): a lone opening one reaches to the next shield or
    the end, which at worst leaves a marker of the template unread, never a typed one read.
    """
    spans = []
    special = True
    for part in re.split(f"([{opening}{closing}])", text):
        if part == opening:
            special = False
        elif part == closing:
            special = True
        elif special:
            spans.append(Span(part, special=True))
        else:
            # Cut once more: llama.cpp reads user-defined tokens even where special ones are
            # off, and no token is left when its first character stands alone.
            spans += [Span(part[:1], special=False), Span(part[1:], special=False)]
    return [span for span in spans if span.text]
