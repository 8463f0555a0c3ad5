"""`params`, `system`, `grammar` and `context`: what a session is set to.

Each write takes effect at once.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from functools import partial

from ctl import replies
from ctl.handle import Generated
from ctl.lines import Lines, decode
from ctl.session import Session
from ctl.settings import LISTS, split_setting
from engine.api import Message
from fs9p import Error


class LineSetting(Generated):
    """A setting that is written in lines."""

    def __init__(self, session: Session, generate: Callable[[], bytes]) -> None:
        super().__init__(session, generate)
        self._lines = Lines(session.bridge.options.max_prompt, session.buffer)

    def apply(self, lines: list[bytes]) -> None:
        """Take these lines: all of them, or raise `Error` and take none."""
        raise NotImplementedError

    def write(self, offset: int, data: bytes) -> int:
        """Take the lines that these bytes complete."""
        self.session.check_open()
        try:
            self.apply(self._lines.feed(data))
        except Error as error:
            raise self.note(error) from None
        return len(data)

    def close(self) -> None:
        """Take a last line without an end. A clunk cannot fail: `status` tells what is wrong."""
        try:
            self.apply(self._lines.rest())
        except Error as error:
            self.note(error)
        super().close()

    def hangup(self) -> None:
        """A line without an end from a lost connection is not taken."""
        self._lines.rest()
        super().close()


class Params(LineSetting):
    """`params`: a line ``name value`` changes that setting."""

    def __init__(self, session: Session) -> None:
        super().__init__(session, partial(_params, session))
        self._added: frozenset[str] = frozenset()
        """The lists this open has written to: the first line of each replaces, later ones add."""

    def apply(self, lines: list[bytes]) -> None:
        """Change the settings."""
        settings = self.session.settings
        added = self._added
        for line in lines:
            name, value = split_setting(decode(line, "params"))
            if name:
                settings = settings.with_value(name, value, add=name in added)
                added |= {name} if name in LISTS else set()
        self.session.settings, self._added = settings, added


def _params(session: Session) -> bytes:
    model = session.model_status()
    # Of a model that was never loaded nothing is known, and a saved `format raw` would stick to
    # the session when it is put back.
    chat_template = model.chat_template or model.architecture is None
    return session.settings.text(chat_template=chat_template)


class Context(LineSetting):
    """`context`: the conversation, a JSON message a line. The first write of an open replaces."""

    def __init__(self, session: Session) -> None:
        super().__init__(session, lambda: replies.conversation(session.context()))
        self._messages: list[Message] = []
        self._count = 0

    def apply(self, lines: list[bytes]) -> None:
        """Put these messages, behind those this open has written, in the conversation's place."""
        if not lines:
            return
        messages = list(self._messages)
        for number, line in enumerate(lines, self._count + 1):
            if line.strip():
                messages.append(_message(line, number, first=not messages))
        self.session.replace_context(messages)
        self._messages = messages
        self._count += len(lines)


class TextSetting(Generated):
    """A setting that is one text. The first write of an open replaces, later ones append."""

    name: str

    def __init__(self, session: Session, generate: Callable[[], bytes]) -> None:
        super().__init__(session, generate)
        self._text = ""
        # A character that the client's message size cut is whole after its next write.
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def apply(self, text: str) -> None:
        """Take this text, or raise `Error` and keep what was there."""
        raise NotImplementedError

    def write(self, offset: int, data: bytes) -> int:
        """Take the text with this behind it, from the next question on."""
        self.session.check_open()
        try:
            text = self._text + self._decoder.decode(data)
        except UnicodeDecodeError:
            raise self.note(Error(f"invalid {self.name}: it is not UTF-8")) from None
        try:
            self.apply(text)
        except Error as error:
            raise self.note(error) from None
        self._text = text
        return len(data)


class System(TextSetting):
    """`system`: the system prompt. One trailing newline is dropped."""

    name = "system prompt"

    def __init__(self, session: Session) -> None:
        super().__init__(session, lambda: f"{session.system}\n".encode() if session.system else b"")

    def apply(self, text: str) -> None:
        """Set the system prompt."""
        limit = self.session.bridge.options.max_prompt
        if len(text) > limit:
            raise Error(f"invalid system prompt: it is longer than {limit} characters")
        self.session.system = text.removesuffix("\n")


class Grammar(TextSetting):
    """`grammar`: GBNF, or a JSON schema. It is passed down as it stands: llama.cpp's converter and
    parser are in the worker, and only there a half that waits for the next write is not told from
    a mistake before somebody asks."""

    name = "grammar"

    def __init__(self, session: Session) -> None:
        super().__init__(session, lambda: session.settings.sampling.grammar.encode())

    def apply(self, text: str) -> None:
        """Set the grammar; a blank text clears it."""
        self.session.settings = self.session.settings.with_grammar(text)


def _message(line: bytes, number: int, *, first: bool) -> Message:
    try:
        message = replies.read_message(line)
    except (ValueError, RecursionError) as error:
        raise Error(f"invalid line {number}: {error}") from None
    if message.role == "system" and not first:
        raise Error(f"invalid line {number}: a system message can only be the first")
    return message
