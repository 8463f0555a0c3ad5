"""What a client may expect of a 9P server, whatever that client has sent.

A second opinion: `Expectations` reads the same bytes that the server reads, frame by frame,
and says of every byte that comes back whether intro(5), version(5) and flush(5) allow it. It
knows tags, dialect and msize, but no fid: which error a request gets is not judged here.
"""

from __future__ import annotations

import enum
import re
from collections import Counter, deque

from py9p.constants import NOTAG
from py9p.messages import (
    Message,
    Rerror,
    Rread,
    Rversion,
    Rwalk,
    Rwrite,
    Tattach,
    Tauth,
    Tclunk,
    Tcreate,
    Tflush,
    Topen,
    Tread,
    Tremove,
    Tversion,
    Twalk,
    Twrite,
)

from fs9p import Dialect, UnknownType, WireError, decode
from fs9p.errors import ALREADY_OPEN, FID_IN_USE, MAX_ENAME, UNKNOWN_FID
from fs9p.limits import SMALLEST_MSIZE
from fs9p.messages import RerrorU

_NUMBER = re.compile("[0-9]+")

TOO_SMALL = re.compile("invalid msize [0-9]+: at least ")
"""What is answered to a Tversion with too small an msize."""

FAREWELLS = (
    "invalid: no version was agreed on within",
    "temporarily out of connections: this one was idle",
)
"""What the server says when it hangs up by itself."""

NEVER_GRANTED = (Tauth, Tcreate, Tremove)


class Violation(AssertionError):
    """The server did what no server may do."""


class Use(enum.Enum):
    """What a fid is good for."""

    ROOT = enum.auto()
    FILE = enum.auto()
    OPEN = enum.auto()


class Sent:
    """A frame on its way. message: None for a type that does not exist."""

    __slots__ = ("message", "number")

    def __init__(self, number: int, message: Message | None) -> None:
        self.number = number
        self.message = message


class Session:
    """What a Tversion makes of the connection: what is valid from its reply on."""

    __slots__ = ("dialect", "msize", "version")

    def __init__(self, asked: Tversion | None, limit: int) -> None:
        self.dialect, self.msize, self.version = Dialect.PLAIN, limit, "unknown"
        if asked is None or asked.msize < SMALLEST_MSIZE:
            return
        if asked.version in ("9P2000.u", "9P2000.L"):
            self.dialect = Dialect.UNIX
        elif not asked.version.startswith("9P2000"):
            return
        self.version = self.dialect.value
        self.msize = min(limit, asked.msize)


class Expectations:
    """One connection as its client sees it.

    Tell it what is `sent` and what was `received`. limit: the server's msize. tally: counts
    the types of replies and the error strings seen. frames: how many whole frames the server
    has got. fatal: a frame was sent that must end the connection. doubtful: a tag was used
    again before its reply had arrived, which may end it. hung_up: the server has said farewell.
    fids: those that are in use if all goes well, and for what.
    """

    def __init__(self, limit: int, tally: Counter[str]) -> None:
        self.tally = tally
        self.frames = 0
        self.fatal = False
        self.doubtful = False
        self.hung_up = False
        self.fids: dict[int, Use] = {}
        self.session = self._replying = Session(None, limit)
        """As of the last frame sent, and as of the last reply received."""
        self.outstanding: dict[int, deque[Sent]] = {}
        self._limit = limit
        self._versions: deque[tuple[Sent, Session]] = deque()
        self._unread = bytearray()
        self._partial = bytearray()

    # Requests

    def sent(self, data: bytes) -> None:
        """These bytes go to the server."""
        self._unread += data
        at, end = 0, len(self._unread)
        while not self.fatal and end - at >= 4:
            size = int.from_bytes(self._unread[at : at + 4], "little")
            if not 7 <= size <= (self._limit if self.unversioned else self.session.msize):
                self.fatal = True
                self.frames += 1
            elif at + size > end:
                break
            else:
                self._frame(bytes(self._unread[at : at + size]))
                at += size
        del self._unread[:at]

    @property
    def unversioned(self) -> bool:
        """Whether no version is agreed on, as far as can be told now."""
        return self.session.version == "unknown"

    def _frame(self, frame: bytes) -> None:
        self.frames += 1
        tag = frame[5] | frame[6] << 8
        if frame[4] % 2:
            self.fatal = True
            return
        try:
            message = decode(frame, self.session.dialect)
        except UnknownType:
            message = None
        except WireError:
            self.fatal = True
            return
        sent = Sent(self.frames, message)
        if isinstance(message, Tversion):
            self.session = Session(message, self._limit)
            self.fids.clear()
            self._versions.append((sent, self.session))
            return
        self._note_fid(message)
        queue = self.outstanding.get(tag)
        if queue is None:
            self.outstanding[tag] = deque([sent])
        else:
            self.doubtful = True
            queue.append(sent)

    def _note_fid(self, message: Message | None) -> None:
        match message:
            case Tattach():
                self.fids.setdefault(message.fid, Use.ROOT)
            case Twalk():
                if message.wname or message.newfid not in self.fids:
                    self.fids[message.newfid] = Use.FILE if message.wname else Use.ROOT
            case Topen() if message.fid in self.fids:
                self.fids[message.fid] = Use.OPEN
            case Tclunk() | Tremove():
                self.fids.pop(message.fid, None)

    def _correct_fid(self, asked: Message | None, ename: str) -> None:
        """A request has failed: its fid is not what it was taken for."""
        if ename == UNKNOWN_FID:
            self.fids.pop(getattr(asked, "fid", -1), None)
        elif isinstance(asked, Topen) and ename != ALREADY_OPEN:
            self.fids[asked.fid] = Use.FILE
        elif isinstance(asked, Tattach) and ename != FID_IN_USE:
            self.fids.pop(asked.fid, None)
        if isinstance(asked, Twalk) and ename != FID_IN_USE and asked.newfid != asked.fid:
            self.fids.pop(asked.newfid, None)

    # Replies

    def received(self, data: bytes) -> None:
        """The server has sent these bytes. Raises `Violation` if it must not."""
        partial = self._partial
        partial += data
        at, end = 0, len(partial)
        while end - at >= 4:
            size = int.from_bytes(partial[at : at + 4], "little")
            if not 7 <= size <= self._replying.msize:
                raise Violation(f"a reply of {size} bytes under msize {self._replying.msize}")
            if at + size > end:
                break
            self._reply(bytes(partial[at : at + size]))
            at += size
        del partial[:at]

    def _reply(self, frame: bytes) -> None:
        if not frame[4] % 2:
            raise Violation(f"a server sent a T-message, type {frame[4]}")
        try:
            reply = self._refusal(frame) or decode(frame, self._replying.dialect)
        except WireError as error:
            raise Violation(f"a reply that is no message: {error}: {frame!r}") from None
        self.tally[type(reply).__name__] += 1
        if self.hung_up:
            raise Violation(f"{reply} comes after the farewell")
        if isinstance(reply, Rerror):
            self._judge_error(reply)
            if reply.tag == NOTAG and reply.ename.startswith(FAREWELLS):
                self.hung_up = True
                return
        if self._versions and self._is_version_reply(reply):
            self._begin_session(reply)
        else:
            self._judge(reply, self._take(reply))

    def _judge_error(self, reply: Rerror) -> None:
        self.tally[f"Rerror {_NUMBER.sub('N', reply.ename)}"] += 1
        if len(reply.ename.encode()) > MAX_ENAME:
            raise Violation(f"an error string that is too long: {reply}")
        if isinstance(reply, RerrorU) and not 0 < reply.errno < 4096:
            raise Violation(f"an errno that Linux does not take for one: {reply}")

    def _refusal(self, frame: bytes) -> Rerror | None:
        """The Rerror for a Tversion with too small an msize: no session, so 9P2000."""
        asked = self._versions[0][0].message if self._versions else None
        if asked is None or asked.msize >= SMALLEST_MSIZE or frame[4] != Rerror.message_type:
            return None
        try:
            reply = decode(frame, Dialect.PLAIN)
        except WireError:
            return None
        return reply if reply.tag == asked.tag and TOO_SMALL.match(reply.ename) else None

    def _is_version_reply(self, reply: Message) -> bool:
        return isinstance(reply, Rversion) or (
            isinstance(reply, Rerror) and bool(TOO_SMALL.match(reply.ename))
        )

    def _begin_session(self, reply: Message) -> None:
        sent, session = self._versions.popleft()
        asked = sent.message
        if reply.tag != asked.tag:
            raise Violation(f"{reply} answers {asked}")
        if isinstance(reply, Rversion):
            if (reply.version, asked.msize >= SMALLEST_MSIZE) != (session.version, True):
                raise Violation(f"{reply} answers {asked}")
            if reply.msize > asked.msize or reply.msize > self._limit:
                raise Violation(f"{reply} has a larger msize than {asked} or the limit")
        self._replying = session
        for tag in list(self.outstanding):
            self._forget(tag, sent.number)

    def _take(self, reply: Message) -> Sent:
        """The request that a reply belongs to."""
        queue = self.outstanding.get(reply.tag)
        if queue is None:
            raise Violation(f"{reply} answers nothing that is outstanding")
        sent = queue.popleft()
        if not queue:
            del self.outstanding[reply.tag]
        if self._versions and sent.number > self._versions[0][0].number:
            raise Violation(f"{reply} overtakes an Rversion")
        return sent

    def _judge(self, reply: Message, sent: Sent) -> None:
        asked = sent.message
        if isinstance(reply, Rerror):
            if isinstance(asked, Tflush):
                raise Violation(f"{reply} answers {asked}")
            self._correct_fid(asked, reply.ename)
            return
        if asked is None or reply.message_type != asked.message_type + 1:
            raise Violation(f"{reply} answers {asked}")
        match asked:
            case Tflush():
                self._flushed(asked, sent.number)
            case Tread() if isinstance(reply, Rread) and len(reply.data) > asked.count:
                raise Violation(f"{len(reply.data)} bytes answer {asked}")
            case Twrite() if isinstance(reply, Rwrite) and reply.count > len(asked.data):
                raise Violation(f"{reply} answers {len(asked.data)} bytes")
            case Twalk() if isinstance(reply, Rwalk):
                if not bool(asked.wname) <= len(reply.wqid) <= len(asked.wname):
                    raise Violation(f"{len(reply.wqid)} qids answer {asked}")
                if len(reply.wqid) != len(asked.wname):
                    self._correct_fid(asked, "")
            case _ if isinstance(asked, NEVER_GRANTED):
                raise Violation(f"{reply} answers {asked}")

    def _flushed(self, flush: Tflush, number: int) -> None:
        """From its Rflush on nothing that was sent under the tag before is ever answered."""
        for sent in self.outstanding.get(flush.oldtag, ()):
            if sent.number < number and isinstance(sent.message, Tflush):
                raise Violation(f"{flush} was answered before {sent.message}, which it flushes")
        self._forget(flush.oldtag, number)

    def _forget(self, tag: int, number: int) -> None:
        """The requests under a tag that were sent before a certain one."""
        queue = self.outstanding.get(tag)
        while queue and queue[0].number < number:
            queue.popleft()
        if queue is not None and not queue:
            del self.outstanding[tag]

    def abort(self) -> None:
        """A Tversion comes next, and nothing that is outstanding can still end before it."""
        if not (self.fatal or self.doubtful or self._unread or self._versions):
            self.outstanding.clear()

    # The end

    def all_answered(self) -> bool:
        """Whether nothing is left that would have to be answered some day."""
        return not self.outstanding and not self._versions

    def unanswered(self) -> list[Message | None]:
        """The requests that are outstanding."""
        return [sent.message for queue in self.outstanding.values() for sent in queue]
