"""The error strings of the server, named once, and the exception that carries one.

Nothing about connections or nodes may come in here.

The strings are chosen by what clients do with them. The Linux kernel maps an
error string to an errno by exact match (``net/9p/error.c``), 9pfuse by words it
finds in them; any other string becomes "Unknown error 526" or ERANGE. A 9P2000.u
connection carries the errno beside the string.
"""

from __future__ import annotations

import errno

NOT_FOUND = "file not found"
PERMISSION_DENIED = "permission denied"
UNKNOWN_FID = "fid unknown or out of range"
FID_IN_USE = "fid already in use"
NOT_A_DIRECTORY = "not a directory"
IS_A_DIRECTORY = "Is a directory"
ILLEGAL_OFFSET = "illegal offset"
ILLEGAL_MODE = "illegal mode"
WSTAT_PROHIBITED = "wstat prohibited"
NO_AUTHENTICATION = "authentication not required"
NOT_OPEN = "invalid fid: not open for that"
ALREADY_OPEN = "invalid fid: already open"
NO_VERSION = "invalid message: the first one must be a Tversion"
INTERNAL = "i/o error: internal error"

MAX_ENAME = 127
"""Bytes of an error string on the wire: plan9port and Inferno clients cut at ERRMAX, 128."""

_ERRNO = {
    NOT_FOUND: errno.ENOENT,
    PERMISSION_DENIED: errno.EACCES,
    UNKNOWN_FID: errno.EBADF,
    FID_IN_USE: errno.EBADF,
    NOT_A_DIRECTORY: errno.ENOTDIR,
    IS_A_DIRECTORY: errno.EISDIR,
    ILLEGAL_OFFSET: errno.EINVAL,
    ILLEGAL_MODE: errno.EINVAL,
    WSTAT_PROHIBITED: errno.EPERM,
    NO_AUTHENTICATION: errno.ECONNREFUSED,
    NOT_OPEN: errno.EBADF,
    ALREADY_OPEN: errno.EBADF,
}

_ERRNO_BY_WORD = (
    ("busy", errno.EBUSY),
    ("temporarily", errno.EAGAIN),
    ("invalid", errno.EINVAL),
)


class Error(Exception):
    """A request fails with this text: the Rerror of the reply.

    ``ename`` is the whole text, of any length; the server cuts it to
    `MAX_ENAME` bytes on the wire. ``errno`` goes with it under 9P2000.u.
    """

    def __init__(self, ename: str, number: int | None = None) -> None:
        super().__init__(ename)
        self.ename = ename
        self.errno = errno_of(ename) if number is None else number


def errno_of(ename: str) -> int:
    """The errno that belongs to an error string: EIO where nothing fits better.

    A fixed string may go on after a colon, as in ``"file not found: no model of that name"``.
    """
    fixed, _, _ = ename.partition(":")
    if fixed in _ERRNO:
        return _ERRNO[fixed]
    for word, number in _ERRNO_BY_WORD:
        if word in ename:
            return number
    return errno.EIO
