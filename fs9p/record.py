"""Conversations as data: every frame of every connection, one JSON object a line.

The machine-readable twin of `fs9p.TextTrace`. Frames are kept whole, so that a recorded
conversation can be held against a server again. Formatting only what was on the wire, it
says nothing of what was meant.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, BinaryIO

import trio
from py9p.messages import Message

from fs9p.peer import Peer
from fs9p.trace import Trace

if TYPE_CHECKING:
    from fs9p.connection import Connection

log = logging.getLogger("fs9p")


@dataclass(frozen=True, slots=True)
class Record:
    """A line of a recording.

    time: seconds since the recording began. connection: its number. event: ``"begin"``,
    ``"<-"`` for a frame that was received, ``"->"`` for one sent, ``"end"``. frame: those
    bytes, none for the other two. peer: who connected, where a ``"begin"`` knows it.
    """

    time: float
    connection: int
    event: str
    frame: bytes = b""
    peer: Peer | None = None


class Recorder(Trace):
    """Writes down what goes over the wire, each line at once.

    file: best without a buffer. One that cannot be written (a full disk) ends the recording,
    which is logged, and disturbs nobody.

    A line is ``{"time":1.5,"connection":3,"event":"<-","type":"Tread","tag":1,"frame":"…"}``:
    seconds since the recording began, the frame in hexadecimal; ``type`` and ``tag`` are
    for searching only.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file: BinaryIO | None = file
        self._began: float | None = None

    def connected(self, connection: Connection) -> None:
        """Note the beginning, and who it is."""
        peer = None if connection.peer is None else asdict(connection.peer)
        self._write(connection, "begin", {"peer": peer})

    def message(
        self,
        connection: Connection,
        direction: str,
        frame: bytes | bytearray,
        message: Message | None,
    ) -> None:
        """Note a frame."""
        kind = f"type {frame[4]}" if message is None else message.message_type.name.capitalize()
        tag = int.from_bytes(frame[5:7], "little")
        self._write(connection, direction, {"type": kind, "tag": tag, "frame": frame.hex()})

    def disconnected(self, connection: Connection) -> None:
        """Note the end."""
        self._write(connection, "end", {})

    def _write(self, connection: Connection, event: str, more: dict[str, object]) -> None:
        if self._file is None:
            return
        now = trio.current_time()
        self._began = now if self._began is None else self._began
        time = round(now - self._began, 6)
        line = {"time": time, "connection": connection.number, "event": event, **more}
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        try:
            if self._file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._file.flush()
        except OSError as error:
            log.error("the recording ends here: %s", error)
            self._file = None


def read_records(lines: Iterable[str | bytes]) -> Iterator[Record]:
    """What a `Recorder` has written. Raises `ValueError` for a line that is none of its own."""
    for number, line in enumerate(lines, 1):
        try:
            found = json.loads(line)
            peer = found.get("peer")
            yield Record(
                float(found["time"]),
                int(found["connection"]),
                str(found["event"]),
                bytes.fromhex(found.get("frame", "")),
                None if peer is None else Peer(**peer),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"line {number} is no record: {error!r}") from None
