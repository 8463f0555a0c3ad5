"""Where plan9port's programs are, and the environment that they need."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

PROGRAMS = ("9p", "9pserve", "9pfuse")


def find() -> Path | None:
    """The directory of its programs: that of the PATH, or of the root named in LLAMBO_PLAN9."""
    root = os.environ.get("LLAMBO_PLAN9")
    found = [shutil.which(name, path=f"{root}/bin" if root else None) for name in PROGRAMS]
    return Path(str(found[0])).parent if all(found) else None


def environ(folder: Path, namespace: Path) -> dict[str, str]:
    """The environment of the programs in that directory; services are posted in namespace.

    Their directory comes last on the PATH: it has a `cat` and an `ls` of its own.
    """
    found = {
        "PLAN9": str(folder.parent),
        **os.environ,
        "PATH": f"{os.environ['PATH']}:{folder}",
        "NAMESPACE": str(namespace),
    }
    if root := os.environ.get("LLAMBO_PLAN9"):
        found["PLAN9"] = root
    found.pop("LLAMBO_SOCKET", None)
    return found
