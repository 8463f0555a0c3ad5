"""From arbitrary bytes to frames that nobody sane would send, and some that one would.

Every byte string means something, and a small change to it changes little: this is what a
fuzzer needs to get anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator

from py9p.constants import NOFID, NOTAG
from py9p.messages import (
    Dir,
    Message,
    Qid,
    Tattach,
    Tauth,
    Tclunk,
    Tcreate,
    Tflush,
    Topen,
    Tread,
    Tremove,
    Tstat,
    Tversion,
    Twalk,
    Twrite,
    Twstat,
)

from fs9p import Dialect, encode, encode_dir
from fs9p.messages import TattachU
from fs9p.permissions import DONT_TOUCH
from tests.fs9p.hostile.replies import Expectations, Use

FIDS = (0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 99, NOFID, NOFID - 1, 1 << 31)
COUNTS = (0, 1, 9, 10, 60, 100, 232, 4096, 8168, 8169, 1 << 17, 1 << 20, 1 << 31, NOFID, 1, 128)
OFFSETS = (
    0, 0, 0, 0, 1, 2, 3, 7, 60, 8192, 1 << 31, 1 << 32,
    (1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) - 8192,
)  # fmt: skip
MODES = (
    0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 2, 3, 0x08, 0x10, 0x11, 0x12, 0x20, 0x40, 0x80, 0x81, 0x82,
    0x91, 0x92, 0xFF,
)  # fmt: skip
MSIZES = (8192, 8192, 256, 300, 255, 0, 24, 1 << 17, NOFID, 1 << 31, 1024, 8216, 7, 257, 4096, 512)
VERSIONS = (
    "9P2000", "9P2000.u", "9P2000.L", "9P2000.x", "9P2000", "9P2000.u", "9P", "", "unknown",
    "9p2000", "HTTP/1.1", "9P2000" + "u" * 300, "9P1999", "9P2000.u", "9P2000", "\U0001f480",
)  # fmt: skip
N_UNAMES = (0xFFFFFFFF, 0, 1000, 0xFFFFFFFE, 1 << 31, 65534)
LENGTHS = (0, (1 << 64) - 1, 1, 1 << 63)
SIZES = (0, 1, 4, 6, 7, 8, 0xFFFFFFFF, 1 << 31, 0x00010000, 255, 8193, (128 << 10) + 25)
STRINGS = (b"\xff\xfe", b"\xed\xa0\x80", b"a\0b", b"\xc3", b"", b"\xf4\x90\x80\x80")

FIRST = 9
"""So many of a file system's names are those of files in its root."""


class Exhausted(Exception):
    """The bytes are at their end."""


class Script:
    """The bytes that a conversation is made of, taken one by one."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def byte(self) -> int:
        try:
            value = self._data[self._at]
        except IndexError:
            raise Exhausted from None
        self._at += 1
        return value

    def take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        self._at += count
        if not taken:
            raise Exhausted
        return taken

    def pick(self, choices):
        return choices[self.byte() % len(choices)]


class Frames:
    """Frames in the words of one file system. names, anames, texts: to walk to, attach, write.

    scenes: a path, a mode to open it with, and what one may write to it.
    """

    def __init__(self, script: Script, *, names, anames, texts, scenes) -> None:
        self._script = script
        self._names = names
        self._anames = anames
        self._texts = texts
        self._scenes = scenes

    def request(self, tag: int, expect: Expectations) -> bytes:
        """A sound frame of any type but Tversion."""
        kind = _KINDS[self._script.byte() % len(_KINDS)]
        return encode(kind(self, self._script, tag, expect), expect.session.dialect)

    def version(self, tag: int) -> bytes:
        script = self._script
        return encode(Tversion(script.pick(MSIZES), script.pick(VERSIONS), tag))

    def greeting(self) -> bytes:
        """How a connection begins that means well for once: with an attach of fid 0."""
        how = self._script.byte()
        dialect = Dialect.UNIX if how & 1 else Dialect.PLAIN
        msize = 256 if how & 0x30 == 0 else 8192
        version = encode(Tversion(msize, dialect.value, NOTAG))
        attach = TattachU if dialect is Dialect.UNIX else Tattach
        aname = self._anames[(how >> 6) % len(self._anames) if how & 2 else 0]
        return version + encode(attach(0, "glenda", aname=aname, tag=1), dialect)

    def opening(self, expect: Expectations, tags: Iterator[int]) -> bytes:
        """A file walked to and opened in one go, as clients do; if need be attached before."""
        messages = self._opening(expect, tags, self._name(), self._script.pick(MODES))
        return b"".join(encode(message, expect.session.dialect) for message in messages)

    def scene(self, expect: Expectations, tags: Iterator[int]) -> bytes:
        """A file used for what it is there for, or nearly."""
        script = self._script
        name, mode, texts = script.pick(self._scenes)
        messages = self._opening(expect, tags, name, mode)
        fid = messages[-1].fid
        for _ in range(1 + script.byte() % 4):
            choice = script.byte()
            if choice < 140 and texts:
                text = script.pick(texts)[: expect.session.msize - 24]
                messages.append(Twrite(fid, text, 0, next(tags)))
            elif choice < 220:
                messages.append(Tread(fid, (0, 0, 0, 7)[choice % 4], 4096, next(tags)))
            else:
                messages.append(Tclunk(fid, next(tags)))
        return b"".join(encode(message, expect.session.dialect) for message in messages)

    def _opening(
        self, expect: Expectations, tags: Iterator[int], name: str, mode: int
    ) -> list[Message]:
        free = iter(fid for fid in range(1, 40) if fid not in expect.fids)
        root, fid = self._known(expect, self._script.byte(), Use.ROOT), next(free, 7)
        walk = Twalk(fid if root is None else root, fid, tuple(name.split("/")), next(tags))
        messages = [walk, Topen(fid, mode, next(tags))]
        if root is None:
            messages.insert(0, Tattach(fid, "glenda", tag=next(tags)))
        return messages

    def unknown(self, tag: int) -> bytes:
        """A frame of a type that there is not."""
        kind = (0, 2, 98, 106, 128, 200, 254, 14)[self._script.byte() % 8]
        return _frame(kind, tag, self._script.take(4))

    def answer(self, tag: int) -> bytes:
        """An R-message: a client that plays the server."""
        return _frame(101 + 2 * (self._script.byte() % 14), tag, self._script.take(8))

    def corrupted(self, frame: bytes) -> bytes:
        """A sound frame made unsound, mostly."""
        script = self._script
        how, at, value = script.byte(), script.byte(), script.byte()
        body = bytearray(frame)
        match how % 6:
            case 0:
                body[:4] = SIZES[value % len(SIZES)].to_bytes(4, "little")
                return bytes(body)
            case 1:
                body = body[: 7 + at % max(1, len(body) - 7)]
            case 2:
                body += bytes([value]) * (1 + at % 20)
            case 3:
                body[4 + at % (len(body) - 4)] ^= value or 0xFF
            case 4:
                where = 7 + at % max(1, len(body) - 7)
                body[where : where + 2] = b"\xff\xff"
            case 5:
                bad = STRINGS[value % len(STRINGS)]
                where = 7 + at % max(1, len(body) - 7)
                body[where : where + len(bad)] = bad
        body[:4] = len(body).to_bytes(4, "little")
        return bytes(body)

    def noise(self) -> bytes:
        """No frame at all."""
        return self._script.take(1 + self._script.byte() % 64)

    def _name(self) -> str:
        """Most often one of the first of the names, which there are."""
        choice = self._script.byte()
        return self._names[choice % (FIRST if choice < 192 else len(self._names))]

    def _fid(self, expect: Expectations, use: Use | None = None) -> int:
        """Most often a fid that is good for something, or for a certain use."""
        choice = self._script.byte()
        if choice < 216:
            for wanted in (use, None):
                if (fid := self._known(expect, choice, wanted)) is not None:
                    return fid
        return FIDS[choice % len(FIDS)]

    def _known(self, expect: Expectations, choice: int, use: Use | None) -> int | None:
        known = [fid for fid, of in expect.fids.items() if use in (None, of)]
        return known[choice % len(known)] if known else None

    # One function a type, in the order of `_KINDS`

    def _auth(self, script, tag, expect):
        return Tauth(script.pick(FIDS), "glenda", self._script.pick(self._anames), tag)

    def _attach(self, script, tag, expect):
        choice = script.byte()
        afid = NOFID if choice < 240 else choice % 4
        aname = self._anames[choice % len(self._anames)]
        fid = script.pick(FIDS)
        if expect.session.dialect is Dialect.UNIX:
            return TattachU(fid, "glenda", afid, aname, tag, N_UNAMES[choice % len(N_UNAMES)])
        return Tattach(fid, "\u00df" * (choice // 2), afid, aname, tag)

    def _flush(self, script, tag, expect):
        tags = sorted(expect.outstanding)
        number = script.byte()
        if number == 255:
            return Tflush(tag, tag)
        return Tflush(tags[number % len(tags)] if tags and number < 224 else number % 16, tag)

    def _walk(self, script, tag, expect):
        fid, newfid, count = self._fid(expect, Use.ROOT), 1 + script.byte() % 40, script.byte()
        if newfid > 24:
            newfid = FIDS[newfid % len(FIDS)]
        names = tuple(self._name() for _ in range(count % 4))
        if count >= 250:
            names = (names or ("..",)) * 16
        return Twalk(fid, newfid, names[:16], tag)

    def _open(self, script, tag, expect):
        return Topen(self._fid(expect, Use.FILE), script.pick(MODES), tag)

    def _create(self, script, tag, expect):
        return Tcreate(self._fid(expect), self._name(), 0o644, script.byte(), tag)

    def _read(self, script, tag, expect):
        return Tread(self._fid(expect, Use.OPEN), script.pick(OFFSETS), script.pick(COUNTS), tag)

    def _write(self, script, tag, expect):
        text = script.pick(self._texts)
        return Twrite(self._fid(expect, Use.OPEN), text, script.pick(OFFSETS), tag)

    def _clunk(self, script, tag, expect):
        return Tclunk(self._fid(expect), tag)

    def _remove(self, script, tag, expect):
        return Tremove(self._fid(expect), tag)

    def _stat(self, script, tag, expect):
        return Tstat(self._fid(expect), tag)

    def _wstat(self, script, tag, expect):
        fid, how = self._fid(expect), script.byte()
        entry = Dir(
            type=0xFFFF,
            dev=0xFFFFFFFF,
            qid=Qid(0xFF, 0xFFFFFFFF, (1 << 64) - 1),
            mode=0xFFFFFFFF if how & 4 else 0o666,
            atime=0xFFFFFFFF,
            mtime=how,
            length=LENGTHS[how & 3],
            name="" if how & 8 else self._name(),
        )
        raw = encode_dir(entry if how & 16 else DONT_TOUCH, expect.session.dialect)
        if how >= 250:
            raw = raw[: how - 245] if how & 1 else raw + b"\0"
        return Twstat(fid, raw, tag)


_KINDS = tuple(
    kind
    for kind, weight in (
        (Frames._auth, 1),
        (Frames._attach, 6),
        (Frames._flush, 10),
        (Frames._walk, 10),
        (Frames._open, 8),
        (Frames._create, 1),
        (Frames._read, 12),
        (Frames._write, 7),
        (Frames._clunk, 5),
        (Frames._remove, 1),
        (Frames._stat, 2),
        (Frames._wstat, 3),
    )
    for _ in range(weight)
)


def _frame(kind: int, tag: int, body: bytes) -> bytes:
    return (7 + len(body)).to_bytes(4, "little") + bytes([kind]) + tag.to_bytes(2, "little") + body
