"""Whose a file is to the client that looks at it: the numeric ids of 9P2000.u."""

from __future__ import annotations

from py9p.messages import Dir

from fs9p.messages import Dialect, DirU
from fs9p.node import Attach

NOBODY = 65534
"""The user and group shown to a 9P2000.u client of which no number is known.

Not `NOUID`: the Linux kernel lets nobody write to a file whose owner it cannot map
(``HAS_UNMAPPED_ID`` in ``inode_permission``).
"""


def owned(entry: Dir, attach: Attach, dialect: Dialect) -> Dir:
    """The entry as the client should see it: under 9P2000.u as a file of its own user."""
    if dialect is Dialect.PLAIN or isinstance(entry, DirU):
        return entry
    peer = attach.connection.peer
    uid = attach.n_uname
    if uid is None:
        uid = peer.uid if peer else NOBODY
    gid = peer.gid if peer else NOBODY
    fields = {name: getattr(entry, name) for name in Dir.__slots__}
    return DirU(**fields, n_uid=uid, n_gid=gid, n_muid=uid)
