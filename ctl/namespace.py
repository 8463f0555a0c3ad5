"""The tree that clients see: which files there are, and who sees which.

A node is made anew at each walk, for one attach; what it stands for is in its qid path: the
serial number of the session in the upper bits, the kind of file in the lower.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from ctl import replies
from ctl.bridge import Bridge
from ctl.bridgefiles import BridgeFile, Models, Nodes
from ctl.commandfile import Clone, Ctl
from ctl.commands import CLUSTER_OPTIONS, COMMANDS
from ctl.embedfile import Embed
from ctl.handle import Generated
from ctl.owner import Owner, user_name
from ctl.promptfile import Output, Prompt
from ctl.session import Session
from ctl.settingfile import Context, Grammar, Params, System
from fs9p import Attach, Connection, Directory, Error, File, FileSystem, Handle, Node, Snapshot
from fs9p.errors import NOT_FOUND

MAX_ANAME = 64
"""Bytes of an attach name: it is kept as long as its session."""

_NUMBER = re.compile("[0-9]{1,18}")

_NO_UNAME = 0xFFFFFFFF
"""n_uname of a 9P2000.u client that does not say who its user is."""


class SessionFile(File):
    """A file whose opens are the handles of one session."""

    def __init__(
        self,
        kind: _Kind,
        number: int,
        session: Session,
        owner: str,
        mtime: int,
        viewer: Owner,
        *,
        fork: bool,
    ) -> None:
        super().__init__(
            kind.name, session.serial << 8 | number, kind.mode, owner=owner, mtime=mtime
        )
        self._kind = kind
        self._session = session
        self._viewer = viewer
        self._fork = fork

    def open(self, mode: int) -> Handle:
        """An open of that file of the session."""
        if self._session.closed:
            raise Error(NOT_FOUND)
        if self._kind.open is not None:
            return self._kind.open(self._session)
        session = self._session.bridge.sessions.new(self._viewer)
        if self._fork:
            session.fork(self._session)
        return Clone(session)

    def truncate(self) -> None:
        """``>`` empties what a user would expect to be empty afterwards."""
        if self._kind.truncate is not None:
            self._kind.truncate(self._session)


@dataclass(frozen=True, slots=True)
class _Kind:
    """A row of the table of a session's files. open: None makes a session (`clone`)."""

    name: str
    mode: int
    effect: str
    open: Callable[[Session], Handle] | None
    truncate: Callable[[Session], None] | None = None


def _clear_system(session: Session) -> None:
    session.system = ""


def _clear_grammar(session: Session) -> None:
    session.settings = session.settings.with_grammar("")


# A look at `status` or `usage` is no use of the session: else `llambo top` would keep alive
# whatever it shows.
def _status(session: Session) -> Handle:
    return Snapshot(lambda: replies.line(session.bridge.status(session)))


def _model(session: Session) -> Handle:
    return Generated(session, lambda: replies.line(session.model_status()))


def _usage(session: Session) -> Handle:
    return Snapshot(lambda: replies.line(session.usage()))


def _logprobs(session: Session) -> Handle:
    return Generated(session, session.logprobs)


SESSION_FILES = (
    _Kind("ctl", 0o666, "a command in, its JSON reply out", Ctl),
    _Kind("model", 0o444, "JSON: the model this session uses", _model),
    _Kind("prompt", 0o666, "text in: one turn of the conversation", Prompt),
    _Kind("output", 0o444, "the answer, as it is generated", Output),
    _Kind("status", 0o444, "JSON: session, model, bridge; never waits", _status),
    _Kind("params", 0o666, "sampling settings, one 'name value' a line", Params),
    _Kind("system", 0o666, "the system prompt", System, _clear_system),
    _Kind(
        "context",
        0o666,
        "the conversation, one JSON message a line",
        Context,
        lambda session: session.replace_context([]),
    ),
    _Kind("embed", 0o666, "text in, its vector out as JSON", Embed),
    _Kind("usage", 0o444, "JSON: tokens and timings of the last answer, and totals", _usage),
    _Kind(
        "grammar", 0o666, "what answers look like: GBNF, or a JSON schema", Grammar, _clear_grammar
    ),
    _Kind("logprobs", 0o444, "JSON: how likely each token of output was, a line each", _logprobs),
    _Kind(
        "clone", 0o666, "opening makes a session; reading gives its name, writing is its ctl", None
    ),
)

_ROOT, _SESSION, _HELP, _METRICS = 0x80, 0x81, 0x83, 0x85
"""Beside those of `ctl.bridgefiles`."""


class SessionDirectory(Directory):
    """The files of one session."""

    def __init__(self, name: str, session: Session, viewer: Owner, mtime: int) -> None:
        kind = _ROOT if name == "/" else _SESSION
        path = session.serial << 8 | kind
        super().__init__(name, path, 0o555, owner=session.owner.name, mtime=mtime)
        self.session = session
        self._viewer = viewer

    def lookup(self, name: str) -> Node:
        """A file of the session."""
        for number, kind in enumerate(SESSION_FILES):
            if kind.name == name and not self.session.closed:
                return self._file(number, kind)
        raise Error(NOT_FOUND)

    def entries(self) -> Iterator[Node]:
        """All of them; none when the session has ended."""
        if not self.session.closed:
            for number, kind in enumerate(SESSION_FILES):
                yield self._file(number, kind)

    def _file(self, number: int, kind: _Kind) -> Node:
        fork = self.qid.path & 0xFF == _SESSION
        return SessionFile(
            kind, number, self.session, self.owner, self.mtime, self._viewer, fork=fork
        )


class Root(SessionDirectory):
    """The root of an attach: a session, with the bridge-wide files beside it.

    ends: whether the session ends with the attach.
    """

    def __init__(self, session: Session, viewer: Owner, mtime: int, *, ends: bool) -> None:
        super().__init__("/", session, viewer, mtime)
        self.ends = ends
        self._bridge = session.bridge

    def lookup(self, name: str) -> Node:
        """A file of the root's session, of the bridge, or a session's directory."""
        if name == "models":
            return self._models()
        if name == "nodes" and self._bridge.cluster is not None:
            return Nodes(self._bridge, self._bridge.cluster, self.mtime)
        if name == "metrics":
            return self._metrics()
        if name == "help":
            return Help(self._bridge, self.mtime)
        if _NUMBER.fullmatch(name):
            return self._session_directory(name)
        return super().lookup(name)

    def entries(self) -> Iterator[Node]:
        """The session's files, the bridge's, and the sessions of this owner."""
        yield from super().entries()
        yield self._models()
        if self._bridge.cluster is not None:
            yield Nodes(self._bridge, self._bridge.cluster, self.mtime)
        yield self._metrics()
        yield Help(self._bridge, self.mtime)
        for session in self._bridge.sessions.of(self._viewer):
            yield SessionDirectory(str(session.number), session, self._viewer, self.mtime)

    def _metrics(self) -> Node:
        text = self._bridge.metrics.text
        return BridgeFile("metrics", _METRICS, self._bridge, self.mtime, text)

    def _models(self) -> Models:
        return Models(self._bridge, self.mtime, self._viewer)

    def _session_directory(self, name: str) -> Node:
        session = self._bridge.sessions.find(self._viewer, int(name))
        if session is None or not session.number or str(session.number) != name:
            raise Error(NOT_FOUND)
        return SessionDirectory(name, session, self._viewer, self.mtime)


class Help(BridgeFile):
    """`help`: the files and the commands, from the tables that make them."""

    def __init__(self, bridge: Bridge, mtime: int) -> None:
        cluster = bridge.cluster is not None
        super().__init__("help", _HELP, bridge, mtime, lambda: _help(cluster=cluster))


@lru_cache
def _help(*, cluster: bool) -> bytes:
    lines = ["files (here and in each session's directory)"]
    lines += [f"  {kind.name:8} {kind.effect}" for kind in SESSION_FILES]
    lines += [
        "only here",
        "  models/  one file a model that is loaded or can be",
        *(["  nodes/   JSON, a file a machine: what it has, and what it does"] if cluster else []),
        "  metrics  Prometheus text: requests, tokens, times, memory",
        "  help     this text",
        "  N/       a session of yours; clone in it makes a fork",
        "commands (a line written to ctl)",
    ]
    for command in COMMANDS.values():
        lines.append(f"  {command.verb} {command.arguments}".rstrip())
        lines.append(f"      {command.effect}")
        if command.verb == "LOAD" and cluster:
            lines.append(f"      on the cluster it takes {CLUSTER_OPTIONS}, too")
    return "".join(f"{line}\n" for line in lines).encode()


class Llambo(FileSystem):
    """The bridge as a file system."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._mtime = int(time.time())

    def attach(self, attach: Attach) -> Root:
        """The root that the attach name asks for: see the table in docs/namespace.md."""
        owner, bridge, aname = _owner(attach), self._bridge, attach.aname
        if bridge.draining:
            raise Error("busy: the bridge is shutting down")
        if len(aname.encode()) > MAX_ANAME:
            raise Error(f"invalid attach name: it is longer than {MAX_ANAME} bytes")
        ends = aname == "new"
        if not aname:
            session = bridge.sessions.main(owner)
        elif ends:
            session = bridge.sessions.new(owner)
        elif _NUMBER.fullmatch(aname):
            found = bridge.sessions.find(owner, int(aname))
            if found is None:
                raise Error(NOT_FOUND)
            session = found
        else:
            key = owner if owner.authenticated else Owner(f"name:{aname}", aname, None)
            session = bridge.sessions.named(key, aname)
        session.acquire()
        return Root(session, owner, self._mtime, ends=ends)

    def detach(self, root: Directory) -> None:
        """The last fid of an attach is gone: a session made for it ends."""
        assert isinstance(root, Root)
        root.session.release()
        if root.ends:
            self._bridge.sessions.end(root.session)

    def disconnected(self, connection: Connection) -> None:
        """What an unauthenticated client had ends with its connection."""
        self._bridge.sessions.end_all(_connection_owner(connection))


def _connection_owner(connection: Connection) -> Owner:
    return Owner(f"connection:{connection.number}", "none", None)


def _owner(attach: Attach) -> Owner:
    """Who attaches: peer credentials say it, and a peer that is root may say who his user is."""
    peer = attach.connection.peer
    if peer is None:
        return _connection_owner(attach.connection)
    uid = peer.uid
    if uid == 0 and attach.n_uname is not None and attach.n_uname != _NO_UNAME:
        uid = attach.n_uname
    return Owner(f"uid:{uid}", user_name(uid), uid)
