"""A worker without llama.cpp. The name of its model file says how it behaves:

steady        loads, and answers every request with its text, a character a token
slow-load     reports progress 0.5 and is never ready
refuse        cannot load the model
crash-repack  dies of SIGSEGV while loading, but only with weight repacking
crash         dies of SIGSEGV while loading
deaf          loads, and never answers nor heeds the end of its pipe
garbage       sends what is no frame
die-once      the first worker of a file dies of SIGKILL in the middle of its first answer
fragile       dies of SIGKILL when it is asked "die"
crash-again   the first worker of a file is fragile, later ones die of SIGSEGV while loading
long-steps    never ends the answer to "long"; does a step of it when it is asked "step"
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from pathlib import Path

from engine import frames
from engine.api import Usage


def main() -> None:
    sock = socket.socket(fileno=int(sys.argv[1]))
    unframer = frames.Unframer()

    def receive():
        while data := sock.recv(65536):
            yield from map(frames.unpack_command, unframer.feed(data))

    def send(*events) -> None:
        sock.sendall(frames.pack(events))

    commands = receive()
    load = next(commands)
    path = Path(load.path)
    match path.stem:
        case "slow-load":
            send(frames.Progress(0.5))
        case "refuse":
            send(frames.LoadFailed("llama.cpp does not want it"))
            return
        case "crash-repack" if load.repack:
            os.kill(os.getpid(), signal.SIGSEGV)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "crash-again" if path.with_suffix(".loaded").exists():
            os.kill(os.getpid(), signal.SIGSEGV)
        case "crash-again":
            path.with_suffix(".loaded").touch()
        case "garbage":
            sock.sendall(b"\xff\xff\xff\xff what is this")
    if path.stem != "slow-load":
        send(frames.Ready("stub", 1, "Q4_1", 100, 100, True, None))
    if path.stem == "deaf":
        threading.Event().wait()
    for command in commands:
        if isinstance(command, frames.Generate):
            text = command.request.prompt.text
            if path.stem in ("fragile", "crash-again") and text == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if path.stem == "long-steps" and text in ("long", "step"):
                step = frames.Working()
                send(frames.Admitted(command.id, 4, 0, 0.0) if text == "long" else step)
                continue
            send(frames.Admitted(command.id, len(text), 0, 0.0))
            for count, character in enumerate(text, 1):
                send(frames.Token(command.id, character, count))
                if path.stem == "die-once" and not path.with_suffix(".died").exists():
                    path.with_suffix(".died").touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            usage = Usage(prompt_tokens=len(text), completion_tokens=len(text))
            send(frames.Done(command.id, "", usage))


main()
