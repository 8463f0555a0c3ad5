"""The commands of `ctl` and of the line shim: one table, which `help` prints too.

A command gives its `Reply`, or a coroutine that will (the write that carries it is answered
then), or a `Generation` (the write is answered at once, the reply comes when it ends). It
raises `Error` or `EngineError` where it fails.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import msgspec

from ctl import loadoptions
from ctl.lines import split_words
from ctl.replies import Reply, done, failed, model_message
from ctl.session import Session
from ctl.settings import split_leading
from ctl.turn import Turn
from fs9p import Error

CANCELLED = "Inference cancelled"
"""The message of an INFER that a CANCEL ended: its sender has to know, but it is no failure."""


class Generation:
    """Answers that a command began, and how its reply is made of them."""

    def __init__(self, turns: list[Turn], reply: Callable[[list[Turn]], Reply]) -> None:
        self._turns = turns
        self._reply = reply

    async def wait(self) -> Reply:
        """The reply, once all answers have ended."""
        for turn in self._turns:
            await turn.wait_finished()
        for turn in self._turns:
            if turn.error is not None:
                return failed(turn.error)
        if any(turn.cancelled for turn in self._turns):
            return failed(CANCELLED, self._reply(self._turns).data)
        return self._reply(self._turns)


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer that is read piece by piece: in `output`, or behind the reply on the line that
    asked."""

    reply: Reply
    turn: Turn


Outcome = Reply | Coroutine[Any, Any, Reply] | Generation | Stream


@dataclass(frozen=True, slots=True)
class Command:
    """A row of the table. generates: it begins answers, as no other may, and needs the session
    to be free of running ones. interrupts: it is for what runs, and in vain afterwards."""

    verb: str
    arguments: str
    effect: str
    run: Callable[[Session, str], Outcome]
    generates: bool = False
    interrupts: bool = False


def _ping(session: Session, argument: str) -> Reply:
    return done("pong", "pong")


def _status(session: Session, argument: str) -> Reply:
    return done(model_message(session.model_status()))


def _load(session: Session, argument: str) -> Outcome:
    words = split_words(argument)
    if not words:
        raise Error("No model path provided")
    bridge, anywhere = session.bridge, session.owner.authenticated
    clustered = bridge.cluster is not None
    options = loadoptions.read(words[1:], cluster=clustered) if words[1:] else None

    async def load() -> Reply:
        given = options
        if given is not None and given.lora:
            found = [(await bridge.catalog.find(p, anywhere=anywhere), s) for p, s in given.lora]
            lora = tuple((adapter.path, scale) for adapter, scale in found)
            given = msgspec.structs.replace(given, lora=lora)
        session.loaded(await bridge.load(words[0], given, anywhere=anywhere, session=session))
        return done("Model loaded successfully")

    return load()


def _use(session: Session, argument: str) -> Reply:
    words = split_words(argument)
    if not words:
        raise Error("No model name provided")
    name = session.bridge.loaded(words[0])
    if session.bridge.model_name(name) is None:
        raise Error(f"file not found: no model {name[:48]!r} is loaded; LOAD loads one")
    session.model = name
    return done(f"Using {name}")


def _free(session: Session, argument: str) -> Outcome:
    words = split_words(argument)
    # A beginning would mean another model when it is said twice.
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
        session.ask_aside([prompt], settings),
        lambda turns: done("Inference completed", turns[0].text.decode()),
    )


def _infer_stream(session: Session, argument: str) -> Stream:
    settings, prompt = split_leading(session.settings, argument)
    if not prompt:
        raise Error("No prompt provided")
    turn = session.ask_streaming(prompt, settings)
    return Stream(done("Starting token generation"), turn)


def _infer_multi(session: Session, argument: str) -> Outcome:
    settings, text = split_leading(session.settings, argument)
    prompts = [prompt.strip() for prompt in text.split("||")]
    if not all(prompts):
        raise Error("No prompt provided")
    return Generation(
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
        raise Error("invalid: this session was not cloned; RESET forgets its conversation")
    session.bridge.sessions.end(session)
    return done("Session closed")


def _quit(session: Session, argument: str) -> Reply:
    if not session.owner.owns_bridge:
        raise Error("permission denied")
    session.bridge.quit.set()
    return done("Goodbye")


_SETTINGS = "[max_tokens=N temperature=T top_p=P …]"
_OPTIONS = " ".join(
    [f"{name}=N" for name in loadoptions.NUMBERS]
    + [f"{name}={'|'.join(words)}" for name, words in loadoptions.WORDS.items()]
    + ["lora=PATH[:SCALE]"]
)
CLUSTER_OPTIONS = " ".join(f"{name}=N" for name in loadoptions.CLUSTER)
"""What LOAD takes besides, where the engine is a cluster."""

COMMANDS = {
    command.verb: command
    for command in (
        Command("PING", "", "answers pong", _ping),
        Command("STATUS", "", "says which model is loaded", _status),
        Command("LOAD", f"path-or-name [{_OPTIONS}]", "loads a model and uses it here", _load),
        Command("USE", "name", "uses another loaded model here", _use),
        Command("FREE", "[name]", "unloads a model", _free),
        Command("INFER", f"{_SETTINGS} prompt", "one answer, in the reply", _infer, generates=True),
        Command(
            "INFER_STREAM",
            f"{_SETTINGS} prompt",
            "one answer, in output",
            _infer_stream,
            generates=True,
        ),
        Command(
            "INFER_MULTI",
            f"{_SETTINGS} p1||p2||…",
            "several at once, in the reply",
            _infer_multi,
            generates=True,
        ),
        Command("CANCEL", "", "stops the running answer", _cancel, interrupts=True),
        Command("RESET", "", "forgets the conversation", _reset),
        Command("CLOSE", "", "ends a cloned session", _close),
        Command("QUIT", "", "stops the bridge; only for its owner", _quit),
    )
}


MAX_VERB = 4096
"""Characters of an unknown verb that are repeated: `status` keeps the error."""


def find(line: str) -> tuple[Command, str]:
    """The command of a line and its argument. Raises `Error` for an unknown verb."""
    verb, _, argument = line.strip().partition(" ")
    command = COMMANDS.get(verb.upper())
    if command is None:
        raise Error(f"Unknown command: {verb[:MAX_VERB]}")
    return command, argument.strip()
