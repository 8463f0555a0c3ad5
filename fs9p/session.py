"""The rules of 9P: what each T-message means for the fids of a session.

A session is what lies between two Tversions (intro(5)). For each message there is a
method that judges it and answers at once with the R-message, or raises `Error`, or
returns a coroutine that will do either. No bytes, tags or tasks may come in here: they
are the business of `fs9p.connection`, which runs the coroutines and cancels them.

A coroutine returned from here must be awaited: it holds its fid until it ends.

What happens to a fid that is clunked while requests wait on it, clunk(5) leaves open.
The fid is gone at once and the Tclunk answered at once. Reads that wait are ended with
an error, since nobody can use what they would bring (9pfuse clunks the file of a killed
``cat`` without a Tflush). Anything else that waits is carried to its end, as lib9p does,
so that a write which was sent just before the Tclunk is still done. The handle is closed
after the last of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeAlias

import trio
from py9p.constants import IOHDRSZ, NOFID, OpenMode
from py9p.messages import (
    Dir,
    Message,
    Qid,
    Rattach,
    Rclunk,
    Ropen,
    Rread,
    Rstat,
    Rwalk,
    Rwrite,
    Rwstat,
    Tattach,
    Tauth,
    Tclunk,
    Tcreate,
    Topen,
    Tread,
    Tremove,
    Tstat,
    Twalk,
    Twrite,
    Twstat,
)

from fs9p import errors
from fs9p.errors import Error
from fs9p.fid import Attached, Fid, Listing, Place
from fs9p.fields import encode_dir
from fs9p.messages import NOUID, Dialect, TattachU, TauthU, TcreateU
from fs9p.node import Attach, Directory, File, FileSystem, Handle, Node, Reply
from fs9p.ownership import owned
from fs9p.permissions import judge_open, judge_wstat

if TYPE_CHECKING:
    from fs9p.connection import Connection

Answer: TypeAlias = Message | Coroutine[Any, Any, Message]

log = logging.getLogger("fs9p")


class Session:
    """The fids of one session and the rules for them."""

    def __init__(
        self,
        fs: FileSystem,
        connection: Connection,
        *,
        dialect: Dialect,
        msize: int,
        fids: int,
    ) -> None:
        self.dialect = dialect
        self._fs = fs
        self._connection = connection
        self._iounit = msize - IOHDRSZ
        self._limit = fids
        self._fids: dict[int, Fid] = {}

    @property
    def fids(self) -> int:
        """How many fids are in use."""
        return len(self._fids)

    def answer(self, message: Message) -> Answer:
        """Carry out a T-message, any but Tversion and Tflush.

        Raises `Error`, and whatever a node's code raises.
        """
        return _ANSWERS[type(message)](self, message)

    def end(self) -> None:
        """Hang up every fid. No coroutine of the session may be running any more."""
        for fid in list(self._fids.values()):
            if fid.handle is not None:
                self._call(fid.handle.hangup)
            self._forget(fid)
        self._fids.clear()

    def _tauth(self, m: Tauth) -> Answer:
        raise Error(errors.NO_AUTHENTICATION)

    def _tattach(self, m: Tattach) -> Answer:
        if m.afid != NOFID:
            raise Error(errors.NO_AUTHENTICATION)
        self._check_new(m.fid)
        number = m.n_uname if isinstance(m, TattachU) else NOUID
        n_uname = None if number == NOUID else number
        attach = Attach(self._connection, m.uname, m.aname, n_uname)
        root = self._fs.attach(attach)
        if isinstance(root, Directory):
            return self._attached(m, attach, root)
        return self._attach_later(m, attach, root)

    async def _attach_later(
        self, m: Tattach, attach: Attach, attaching: Coroutine[Any, Any, Directory]
    ) -> Message:
        return self._attached(m, attach, await attaching)

    def _attached(self, m: Tattach, attach: Attach, root: Directory) -> Message:
        try:
            self._check_new(m.fid)  # again: another request may have taken it meanwhile
            reply = Rattach(root.qid, m.tag)
        except Exception:
            self._call(self._fs.detach, root)
            raise
        self._add(m.fid, Place(root), Attached(attach, root))
        return reply

    def _twalk(self, m: Twalk) -> Answer:
        fid = self._fid(m.fid)
        if fid.mode is not None:
            raise Error(errors.ALREADY_OPEN)
        if m.newfid != m.fid:
            self._check_new(m.newfid)
        place = fid.place
        wqid: list[Qid] = []
        for name in m.wname:
            try:
                place = place.step(name)
            except Error:
                if not wqid:
                    raise
                return Rwalk(tuple(wqid), m.tag)
            wqid.append(place.node.qid)
        if m.newfid == m.fid:
            fid.place = place
        else:
            self._add(m.newfid, place, fid.attached)
        return Rwalk(tuple(wqid), m.tag)

    def _topen(self, m: Topen) -> Answer:
        fid = self._fid(m.fid)
        if fid.mode is not None:
            raise Error(errors.ALREADY_OPEN)
        node = fid.place.node
        judge_open(node, m.mode)
        if isinstance(node, Directory):
            handle: Reply[Handle] = Listing(node, lambda entry: self._pack(fid, entry))
        else:
            assert isinstance(node, File)
            handle = node.open(m.mode)
        truncating: Reply[None] = None
        if isinstance(handle, Handle):
            truncating = self._truncate(m, node, handle)
            if truncating is None:
                fid.mode, fid.handle = m.mode, handle
                return Ropen(node.qid, 0, m.tag)
        fid.mode = m.mode
        fid.in_progress += 1
        return self._open_later(m, fid, handle, truncating)

    def _truncate(self, m: Topen, node: Node, handle: Handle) -> Reply[None]:
        """What OTRUNC asks for. An open that fails here closes its handle."""
        if not (m.mode & OpenMode.OTRUNC and isinstance(node, File)):
            return None
        try:
            return node.truncate()
        except BaseException:
            self._call(handle.close)
            raise

    async def _open_later(
        self, m: Topen, fid: Fid, opening: Reply[Handle], truncating: Reply[None]
    ) -> Message:
        node = fid.place.node
        try:
            if isinstance(opening, Handle):
                handle = opening
            else:
                handle = await opening
                truncating = self._truncate(m, node, handle)
            if truncating is not None:
                try:
                    await truncating
                except BaseException:
                    self._call(handle.close)
                    raise
            fid.handle = handle
        except BaseException:
            fid.mode = None
            raise
        finally:
            self._leave(fid)
        return Ropen(node.qid, 0, m.tag)

    def _tcreate(self, m: Tcreate) -> Answer:
        self._fid(m.fid)
        raise Error(errors.PERMISSION_DENIED)

    def _tread(self, m: Tread) -> Answer:
        fid = self._fid(m.fid)
        handle = fid.readable(m.offset)
        count = min(m.count, self._iounit)
        # DESIGN section 2, "Streaming on Linux": v9fs repeats a Tread until its buffer is full.
        # Only 0 bytes make it hand the last piece to the reader, and an Rerror makes it (since
        # 6.8) throw that piece away. So both what would wait and what fails is put off once.
        gave, fid.gave = fid.gave and self.dialect is Dialect.UNIX, False
        held, fid.held = fid.held, None
        if held is not None and held[0] == m.offset:
            raise held[1]
        try:
            data = handle.read(m.offset, count)
        except Error as error:
            # To the reader of a directory 0 bytes would be its end.
            if not gave or isinstance(fid.place.node, Directory):
                raise
            fid.held = (m.offset, error)
            return Rread(b"", m.tag)
        if isinstance(data, bytes):
            return self._read(m, fid, count, data)
        if gave and handle.streaming:
            data.close()
            return Rread(b"", m.tag)
        scope = trio.CancelScope()
        fid.reads.add(scope)
        fid.in_progress += 1
        return self._read_later(m, fid, count, data, scope)

    async def _read_later(
        self,
        m: Tread,
        fid: Fid,
        count: int,
        reading: Coroutine[Any, Any, bytes],
        scope: trio.CancelScope,
    ) -> Message:
        try:
            with scope:
                return self._read(m, fid, count, await reading)
            raise Error(errors.UNKNOWN_FID)  # clunked meanwhile
        finally:
            fid.reads.discard(scope)
            self._leave(fid)

    def _read(self, m: Tread, fid: Fid, count: int, data: bytes) -> Message:
        if len(data) > count:
            raise RuntimeError(f"{fid.handle!r} gave {len(data)} bytes to a read of {count}")
        fid.gave = bool(data)
        return Rread(data, m.tag)

    def _twrite(self, m: Twrite) -> Answer:
        fid = self._fid(m.fid)
        handle = fid.writable(m.offset)
        fid.gave, fid.held = False, None
        count = handle.write(m.offset, m.data)
        if isinstance(count, int):
            return self._written(m, fid, count)
        fid.in_progress += 1
        return self._write_later(m, fid, count)

    async def _write_later(self, m: Twrite, fid: Fid, writing: Coroutine[Any, Any, int]) -> Message:
        try:
            return self._written(m, fid, await writing)
        finally:
            self._leave(fid)

    def _written(self, m: Twrite, fid: Fid, count: int) -> Message:
        if not 0 <= count <= len(m.data):
            raise RuntimeError(f"{fid.handle!r} took {count} of {len(m.data)} bytes")
        return Rwrite(count, m.tag)

    def _tclunk(self, m: Tclunk) -> Answer:
        self._clunk(m.fid)
        return Rclunk(m.tag)

    def _tremove(self, m: Tremove) -> Answer:
        self._clunk(m.fid)  # even though the remove fails: remove(5)
        raise Error(errors.PERMISSION_DENIED)

    def _tstat(self, m: Tstat) -> Answer:
        fid = self._fid(m.fid)
        return Rstat(self._entry(fid, fid.place.node.stat()), m.tag)

    def _twstat(self, m: Twstat) -> Answer:
        fid = self._fid(m.fid)
        node = fid.place.node
        asked = m.stat
        assert isinstance(asked, Dir)  # what `fs9p.wire` decodes
        truncate = judge_wstat(node, asked, self._entry(fid, node.stat()))
        truncating = node.truncate() if truncate and isinstance(node, File) else None
        if truncating is None:
            return Rwstat(m.tag)
        fid.in_progress += 1
        return self._wstat_later(m, fid, truncating)

    async def _wstat_later(
        self, m: Twstat, fid: Fid, truncating: Coroutine[Any, Any, None]
    ) -> Message:
        try:
            await truncating
            return Rwstat(m.tag)
        finally:
            self._leave(fid)

    def _fid(self, number: int) -> Fid:
        fid = self._fids.get(number)
        if fid is None:
            raise Error(errors.UNKNOWN_FID)
        return fid

    def _check_new(self, number: int) -> None:
        if number in self._fids:
            raise Error(errors.FID_IN_USE)
        if number == NOFID:
            raise Error(errors.UNKNOWN_FID)
        if len(self._fids) >= self._limit:
            raise Error(f"temporarily out of fids: a connection has {self._limit}, clunk some")

    def _add(self, number: int, place: Place, attached: Attached) -> None:
        self._fids[number] = Fid(place, attached)
        attached.fids += 1

    def _clunk(self, number: int) -> None:
        fid = self._fid(number)
        del self._fids[number]
        fid.clunked = True
        for scope in fid.reads:
            scope.cancel()
        self._close_unused(fid)

    def _leave(self, fid: Fid) -> None:
        fid.in_progress -= 1
        self._close_unused(fid)

    def _close_unused(self, fid: Fid) -> None:
        if fid.clunked and not fid.in_progress:
            if fid.handle is not None:
                self._call(fid.handle.close)
            self._forget(fid)

    def _forget(self, fid: Fid) -> None:
        attached = fid.attached
        attached.fids -= 1
        if not attached.fids:
            self._call(self._fs.detach, attached.root)

    def _entry(self, fid: Fid, entry: Dir) -> Dir:
        return owned(entry, fid.attached.attach, self.dialect)

    def _pack(self, fid: Fid, entry: Dir) -> bytes:
        return encode_dir(self._entry(fid, entry), self.dialect)

    def _call(self, function: Callable[..., None], *args: object) -> None:
        """Run a node's code that nobody waits for: an exception of it is only logged."""
        try:
            function(*args)
        except Exception:
            log.exception("connection %d: %r failed", self._connection.number, function)


_ANSWERS: dict[type[Message], Callable[[Session, Any], Answer]] = {
    Tauth: Session._tauth,
    TauthU: Session._tauth,
    Tattach: Session._tattach,
    TattachU: Session._tattach,
    Twalk: Session._twalk,
    Topen: Session._topen,
    Tcreate: Session._tcreate,
    TcreateU: Session._tcreate,
    Tread: Session._tread,
    Twrite: Session._twrite,
    Tclunk: Session._tclunk,
    Tremove: Session._tremove,
    Tstat: Session._tstat,
    Twstat: Session._twstat,
}
