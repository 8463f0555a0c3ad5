"""A whole bridge on the echo engine, for the hostile clients of `tests.fs9p.hostile`."""

from __future__ import annotations

from contextlib import asynccontextmanager

from trio.testing import wait_all_tasks_blocked

import engine
from ctl.bridge import Bridge, Options
from ctl.catalog import AnyName
from ctl.namespace import Llambo

OPTIONS = Options(
    session_ttl=600,
    max_sessions=12,
    max_prompt=5000,
    max_answers=6,
    max_conversation=3000,
    max_buffered=9000,
)

NAMES = (
    "ctl", "prompt", "output", "params", "context", "clone", "1", "models", "system",
    "usage", "model", "status", "help", "embed", "2", "3", "echo", "..", "0", "01", "m.gguf", "b",
    "9" * 18, "x" * 190, "", ".", "/", "models/echo", "\U0001f480", "new", "grammar", "logprobs",
)  # fmt: skip
ANAMES = ("", "new", "talk", "1", "0", "2", "nobody", "9" * 18, "a" * 65, "a" * 180, "/", " ")

COMMANDS = (
    "PING\n", "STATUS\nPING\n", "LOAD /m/b.gguf\n", "LOAD b n_ctx=8\n", "LOAD /\n", "LOAD ''\n",
    "LOAD 'it''s'\n", "LOAD x n_ctx=--5\n", "LOAD\n", "LOAD " + "l" * 150 + "\n", "LOAD a\0b\n",
    "LOAD a\u2028b\n", "LOAD ..\n", "FREE\n", "FREE b\n", "FREE echo\n", "USE b\n", "USE\n",
    "LOAD tiny n_ctx=9\n",
    "LOAD echo\n", "LOAD echo\nINFER a b c d e f g\n", "LOAD echo\nINFER_STREAM hello\n",
    "INFER one two\n", "INFER\n", "INFER max_tokens=1 one two\n", "INFER a\nINFER b\nINFER c\n",
    "INFER_STREAM one two three\n", "INFER_MULTI a||b||c\n", "INFER_MULTI a||||b\n",
    "INFER_MULTI a||b||c||d||e||f||g\n", "INFER stop=[ x\n", "INFER_STREAM temperature=nan x\n",
    "CANCEL\n", "RESET\n", "CLOSE\n", "CANCEL\nCLOSE\nPING\n", "QUIT\n", "FROB\n", "ping",
    "PING\0\n", b"\xff\xfe\n", b"PING \xc3", "P" * 180, "LOAD " + "'" * 60, "\n", "",
    "INFER_STREAM one\nCANCEL\nINFER two\nCLOSE\n", b"INFER " + b"x" * 4200, b"\n" * 4200,
)  # fmt: skip
SETTINGS = (
    "max_tokens 3\n", "max_tokens 1e9\n", "temperature 0.5\ntop_p 2\n", "stop the\nstop end\n",
    "chat off\n", "chat on\n", "chat", "seed -1\n", "nonsense\n", "temperature inf\n",
    "overflow slide\n", "overflow\n",
    "stop \"\\ud800\"\n", "max_tokens 2", b"\xff\n", "stop " + "s" * 150, b"v" * 4096,
)  # fmt: skip
MESSAGES = (
    '{"role":"user","content":"hi"}\n', '{"role":"system","content":"be brief"}\n',
    '{"role":"assistant","content":"x"}', '{"role":"user"', "[" * 180, "{}\n", "null\n", "\n",
    '{"role":"user","content":"\\ud800"}\n', '{"role":7,"content":[]}\n', b"{" * 4096,
    '{"role":"user","content":"' + "c" * 3900 + '"}\n',
)  # fmt: skip
PROMPTS = (
    "", "\n", "hello", "hello there\n", " ", "one two three four five six seven eight\n",
    b"w " * 2100, b"\xff", "nul\0byte", "\u2028", "\U0001f480",
)  # fmt: skip


def _raw(texts):
    return tuple(text if isinstance(text, bytes) else text.encode() for text in texts)


def _scenes(at):
    return (
        (f"{at}ctl", 2, _raw(COMMANDS)),
        (f"{at}ctl", 1, _raw(COMMANDS)),
        (f"{at}prompt", 2, _raw(PROMPTS)),
        (f"{at}prompt", 1, _raw(PROMPTS)),
        (f"{at}output", 0, ()),
        (f"{at}output", 0, ()),
        (f"{at}embed", 2, _raw(PROMPTS)),
        (f"{at}embed", 1, _raw(PROMPTS)),
        (f"{at}params", 2, _raw(SETTINGS)),
        (f"{at}system", 0x12, _raw(PROMPTS)),
        (f"{at}context", 2, _raw(MESSAGES)),
        (f"{at}context", 0x11, _raw(MESSAGES)),
        (f"{at}clone", 2, _raw(COMMANDS)),
        (f"{at}clone", 0, ()),
        (f"{at}status", 0, ()),
        (f"{at}usage", 0, ()),
    )


SCENES = (
    *_scenes(""),
    *_scenes("1/"),
    *_scenes("2/"),
    ("models", 0, ()),
    ("models/echo", 0, ()),
    ("help", 0, ()),
    ("1", 0, ()),
)


class HostileBridge(Llambo):
    """The bridge of one conversation. See `HostileWorld` for what a conversation asks of it."""

    names = NAMES
    anames = ANAMES
    texts = _raw(COMMANDS + PROMPTS + SETTINGS + MESSAGES)
    scenes = SCENES
    loggers = ("fs9p", "llambo", "trio")
    endless = True
    bugs = 0

    def __init__(self, bridge, clock):
        super().__init__(bridge)
        self.bridge = bridge
        self.clock = clock
        self.violations = []
        self.msize = self.requests = 0

    @classmethod
    @asynccontextmanager
    async def alive(cls, clock):
        async with engine.create("echo:4") as inference:
            bridge = Bridge(inference, AnyName([]), OPTIONS)
            async with bridge.running():
                await bridge.load("echo", anywhere=True)
                yield cls(bridge, clock)

    def nudge(self, number):
        """A token or some are made."""
        self.clock.jump((0.01, 0.26, 0.6, 3)[number % 4])

    def settle(self):
        return False

    def running_for_nobody(self):
        return 0

    async def left(self):
        """What is alive and should not be, once nobody has come back for long enough."""
        wrong = {}
        for session in self.bridge.sessions:
            if session.uses:
                wrong[f"session {session.number} in use"] = session.uses
            if session.draft is not None and session.draft.text:
                wrong[f"session {session.number} draft"] = bytes(session.draft.text)
            if session.buffer._used:
                wrong[f"session {session.number} unfinished lines"] = session.buffer._used
        for _ in range(3):
            self.clock.jump(OPTIONS.session_ttl)
            await wait_all_tasks_blocked()
        for session in self.bridge.sessions:
            if session.number or not session.owner.authenticated:
                wrong[f"session {session.number}"] = session.owner
            if session.unfinished() or session.followers:
                wrong[f"session {session.number} answers"] = session.state
        if self.bridge.texts:
            wrong["texts"] = len(self.bridge.texts)
        return wrong
