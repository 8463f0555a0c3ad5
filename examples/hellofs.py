"""A file server with fs9p: files that are read, written, and waited for.

    python examples/hellofs.py /tmp/hello/socket

and in another terminal, with plan9port's 9p (or 9pfuse, or the Linux kernel's mount):

    9p -a 'unix!/tmp/hello/socket' ls -l /
    9p -a 'unix!/tmp/hello/socket' read hello
    9p -a 'unix!/tmp/hello/socket' read news &
    echo 'there is news' | 9p -a 'unix!/tmp/hello/socket' write note

`hello` is generated text, `note` a file with contents of its own, and `news` a stream: whoever
reads it gets what is written to `note`, as it comes.
"""

from __future__ import annotations

import contextlib
import sys

import trio

import fs9p


class Note(fs9p.File):
    """A text that can be read, replaced and added to."""

    def __init__(self, name: str, path: int) -> None:
        super().__init__(name, path, 0o666)
        self.text = bytearray()
        self.changes = 0
        self.changed = trio.lowlevel.ParkingLot()

    def open(self, mode: int) -> fs9p.Handle:
        """Every open of it sees the same text."""
        return NoteHandle(self)

    def truncate(self) -> None:
        """``>`` empties it."""
        self.text.clear()


class NoteHandle(fs9p.Handle):
    """An open `Note`. Nothing in here waits, so plain values are the answers."""

    def __init__(self, note: Note) -> None:
        self.note = note

    def read(self, offset: int, count: int) -> bytes:
        """The bytes there."""
        return bytes(self.note.text[offset : offset + count])

    def write(self, offset: int, data: bytes) -> int:
        """Put bytes there; a write beyond the end would leave a hole, which is refused."""
        if offset > len(self.note.text):
            raise fs9p.Error("invalid offset: it is beyond the end")
        self.note.text[offset : offset + len(data)] = data
        self.note.changes += 1
        self.note.changed.unpark_all()
        return len(data)


class News(fs9p.File):
    """A stream of what a note becomes."""

    def __init__(self, name: str, path: int, note: Note) -> None:
        super().__init__(name, path, 0o444)
        self.note = note

    def open(self, mode: int) -> fs9p.Handle:
        """Every reader follows by himself."""
        return NewsHandle(self.note)


class NewsHandle(fs9p.Handle):
    """An open `News`. Where there is no news yet, a coroutine is the answer.

    The server runs it as a task; a Tflush (^C at the reader's terminal) cancels it.
    """

    streaming = True

    def __init__(self, note: Note) -> None:
        self.note = note
        self.seen = note.changes
        self.rest = b""

    def read(self, offset: int, count: int) -> fs9p.Reply[bytes]:
        """The text, once it has changed since this reader read it."""
        here = self.rest or self.seen != self.note.changes
        return self._text(count) if here else self._wait(count)

    async def _wait(self, count: int) -> bytes:
        while self.seen == self.note.changes:
            await self.note.changed.park()
        return self._text(count)

    def _text(self, count: int) -> bytes:
        if not self.rest:
            self.seen = self.note.changes
            self.rest = bytes(self.note.text)
        text, self.rest = self.rest[:count], self.rest[count:]
        return text


async def main(path: str) -> None:
    """Serve the three files on a unix socket until interrupted."""
    note = Note("note", 2)
    hello = fs9p.Text("hello", 1, lambda: b"hello, world\n")
    root = fs9p.Folder("/", 0, [hello, note, News("news", 3, note)])
    listener = fs9p.listen.unix(path)
    print(f"serving unix!{path}", flush=True)
    await fs9p.listen.serve(fs9p.Server(fs9p.Tree(root)), [listener])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: hellofs.py SOCKET")
    with contextlib.suppress(KeyboardInterrupt):
        trio.run(main, sys.argv[1])
