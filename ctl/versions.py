"""What `llambo --version` prints: the versions of llambo, llama.cpp and Python.

llama_cpp is not imported for it, which takes half a second and loads the library: its files are
read.
"""

from __future__ import annotations

import os
import re
import sys
from importlib.util import find_spec

from ctl import __version__


def versions() -> str:
    """Three lines."""
    return f"llambo {__version__}\nllama.cpp {_llama_cpp()}\nPython {sys.version.split()[0]}"


def _llama_cpp() -> str:
    """Its version and commit as far as they are known, and the package that it came with."""
    spec = find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return "is not installed"
    package = _said(spec.origin, r'__version__ = "(.+)"')
    by = f"llama-cpp-python {package}" if package else "llama-cpp-python"
    # llama_cpp takes the library from there instead of its own.
    if folder := os.environ.get("LLAMA_CPP_LIB_PATH"):
        return f"of {folder} ({by})"
    site = os.path.dirname(os.path.dirname(spec.origin))
    config = os.path.join(site, "lib", "cmake", "llama", "llama-config.cmake")
    version = _said(config, r"set\(LLAMA_VERSION +(\S+)\)")
    commit = _said(config, r"set\(LLAMA_BUILD_COMMIT +([0-9a-f]+)\)")
    known = [version, commit and f"commit {commit}", f"({by})"]
    return " ".join(filter(None, known))


def _said(path: str, pattern: str) -> str | None:
    """What a file says at that place; None where it does not."""
    try:
        with open(path, encoding="utf-8") as file:
            found = re.search(pattern, file.read())
    except (OSError, UnicodeDecodeError):
        return None
    return found[1] if found else None
