"""The vocabulary: py9p's message dataclasses, and what 9P2000.u adds to them.

Only data may live here: no bytes, no connection.

9P2000.u is described in Eric Van Hensbergen's draft "Plan 9 Remote Resource Protocol,
Unix extension". Each class below is py9p's class of the same name and the fields that
the extension appends. Which fields travel is decided by the dialect of a connection,
never by the class: encoding a `DirU` under 9P2000 leaves its extra fields out, and
encoding a plain `Dir` under 9P2000.u sends their defaults.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from py9p.messages import Dir, Rerror, Tattach, Tauth, Tcreate

NOUID = 0xFFFFFFFF
"""No numeric user: the ``(u32int)~0`` of n_uname and n_uid."""


class Dialect(enum.Enum):
    """The protocol spoken on a connection. The value is the version string of Rversion."""

    PLAIN = "9P2000"
    UNIX = "9P2000.u"


@dataclass(frozen=True, slots=True)
class TauthU(Tauth):
    """Tauth of 9P2000.u. n_uname: the numeric user, `NOUID` for none."""

    n_uname: int = NOUID


@dataclass(frozen=True, slots=True)
class TattachU(Tattach):
    """Tattach of 9P2000.u. n_uname: the numeric user, `NOUID` for none."""

    n_uname: int = NOUID


@dataclass(frozen=True, slots=True)
class RerrorU(Rerror):
    """Rerror of 9P2000.u. errno: the Linux error number, 0 for none."""

    errno: int = 0


@dataclass(frozen=True, slots=True)
class TcreateU(Tcreate):
    """Tcreate of 9P2000.u. extension: the target of a link, the numbers of a device."""

    extension: str = ""


@dataclass(frozen=True, slots=True)
class DirU(Dir):
    """The directory entry of 9P2000.u: an extension as in `TcreateU`, and numeric ids."""

    extension: str = ""
    n_uid: int = NOUID
    n_gid: int = NOUID
    n_muid: int = NOUID
