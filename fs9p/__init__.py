"""A 9P2000 file server library for trio: bytes to messages to fids to nodes.

Somebody who wants to serve files writes nodes (`Directory`, `File`, `Handle`; see
`fs9p.node`) and never sees a message, a tag or a fid. A directory of two files::

    import time
    import trio
    import fs9p

    hello = fs9p.Text("hello", 1, lambda: b"hello, world\\n")
    clock = fs9p.Text("time", 2, lambda: f"{time.time():.0f}\\n".encode())
    server = fs9p.Server(fs9p.Tree(fs9p.Folder("/", 0, [hello, clock])))

    async def main(path: str) -> None:
        await fs9p.listen.serve(server, [fs9p.listen.unix(path)])

    trio.run(main, "/tmp/hello/socket")

Then ``9p -a 'unix!/tmp/hello/socket' read time`` prints the time, and so does ``cat`` in
a mount of it. Spoken are 9P2000 and 9P2000.u; the rules are those of Plan 9's section 5
(plan9port's 9p), and where those leave something open, the modules say what is done.
"""

from fs9p import listen
from fs9p.connection import Connection
from fs9p.errors import Error
from fs9p.fields import WireError, decode_dir, encode_dir
from fs9p.framing import Framer
from fs9p.limits import Limits
from fs9p.messages import Dialect
from fs9p.node import (
    Attach,
    Directory,
    File,
    FileSystem,
    Folder,
    Handle,
    Node,
    Reply,
    Snapshot,
    Text,
    Tree,
)
from fs9p.peer import Peer, peer_of, peer_of_stdin
from fs9p.record import Record, Recorder, read_records
from fs9p.server import Server
from fs9p.trace import TextTrace, Trace, format_message
from fs9p.wire import UnknownType, decode, encode

__all__ = [
    "Attach",
    "Connection",
    "Dialect",
    "Directory",
    "Error",
    "File",
    "FileSystem",
    "Folder",
    "Framer",
    "Handle",
    "Limits",
    "Node",
    "Peer",
    "Record",
    "Recorder",
    "Reply",
    "Server",
    "Snapshot",
    "Text",
    "TextTrace",
    "Trace",
    "Tree",
    "UnknownType",
    "WireError",
    "decode",
    "decode_dir",
    "encode",
    "encode_dir",
    "format_message",
    "listen",
    "peer_of",
    "peer_of_stdin",
    "read_records",
]
