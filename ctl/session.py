"""A session: one conversation, its settings, and the question it is on.

A session owns at most one turn at a time and one draft of a prompt. Whoever waits for
anything of it (text, the end of a turn, the reply to a command) parks on `Session.changed`,
and every change wakes them all: there are few, and one place to wait is one place to get right.

A prompt's way: `Draft` (text written through one open, not yet submitted) → `Turn` (running)
→ a finished turn, which stays the one `output` shows until the next begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from ctl.lines import Buffer, decode
from ctl.owner import Owner
from ctl.replies import Loading, Reply, SessionStatus, Totals, UsageReport, rounded
from ctl.settings import Settings
from ctl.turn import Turn
from engine.api import Chat, Message, ModelStatus, Raw, Request, Usage
from fs9p import Error

if TYPE_CHECKING:
    from ctl.bridge import Bridge
    from ctl.embedfile import Text

SUBMIT_AFTER = 1.0
"""Seconds after the last write to a prompt at which a waiting reader of `output` submits it:
FUSE clients clunk a file only after ``close`` has returned, and up to 43 ms late elsewhere."""


class Draft:
    """Text written to `prompt` through one open. turn: what became of it. dropped: that
    nothing will."""

    def __init__(self) -> None:
        self.text = bytearray()
        self.last_write = 0.0
        self.turn: Turn | None = None
        self.dropped = False


class CommandReply:
    """The reply to a session's last command, once there is one."""

    def __init__(self) -> None:
        self.reply: Reply | None = None


class Session:
    """One conversation. number: its name in the tree, 0 for a main session. serial: unique
    among all sessions, for qid paths. aname: the attach name that made it, if one did."""

    def __init__(
        self, bridge: Bridge, serial: int, number: int, owner: Owner, aname: str | None = None
    ) -> None:
        self.bridge = bridge
        self.serial = serial
        self.number = number
        self.owner = owner
        self.aname = aname
        self.settings = Settings()
        self.system = ""
        self.messages: list[Message] = []
        self.dropped = 0
        """Of these, the oldest, which the last question went without; so will the next one, or
        all that was computed of the rest would be in vain."""
        self._dropped_for: int | None = None
        """The `n_ctx` of the model for which that was so."""
        self.model: str | None = None
        """What it chose; None: the bridge's default."""
        self.follows_default = False
        """Whether it goes on to use the bridge's default after its own LOAD, too: to clients of
        the line protocol a bridge has one model."""
        self._loading: str | None = None
        self.draft: Draft | None = None
        self.turn: Turn | None = None
        self.asides: set[Turn] = set()
        """Answers outside the conversation that are running: INFER and INFER_MULTI."""
        self.text: Text | None = None
        """The last one written to `embed`."""
        self.texts: set[Text] = set()
        """Those whose vectors are being made."""
        self.command: CommandReply | None = None
        self.error: str | None = None
        self.request: int | None = None
        """The number of its last request."""
        self.last_usage: Usage | None = None
        self.totals = Totals()
        self.changed = trio.lowlevel.ParkingLot()
        self.followers: set[object] = set()
        """Open files that have not yet been read to the end of the answer they are on, and
        reads that wait for one."""
        self.closed = False
        self.buffer = Buffer(bridge.options.max_buffered)
        self.uses = 0
        """Open files and attaches. A session with none ages."""
        self._opens = 0
        self._idle_since = trio.current_time()

    # What it is

    def unfinished(self) -> list[Turn]:
        """The answers that are being made, the conversation's last."""
        turns = [*self.asides, *([self.turn] if self.turn is not None else [])]
        return [turn for turn in turns if not turn.finished]

    @property
    def state(self) -> str:
        """idle, queued, prefill, generating or failed."""
        if turns := self.unfinished():
            return turns[-1].state
        return "failed" if self.turn is not None and self.turn.error is not None else "idle"

    def status(self) -> SessionStatus:
        """What `status` says of it."""
        asked = sum(message.role == "user" for message in self.messages)
        return SessionStatus(
            self.number,
            self.owner.name,
            self.state,
            self.error,
            asked,
            self.dropped,
            self._load_status(),
            self.request,
        )

    def _load_status(self) -> Loading | None:
        if self._loading is None:
            return None
        status = self.bridge.engine.status(self._loading)
        return Loading(self._loading, status.progress if status is not None else 0.0)

    @contextmanager
    def showing_load(self, name: str) -> Iterator[None]:
        """The time in which a LOAD of this session waits for that model."""
        self._loading = name
        try:
            yield
        finally:
            self._loading = None

    def usage(self) -> UsageReport:
        """What `usage` says."""
        return UsageReport(self.last_usage, self.totals)

    def logprobs(self) -> bytes:
        """What `logprobs` says: of the answer that `output` shows, as far as it has come."""
        return bytes(self.turn.logprobs) if self.turn is not None else b""

    def loaded(self, name: str) -> None:
        """A LOAD of this session has come to its end: that is its model now."""
        self.model = None if self.follows_default else name

    def model_name(self) -> str | None:
        """The name of the model this session uses; None without one."""
        return self.bridge.model_name(self.model)

    def model_status(self) -> ModelStatus:
        """The model this session uses, the bridge's default where it chose none."""
        return self.bridge.model_status(self.model)

    # The conversation

    def context(self) -> list[Message]:
        """The conversation, the system prompt first if there is one."""
        return [*self._system_message(), *self.messages]

    def _system_message(self) -> list[Message]:
        return [Message("system", self.system)] if self.system else []

    def replace_context(self, messages: list[Message]) -> None:
        """Put a conversation in the place of this one. Raises `Error` while an answer runs."""
        self.check_open()
        self.check_still("change the conversation")
        limit = self.bridge.options.max_conversation
        if sum(len(message.content) for message in messages) > limit:
            raise Error(f"invalid conversation: it is longer than {limit} characters")
        has_system = bool(messages) and messages[0].role == "system"
        self.system = messages[0].content if has_system else ""
        self.messages = messages[has_system:]
        self.dropped = 0

    def reset(self) -> None:
        """Forget the conversation; the system prompt and the settings stay."""
        self.check_still("reset")
        self.messages = []
        self.dropped = 0
        self.error = None

    def fork(self, session: Session) -> None:
        """Begin where ``session`` is now."""
        self.settings = session.settings
        self.system = session.system
        self.messages = list(session.messages)
        self.dropped, self._dropped_for = session.dropped, session._dropped_for
        self.model = session.model

    def check_still(self, what: str) -> None:
        """Raise `Error` while an answer runs: it would be added to what ``what`` changes."""
        if self.unfinished():
            raise Error(f"busy: cannot {what} while an answer runs; CANCEL stops it")

    # Asking

    def check_open(self) -> None:
        """Raise `Error` if the session has ended."""
        if self.closed:
            raise Error("i/o error: this session is closed")

    def check_free(self, count: int = 1) -> str | None:
        """The model that would answer so many questions now, as `Bridge.check_ready`, or raise
        `Error` that says why none can."""
        self.check_open()
        self.bridge.check_room(count)
        if self.unfinished():
            raise Error("busy: an answer runs here; CANCEL it, or attach as new, or open clone")
        if self.draft is not None:
            raise Error("busy: another prompt is being written here; attach as new, or open clone")
        return self.bridge.check_ready(self.model)

    def write_draft(self, draft: Draft, data: bytes) -> None:
        """More of a prompt. Raises `Error`, and drops the whole prompt if it is too long."""
        if self.draft is not draft:
            self.check_free()
            self.draft = draft
        limit = self.bridge.options.max_prompt
        if len(draft.text) + len(data) > limit:
            self.discard(draft)
            raise Error(f"invalid prompt: it is longer than {limit} bytes")
        draft.text += data
        draft.last_write = trio.current_time()

    def discard(self, draft: Draft) -> None:
        """A draft that will not be submitted: too long, cancelled, or its connection is gone."""
        draft.dropped = True
        if self.draft is draft:
            self.draft = None
            self.changed.unpark_all()

    def submit(self, draft: Draft) -> Turn:
        """The draft is complete: it becomes the turn. What is wrong with it fails the turn."""
        self.draft = None
        try:
            text = decode(bytes(draft.text.removesuffix(b"\n")), "prompt")
            if not text:
                raise Error("invalid prompt: it is empty")
            draft.turn = self.ask(text)
        except Error as error:
            draft.turn = self.turn = Turn("", self.changed)
            draft.turn.fail(error.ename)
            self.error = error.ename
        return draft.turn

    def ask(self, prompt: str) -> Turn:
        """Begin the next turn of the conversation. Raises `Error` where that cannot be."""
        return self._begin(prompt, self.settings, conversation=True)

    def ask_streaming(self, prompt: str, settings: Settings) -> Turn:
        """Begin an answer outside the conversation which `output` shows."""
        return self._begin(prompt, settings, conversation=False)

    def ask_aside(self, prompts: list[str], settings: Settings) -> list[Turn]:
        """Begin answers outside the conversation which `output` does not show."""
        model = self.check_free(len(prompts))
        turns = [Turn(prompt, self.changed) for prompt in prompts]
        self.asides.update(turns)
        settings = settings.without_logprobs()
        for turn in turns:
            self._start(turn, model, settings, [], self.asides.discard)
        return turns

    def _begin(self, prompt: str, settings: Settings, *, conversation: bool) -> Turn:
        model = self.check_free()
        self.turn = turn = Turn(prompt, self.changed)
        self.error = None
        history = self.messages if conversation else []
        self._start(turn, model, settings, history, self._record if conversation else None)
        self.changed.unpark_all()
        return turn

    def _start(
        self,
        turn: Turn,
        model: str | None,
        settings: Settings,
        history: list[Message],
        ended: Callable[[Turn], None] | None,
    ) -> None:
        system, question = self._system_message(), Message("user", turn.prompt)
        turn.model = model or ""
        taken = self.bridge.requests.begin(self)

        def request(status: ModelStatus) -> Request:
            turn.chat = settings.chat if settings.chat is not None else status.chat_template
            if not turn.chat:
                return Request(Raw(turn.prompt), settings.sampling)
            if history and settings.overflow == "slide" and status.n_ctx == self._dropped_for:
                turn.dropped = self.dropped
            turn.n_ctx = status.n_ctx
            chat = Chat((*system, *history[turn.dropped :], question))
            return Request(chat, settings.sampling, settings.overflow)

        async def run() -> None:
            try:
                await turn.run(self.bridge, model, request)
            finally:
                self.bridge.turns.discard(turn)
                self.bridge.requests.answered(taken, turn)
            if turn.error is not None:
                self.error = turn.error
            if turn.usage is not None:
                self.last_usage = rounded(turn.usage)
                self.totals = self.totals.plus(turn.usage)
            if ended is not None:
                ended(turn)
            self._idle_since = trio.current_time()
            self.changed.unpark_all()

        self.bridge.turns.add(turn)
        self.bridge.start(run)

    def _record(self, turn: Turn) -> None:
        # A failed turn leaves the conversation as it was, so that asking again is asking the same.
        if turn.error is None and turn.chat:
            self.dropped, self._dropped_for = turn.dropped, turn.n_ctx
            self.messages.append(Message("user", turn.prompt))
            if turn.text:
                self.messages.append(Message("assistant", turn.text.decode()))
            limit = self.bridge.options.max_conversation
            if sum(len(message.content) for message in self.messages) > limit:
                del self.messages[: self.dropped]
                self.dropped = 0

    def cancel(self) -> list[Turn]:
        """Stop the answers that are being made, and drop what is being written; which answers."""
        turns = self.unfinished()
        if self.draft is not None:
            self.discard(self.draft)
        for turn in turns:
            turn.cancel()
        return turns

    # Its life

    def acquire(self) -> None:
        """A file of it was opened, or an attach made."""
        self.uses += 1
        self._opens += 1

    @property
    def unused(self) -> bool:
        """Whether it was cloned, the clone closed, and no other file of it ever opened."""
        return self._opens == 1 and not self.uses and self.command is None and self.aname is None

    def release(self) -> None:
        """That file or attach is gone."""
        self.uses -= 1
        self._idle_since = trio.current_time()

    def idle(self) -> float:
        """Seconds since anybody used it; 0 while it is in use or an answer runs."""
        if self.uses or self.unfinished():
            return 0.0
        return trio.current_time() - self._idle_since

    async def until(self, ready: Callable[[], bool]) -> None:
        """Wait until there is what somebody reads. A bridge that ends waits for that too."""
        follower = object()
        self.followers.add(follower)
        try:
            while not ready():
                await self.changed.park()
        finally:
            self.unfollow(follower)

    def unfollow(self, handle: object) -> None:
        """That file is at the end of its answer."""
        self.followers.discard(handle)
        self.changed.unpark_all()

    def close(self) -> None:
        """End it: its answers stop, its files are gone."""
        self.closed = True
        self.cancel()
        for text in self.texts:
            text.cancel()
        self.changed.unpark_all()
