"""What a Topen and a Twstat may ask of a node: open(5), stat(5).

Decides and does nothing: no fid and no handle may come in here. Permission bits are not
how users are told apart (a node that a user must not see is not found by him): a bit set
for anybody counts for everybody.
"""

from __future__ import annotations

from py9p.constants import OpenMode
from py9p.messages import Dir, Qid

from fs9p.errors import ILLEGAL_MODE, IS_A_DIRECTORY, PERMISSION_DENIED, WSTAT_PROHIBITED, Error
from fs9p.messages import NOUID, DirU
from fs9p.node import Directory, Node

_ACCESS = 3
_NEEDED = {
    OpenMode.OREAD: (0o444,),
    OpenMode.OWRITE: (0o222,),
    OpenMode.ORDWR: (0o444, 0o222),
    OpenMode.OEXEC: (0o111,),
}
_APPEND = 0x80
"""What Linux makes of O_APPEND under 9P2000.u."""

DONT_TOUCH = DirU(
    type=0xFFFF,
    dev=0xFFFFFFFF,
    qid=Qid(0xFF, 0xFFFFFFFF, (1 << 64) - 1),
    mode=0xFFFFFFFF,
    atime=0xFFFFFFFF,
    mtime=0xFFFFFFFF,
    length=(1 << 64) - 1,
    n_uid=NOUID,
    n_gid=NOUID,
    n_muid=NOUID,
)
"""The entry of a Twstat that changes nothing."""

_FIXED = ("type", "dev", "qid", "mode", "name", "uid", "gid", "muid")
_FIXED_UNIX = ("extension", "n_uid", "n_gid", "n_muid")


def judge_open(node: Node, mode: int) -> None:
    """Judge the mode of a Topen; raises `Error`.

    OCEXEC and 0x80 mean nothing to a server and are let pass, since clients send them.
    """
    if mode & OpenMode.ORCLOSE:
        raise Error(PERMISSION_DENIED)
    if mode & ~(_ACCESS | OpenMode.OTRUNC | OpenMode.OCEXEC | _APPEND):
        raise Error(ILLEGAL_MODE)
    truncate = mode & OpenMode.OTRUNC
    needed = _NEEDED[OpenMode(mode & _ACCESS)] + ((0o222,) if truncate else ())
    if 0o222 in needed and isinstance(node, Directory):
        raise Error(IS_A_DIRECTORY)
    if not all(node.mode & bits for bits in needed):
        raise Error(PERMISSION_DENIED)


def judge_wstat(node: Node, asked: Dir, present: Dir) -> bool:
    """Judge the entry of a Twstat; raises `Error`. The answer is whether it truncates.

    Nothing but the length can be changed. What is let pass besides, because shells and
    editors send it, is a value that the entry has already, and times.
    """
    fixed = _FIXED + _FIXED_UNIX if isinstance(asked, DirU) else _FIXED
    for field in fixed:
        value = getattr(asked, field)
        if value not in (getattr(DONT_TOUCH, field), getattr(present, field)):
            raise Error(WSTAT_PROHIBITED)
    if asked.length not in (0, present.length, DONT_TOUCH.length):
        raise Error(WSTAT_PROHIBITED)
    if asked.length != 0 or isinstance(node, Directory):
        return False
    if not node.mode & 0o222:
        raise Error(PERMISSION_DENIED)
    return True
