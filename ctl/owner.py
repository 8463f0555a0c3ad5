"""Whose a session is."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a session is. uid: None where nobody is authenticated; then ``key`` names the
    connection, or the attach name."""

    key: str
    name: str
    uid: int | None

    @property
    def authenticated(self) -> bool:
        """Whether the transport says who this is."""
        return self.uid is not None

    @property
    def owns_bridge(self) -> bool:
        """Whether this is the user that the bridge runs as, or root."""
        return self.uid is not None and self.uid in (0, os.getuid())


@lru_cache(256)
def user_name(uid: int) -> str:
    """The login name of a user, the number where there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
