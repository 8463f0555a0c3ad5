"""One conversation over one connection, 9P or HTTP, and many of them followed by one thread.

What a client does before its user presses return (connect, settings, the template) is
`prepare`, and outside of the clock; `send` starts it. Both kinds leave reading to `follow`,
which stamps what comes and does little else: the processors belong to the servers.
"""

from __future__ import annotations

import json
import selectors
import socket
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from py9p.constants import IOHDRSZ, OREAD, OWRITE
from py9p.messages import Rerror, Rread, Tclunk, Tread, Twrite

from benchmarks.clients import DEADLINE, Closed, Wire
from fs9p import Error, Framer, decode, encode

COUNT = 64 << 10
"""Bytes a Tread asks for."""

MSIZE = COUNT + IOHDRSZ


@dataclass
class Answer:
    """Times are of `time.perf_counter`. reason: length, stop or what else the server says."""

    sent: float
    arrivals: list[float] = field(default_factory=list)
    text: bytes = b""
    ended: float | None = None
    tokens: int = 0
    prompt_tokens: int = 0
    reason: str = ""

    @property
    def first(self) -> float:
        """Seconds to the first token."""
        return self.arrivals[0] - self.sent

    @property
    def end(self) -> float:
        """When it ended. Raises ValueError if it has not."""
        if self.ended is None:
            raise ValueError("the answer has not ended")
        return self.ended


class Session(Closed):
    """A conversation; `answer` is the one to the question sent last."""

    socket: socket.socket
    answer: Answer

    @abstractmethod
    def prepare(self, question: str, tokens: int, system: str = "") -> None:
        """Everything that can be done before the question is sent."""

    def send(self) -> None:
        """Send it; the clock of its answer runs."""
        self.answer = Answer(time.perf_counter())
        self.socket.sendall(self._request())

    @abstractmethod
    def _request(self) -> bytes: ...

    @abstractmethod
    def take(self, data: bytes, now: float) -> None:
        """What has come. Raises what is wrong with it."""

    @abstractmethod
    def settle(self) -> None:
        """After the end: the counts of the answer, which must disturb nobody's clock."""


def follow(sessions: Iterable[Session], enough: Callable[[], bool] = lambda: False) -> None:
    """Read until every answer has ended, or there is enough. Raises TimeoutError."""
    with selectors.DefaultSelector() as selector:
        for session in sessions:
            if session.answer.ended is None:
                selector.register(session.socket, selectors.EVENT_READ, session)
        while selector.get_map() and not enough():
            if not (ready := selector.select(DEADLINE)):
                raise TimeoutError(f"no answer went on for {DEADLINE:g} s")
            for key, _ in ready:
                data = key.data.socket.recv(1 << 16)
                key.data.take(data, time.perf_counter())
                if key.data.answer.ended is not None:
                    selector.unregister(key.fileobj)


def ask_together(sessions: list[Session]) -> list[Answer]:
    """Send what was prepared on all of them at once; the answers, when all have ended."""
    for session in sessions:
        session.send()
    follow(sessions)
    for session in sessions:
        session.settle()
    return [session.answer for session in sessions]


PROMPT, OUTPUT, OTHER = 1, 2, 3
"""Fids."""

WRITE, CLUNK, READ = 1, 2, 3
"""Tags."""


class Mounted(Session):
    """A session of the bridge, attached as `new`: what a mount of its own is."""

    def __init__(self, address: str) -> None:
        self._wire = Wire(address)
        self._wire.attach("new", msize=MSIZE)
        self.socket = self._wire.socket
        self._system = ""
        self._question = b""
        self._framer = Framer(1 << 20)

    def close(self) -> None:
        """Hang up, which ends the session."""
        self._wire.close()

    def prepare(self, question: str, tokens: int, system: str = "") -> None:
        """Settings, and `prompt` and `output` open, as a program has them."""
        self._wire.write(OTHER, "params", f"temperature 0\nmax_tokens {tokens}\n".encode())
        if system != self._system:
            self._wire.write(OTHER, "system", system.encode())
            self._system = system
        self._wire.open(PROMPT, "prompt", int(OWRITE))
        self._wire.open(OUTPUT, "output", int(OREAD))
        self._question = question.encode()

    def _request(self) -> bytes:
        return (
            encode(Twrite(PROMPT, self._question, 0, WRITE))
            + encode(Tclunk(PROMPT, CLUNK))
            + encode(Tread(OUTPUT, 0, COUNT, READ))
        )

    def take(self, data: bytes, now: float) -> None:
        """Replies; one with text is answered with the next Tread at once."""
        if not data:
            raise EOFError("the bridge has hung up")
        self._framer.feed(data)
        while (frame := self._framer.next_frame()) is not None:
            reply = decode(frame)
            if isinstance(reply, Rerror):
                raise Error(reply.ename)
            if not isinstance(reply, Rread):
                continue
            if not reply.data:
                self.answer.ended = now
                return
            self.answer.text += reply.data
            self.answer.arrivals.append(now)
            self.socket.sendall(encode(Tread(OUTPUT, len(self.answer.text), COUNT, READ)))

    def settle(self) -> None:
        """Read `usage`."""
        self._wire.ask(Tclunk(OUTPUT))
        self._wire.open(OTHER, "usage")
        last = json.loads(self._wire.whole(OTHER))["last"]
        self._wire.ask(Tclunk(OTHER))
        self.answer.tokens = last["completion_tokens"]
        self.answer.prompt_tokens = last["prompt_tokens"]
        self.answer.reason = last["finish_reason"]


Render = Callable[[list[dict[str, str]]], str]
"""Messages through the model's chat template, by llama-server's own /apply-template."""


GREEDY: dict[str, object] = {"temperature": 0}
"""How llama-server is asked to sample: as people do."""


class Posted(Session):
    """A conversation with llama-server, which the client keeps and sends as a whole each time.

    Through its native /completion with the prompt rendered beforehand: of its two ways this is
    the cheaper one, it neither renders nor parses a chat for each request. Of the last event it
    is asked for what is needed only.
    """

    def __init__(
        self, port: int, render: Render, sampling: dict[str, object] | None = None
    ) -> None:
        self._port = port
        self._render = render
        self._sampling = sampling or GREEDY
        self._messages: list[dict[str, str]] = []
        self._body = b""
        self._stream = EventStream()

    def close(self) -> None:
        """Hang up."""
        if hasattr(self, "socket"):
            self.socket.close()

    def prepare(self, question: str, tokens: int, system: str = "") -> None:
        """Render the conversation, and connect: an idle connection is closed after 5 s."""
        if system and not self._messages:
            self._messages.append({"role": "system", "content": system})
        self._messages.append({"role": "user", "content": question})
        self._body = json.dumps(
            {
                "prompt": self._render(self._messages),
                "stream": True,
                "n_predict": tokens,
                **self._sampling,
                "response_fields": ["stop", "stop_type", "tokens_predicted", "tokens_evaluated"],
            }
        ).encode()
        self.close()
        self.socket = socket.create_connection(("127.0.0.1", self._port), DEADLINE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = EventStream()

    def _request(self) -> bytes:
        head = (
            "POST /completion HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(self._body)}\r\n\r\n"
        )
        return head.encode() + self._body

    def take(self, data: bytes, now: float) -> None:
        """Events; the last one has the counts."""
        if not data:
            raise EOFError("llama-server has hung up")
        for body in self._stream.feed(data):
            event = json.loads(body)
            if "error" in event:
                raise OSError(f"llama-server: {event['error']}")
            if event["stop"]:
                self.answer.ended = now
                self.answer.tokens = event["tokens_predicted"]
                self.answer.prompt_tokens = event["tokens_evaluated"]
                self.answer.reason = {"eos": "stop", "limit": "length"}[event["stop_type"]]
                return
            self.answer.text += event["content"].encode()
            self.answer.arrivals.append(now)

    def settle(self) -> None:
        """The conversation goes on from the answer."""
        self._messages.append({"role": "assistant", "content": self.answer.text.decode()})


class EventStream:
    """An HTTP/1.1 reply that streams server-sent events in chunks: bytes in, events out.

    Follows RFC 9112 section 7.1 as far as llama-server goes: no trailers, no chunk extensions.
    """

    def __init__(self) -> None:
        self._raw = b""
        self._headers = True
        self._text = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The data of each event that is complete now. Raises OSError for a status but 200."""
        self._raw += data
        if self._headers:
            head, found, rest = self._raw.partition(b"\r\n\r\n")
            if not found:
                return
            if head.split(None, 2)[1] != b"200":
                raise OSError(f"llama-server: {(head + rest).decode(errors='replace')}")
            self._headers, self._raw = False, rest
        self._unchunk()
        while True:
            event, found, rest = self._text.partition(b"\n\n")
            if not found:
                return
            self._text = rest
            if event.startswith(b"data: "):
                yield event.removeprefix(b"data: ")

    def _unchunk(self) -> None:
        while True:
            size, found, rest = self._raw.partition(b"\r\n")
            if not found or len(rest) < int(size, 16) + 2:
                return
            self._text += rest[: int(size, 16)]
            self._raw = rest[int(size, 16) + 2 :]
