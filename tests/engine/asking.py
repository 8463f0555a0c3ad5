"""What the tests of this room ask with."""

from __future__ import annotations

from dataclasses import dataclass, field

import psutil

from engine import Chat, Engine, EngineError, Message, Raw, Request, Sampling, TokenLogprob, Usage


def chat(text: str, **sampling) -> Request:
    return Request(Chat((Message("user", text),)), Sampling(**sampling))


def raw(text: str, **sampling) -> Request:
    return Request(Raw(text), Sampling(**sampling))


@dataclass
class Heard:
    """What one answer came to."""

    pieces: list[str]
    usage: Usage | None
    error: str | None
    logprobs: list[TokenLogprob] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces)


async def hear(engine: Engine, name: str, request: Request) -> Heard:
    """Ask and listen to the end."""
    pieces: list[str] = []
    error = None
    logprobs: list[TokenLogprob] = []
    async with engine.generate(name, request) as answer:
        try:
            async for piece in answer:
                pieces.append(piece)
                logprobs += answer.take_logprobs()
        except EngineError as failure:
            error = str(failure)
    logprobs += answer.take_logprobs()
    return Heard(pieces, answer.usage, error, logprobs)


def workers() -> list[psutil.Process]:
    """The processes this one started and that are still there."""
    return [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
