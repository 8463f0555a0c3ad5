"""The commands of `ctl` and of the line shim: one table, which `help` prints too.

A command gives its `Reply`, or a coroutine that will (the write that carries it is answered
then), or a `Generation` (the write is answered at once, the reply comes when it ends). It
raises `Error` or `EngineError` where it fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from ctl.bridge import model_message
from ctl.lines import split_words
from ctl.replies import Reply, done, failed
from ctl.session import Session
from ctl.settings import split_leading
from ctl.turn import Turn
from engine.api import LoadOptions
from fs9p import Error

CANCELLED = "Inference cancelled"
"""The message of an INFER that a CANCEL ended: its sender has to know, but it is no failure."""


class Generation:
    """Answers that a command began, and how its reply is made of them."""

    def __init__(
        self, session: Session, turns: list[Turn], reply: Callable[[list[Turn]], Reply]
    ) -> None:
        self._session = session
        self._turns = turns
        self._reply = reply

    async def wait(self) -> Reply:
        """The reply, once all answers have ended."""
        while not all(turn.finished for turn in self._turns):
            await self._session.changed.park()
        for turn in self._turns:
            if turn.error is not None:
                return failed(turn.error)
        if any(turn.cancelled for turn in self._turns):
            return failed(CANCELLED, self._reply(self._turns).data)
        return self._reply(self._turns)


Outcome = Reply | Coroutine[Any, Any, Reply] | Generation


@dataclass(frozen=True, slots=True)
class Command:
    """A row of the table. generates: it needs the session to be free of running answers."""

    verb: str
    arguments: str
    effect: str
    run: Callable[[Session, str], Outcome]
    generates: bool = False


def _ping(session: Session, argument: str) -> Reply:
    return done("pong", "pong")


def _status(session: Session, argument: str) -> Reply:
    return done(model_message(session.model_status()))


_LOAD_RANGES = {
    "n_ctx": (0, 1 << 24),
    "n_seq": (1, 256),
    "n_batch": (32, 1 << 16),
    "n_threads": (0, 1024),
    "n_gpu_layers": (-1, 1 << 16),
    "use_mmap": (0, 1),
}


_WHOLE = re.compile(r"-?[0-9]{1,9}")


def _load_options(words: list[str]) -> LoadOptions:
    values: dict[str, int | bool] = {}
    for word in words:
        name, _, text = word.partition("=")
        if name not in _LOAD_RANGES:
            known = " ".join(_LOAD_RANGES)
            raise Error(f"invalid option {word[:24]!r}: those of LOAD are {known}")
        low, high = _LOAD_RANGES[name]
        if not _WHOLE.fullmatch(text) or not low <= int(text) <= high:
            raise Error(
                f"invalid {name} {text[:24]!r}: it takes a whole number from {low} to {high}"
            )
        values[name] = bool(int(text)) if name == "use_mmap" else int(text)
    return LoadOptions(**values)  # type: ignore[arg-type]


def _load(session: Session, argument: str) -> Outcome:
    words = split_words(argument)
    if not words:
        raise Error("No model path provided")
    options = _load_options(words[1:]) if words[1:] else None

    async def load() -> Reply:
        anywhere = session.owner.authenticated
        session.model = await session.bridge.load(
            words[0], options, anywhere=anywhere, session=session
        )
        return done("Model loaded successfully")

    return load()


def _use(session: Session, argument: str) -> Reply:
    words = split_words(argument)
    if not words:
        raise Error("No model name provided")
    name = words[0]
    if session.bridge.model_name(name) is None:
        raise Error(f"file not found: no model {name[:48]!r} is loaded; LOAD loads one")
    session.model = name
    return done(f"Using {name}")


def _free(session: Session, argument: str) -> Outcome:
    words = split_words(argument)
    name = words[0] if words else session.model_name()
    freed = done("Resources freed")
    if name is None:
        return freed

    async def free() -> Reply:
        await session.bridge.free(name)
        session.model = None if session.model == name else session.model
        return freed

    return free()


def _infer(session: Session, argument: str) -> Outcome:
    settings, prompt = split_leading(session.settings, argument)
    if not prompt:
        raise Error("No prompt provided")
    return Generation(
        session,
        session.ask_aside([prompt], settings),
        lambda turns: done("Inference completed", turns[0].text.decode()),
    )


def _infer_stream(session: Session, argument: str) -> Outcome:
    settings, prompt = split_leading(session.settings, argument)
    if not prompt:
        raise Error("No prompt provided")
    session.ask_streaming(prompt, settings)
    return done("Starting token generation")


def _infer_multi(session: Session, argument: str) -> Outcome:
    settings, text = split_leading(session.settings, argument)
    prompts = [prompt.strip() for prompt in text.split("||")]
    if not all(prompts):
        raise Error("No prompt provided")
    return Generation(
        session,
        session.ask_aside(prompts, settings),
        lambda turns: done("Multi-inference completed", [turn.text.decode() for turn in turns]),
    )


def _cancel(session: Session, argument: str) -> Outcome:
    draft = session.draft
    turns = session.cancel()
    if not turns:
        return done("Nothing to cancel" if draft is None else "Cancelled")

    async def stopped() -> Reply:
        # Told when it is so: a question that follows at once must not find the session busy.
        await session.until(lambda: all(turn.finished for turn in turns))
        return done("Cancelled")

    return stopped()


def _reset(session: Session, argument: str) -> Reply:
    session.reset()
    return done("Conversation reset")


def _close(session: Session, argument: str) -> Reply:
    if not session.number:
        raise Error("invalid: the main session cannot be closed; RESET forgets its conversation")
    session.bridge.end_session(session)
    return done("Session closed")


def _quit(session: Session, argument: str) -> Reply:
    if not session.owner.owns_bridge:
        raise Error("permission denied")
    session.bridge.quit.set()
    return done("Goodbye")


_SETTINGS = "[max_tokens=N temperature=T top_p=P …]"
_OPTIONS = " ".join(f"{name}=N" for name in _LOAD_RANGES)

COMMANDS = {
    command.verb: command
    for command in (
        Command("PING", "", "answers pong", _ping),
        Command("STATUS", "", "says which model is loaded", _status),
        Command("LOAD", f"path-or-name [{_OPTIONS}]", "loads a model and uses it here", _load),
        Command("USE", "name", "uses another loaded model here", _use),
        Command("FREE", "[name]", "unloads a model", _free),
        Command("INFER", f"{_SETTINGS} prompt", "one answer, in the reply", _infer, True),
        Command(
            "INFER_STREAM", f"{_SETTINGS} prompt", "one answer, in output", _infer_stream, True
        ),
        Command(
            "INFER_MULTI",
            f"{_SETTINGS} p1||p2||…",
            "several at once, in the reply",
            _infer_multi,
            True,
        ),
        Command("CANCEL", "", "stops the running answer", _cancel),
        Command("RESET", "", "forgets the conversation", _reset),
        Command("CLOSE", "", "ends a cloned session", _close),
        Command("QUIT", "", "stops the bridge; only for its owner", _quit),
    )
}


def find(line: str) -> tuple[Command, str]:
    """The command of a line and its argument. Raises `Error` for an unknown verb."""
    verb, _, argument = line.strip().partition(" ")
    command = COMMANDS.get(verb.upper())
    if command is None:
        raise Error(f"Unknown command: {verb[:60]}")
    return command, argument.strip()
