"""A gateway to no cluster, for tests of the engine in front of it: a prompt's words come back, one
a token. What the prompts below do, and at the address ``nowhere:1``, no answer does.

    python -m tests.engine.cluster.stub_gateway FOLDER ADDRESS ENGINE TIMEOUT FD

FOLDER: what happens once only leaves a file there.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from engine import Embedding, LoadOptions, ModelStatus, NodeStatus, Usage, frames
from engine.cluster import wire

DIE_FIRST = "die before a word"
"""Ends the gateway, once."""

DIE_LATE = "die after a word"
"""Ends it, each time."""

HANG = "say nothing"


class Stub:
    def __init__(self, sock: socket.socket, folder: Path) -> None:
        self.sock, self.folder = sock, folder
        self.models: dict[str, wire.Loaded] = {}
        self.seen: list[str] = []

    def tell(self, *events: wire.Event) -> None:
        self.sock.sendall(frames.pack(events))

    def run(self) -> None:
        self.tell(wire.Connected("10.0.0.1:6379"))
        self.tell_models()
        unframer = frames.Unframer()
        while data := self.sock.recv(1 << 16):
            for body in unframer.feed(data):
                self.take(wire.unpack_command(body))

    def tell_models(self) -> None:
        kept = self.folder / "models"
        if self.models:
            kept.write_text(" ".join(self.models))
        for name in kept.read_text().split() if kept.exists() else ():
            self.models.setdefault(name, loaded(wire.Load(0, name, name, LoadOptions())))
        self.tell(wire.Models(list(self.models.values())))

    def take(self, command: wire.Command) -> None:
        match command:
            case wire.Load(name="refused"):
                self.tell(wire.Result(command.number, "invalid: it is refused"))
            case wire.Load(name="endless"):
                pass
            case wire.Load():
                self.models[command.name] = loaded(command)
                self.tell_models()
                self.tell(wire.Result(command.number))
            case wire.Abandon():
                (self.folder / "abandoned").touch()
            case wire.Free():
                del self.models[command.name]
                (self.folder / "models").write_text("")
                self.tell_models()
                self.tell(wire.Result(command.number))
            case wire.Cancel():
                (self.folder / "cancelled").touch()
            case wire.Look():
                self.tell(wire.Nodes([NodeStatus("one", "10.0.0.1")]))
            case wire.Ask(request=str()):
                embedding = Embedding(1, [1.0])
                self.tell(frames.Embedded(command.id, embedding))
            case wire.Ask():
                self.answer(command)

    def answer(self, ask: wire.Ask) -> None:
        text = ask.request.prompt.messages[-1].content
        died = self.folder / "died"
        if text == DIE_FIRST and not died.exists():
            died.touch()
            sys.exit(3)
        if text == HANG:
            return
        self.tell(frames.Admitted(ask.id, 0, 0, 0.0))
        for count, word in enumerate(text.split(), 1):
            self.tell(frames.Token(ask.id, f"{word} ", count))
            if text == DIE_LATE:
                sys.exit(3)
        self.tell(frames.Done(ask.id, "", Usage(completion_tokens=len(text.split()))))


def loaded(load: wire.Load) -> wire.Loaded:
    status = ModelStatus(load.name, load.path, "ready", 1.0, engine="ray", generates=True)
    return wire.Loaded(load.path, load.options, status)


def main(folder: str, address: str, engine: str, timeout: str, fd: str) -> None:
    with socket.socket(fileno=int(fd)) as sock:
        stub = Stub(sock, Path(folder))
        if address == "nowhere:1":
            stub.tell(wire.Unreachable("i/o error: no Ray cluster at nowhere:1: refused"))
        else:
            stub.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
