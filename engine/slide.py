"""What of a conversation fits into a context, and where it is cut when it has become too long.

Pure: how text becomes tokens comes in from outside, so that llama.cpp's tokenizer and the words
of `engine.echo` follow one rule. Scheduling must not come in.

The rule of ``overflow slide``. A question needs *room* for its answer: ``max_tokens``, but a
quarter of the context at most. Where the conversation leaves less, its oldest turns are left out,
a turn being a user's message with all that follows it; the system prompt and the question stay.
Not as few turns as would do: the rest takes half of the context at most, because with a new
beginning nothing of what was computed can be used again, and this way that happens once in many
turns. Only the turn before the question is kept as long as it fits at all.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import TypeVar

from engine.api import Chat, EngineError, Message, Raw, Request
from engine.pending import prompt_too_long

T = TypeVar("T")

BYTES_PER_TOKEN = 64
"""A prompt with more bytes than this for every token of the context is refused, or cut, before
its tokens are counted: text has about four to a token, and counting takes the worker, and with
it every other answer, a quarter of a second for a megabyte."""


def fit(
    request: Request, tokenize: Callable[[Chat | Raw], list[T]], n_ctx: int
) -> tuple[list[T], int]:
    """The tokens to begin the answer with, and how many messages were left out for them.

    n_ctx: tokens, the answer included. A conversation that is cut is tokenised again, two or
    three times as a rule. Raises `EngineError` where not even one token of an answer has room.
    """
    prompt = request.prompt
    dropped = 0
    if isinstance(prompt, Chat) and request.overflow == "slide":
        room = max(min(request.sampling.max_tokens, n_ctx // 4), 1)
        tokens, dropped = _slide(_Cut(prompt), tokenize, n_ctx, room)
    else:
        tokens = tokenize(prompt)
    if len(tokens) >= n_ctx:
        raise EngineError(f"{prompt_too_long(len(tokens), n_ctx)}; {_advice(request)}")
    return tokens, dropped


def check_bytes(request: Request, n_ctx: int) -> None:
    """Raise `EngineError` for a prompt with so many bytes that its tokens need not be counted."""
    prompt = request.prompt
    if isinstance(prompt, Raw):
        n_bytes = len(prompt.text.encode())
    else:
        cut = _Cut(prompt)
        n_bytes = cut.n_bytes(cut.starts[-1 if request.overflow == "slide" else 0])
    if n_bytes > n_ctx * BYTES_PER_TOKEN:
        raise EngineError(
            f"invalid prompt: {n_bytes} bytes; the context holds {n_ctx} tokens, "
            f"the answer included; {_advice(request)}"
        )


def check_text(text: str, n_ctx: int) -> None:
    """As `check_bytes`, for a text to embed."""
    n_bytes = len(text.encode())
    if n_bytes > n_ctx * BYTES_PER_TOKEN:
        raise EngineError(f"invalid text: {n_bytes} bytes; the model takes {n_ctx} tokens at most")


class _Cut:
    """A conversation and the places where its rest may begin.

    starts: indices of messages, ascending, none for the system prompt; the first keeps
    everything, the last only the question.
    """

    def __init__(self, chat: Chat) -> None:
        messages = chat.messages
        self._messages = messages
        self._head = int(bool(messages) and messages[0].role == "system")
        turns = (i for i, m in enumerate(messages) if m.role == "user" and i > self._head)
        self.starts = [self._head, *turns]
        self._before = [0, *accumulate(map(_n_bytes, messages))]

    def n_bytes(self, start: int) -> int:
        """Bytes of text of the system prompt and of everything from message ``start`` on."""
        return self._before[self._head] + self._before[-1] - self._before[start]

    def rest(self, start: int) -> Chat:
        """The system prompt and everything from message ``start`` on."""
        return Chat((*self._messages[: self._head], *self._messages[start:]))

    def dropped(self, start: int) -> int:
        """How many messages the rest from ``start`` on goes without."""
        return start - self._head

    def next_start(self, start: int, n_bytes: float) -> int:
        """The first start after ``start`` that leaves so many bytes at most; else the last."""
        later = (i for i in self.starts if i > start and self.n_bytes(i) <= n_bytes)
        return next(later, self.starts[-1])


def _slide(
    cut: _Cut, tokenize: Callable[[Chat | Raw], list[T]], n_ctx: int, room: int
) -> tuple[list[T], int]:
    first, last = cut.starts[0], cut.starts[-1]
    if cut.n_bytes(first) > n_ctx * BYTES_PER_TOKEN:
        first = cut.next_start(first, n_ctx * BYTES_PER_TOKEN)
    whole = tokenize(cut.rest(first))

    def shrink(limit: int) -> tuple[int, list[T]]:
        """Leave turns out until at most ``limit`` tokens are left, or only the question."""
        start, tokens = first, whole
        while len(tokens) > limit and start != last:
            # The bytes tell how far to go; the next look at the tokens corrects it.
            start = cut.next_start(start, cut.n_bytes(start) * limit / len(tokens))
            tokens = tokenize(cut.rest(start))
        return start, tokens

    if len(whole) + room <= n_ctx:
        return whole, cut.dropped(first)
    start, tokens = shrink(n_ctx // 2)
    if start == last:
        start, tokens = shrink(n_ctx - room)
    return tokens, cut.dropped(start)


def _n_bytes(message: Message) -> int:
    return len(message.content.encode())


def _advice(request: Request) -> str:
    prompt = request.prompt
    if isinstance(prompt, Chat) and request.overflow == "stop" and len(_Cut(prompt).starts) > 1:
        return "RESET, overflow slide or less text help"
    return "shorten it, or LOAD with a larger n_ctx"
