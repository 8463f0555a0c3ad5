"""Where a bridge is: the addresses that the command takes.

Imported by `llambo dial`, which has to start fast: nothing but `os` and `socket` comes in.
"""

from __future__ import annotations

import os
import socket


class CommandError(Exception):
    """A client command cannot go on; the text is for the terminal."""


class NoBridge(CommandError):
    """Nobody serves at an address."""


def default_socket() -> str:
    """The socket where a bridge is served and looked for when no address is given.

    ``$LLAMBO_SOCKET``; plan9port's ``$NAMESPACE/llm``, where ``9p read llm/status`` finds it;
    ``$XDG_RUNTIME_DIR/llambo/9p``; a directory of the user's own under the temporary directory.
    """
    environ = os.environ
    if path := environ.get("LLAMBO_SOCKET"):
        return path
    if namespace := environ.get("NAMESPACE"):
        return f"{namespace}/llm"
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        return f"{runtime}/llambo/9p"
    return f"{environ.get('TMPDIR', '/tmp')}/llambo-{os.getuid()}/9p"


def is_address(text: str) -> bool:
    """Whether a word names a bridge rather than being a model or the first word of a prompt:
    ``unix!PATH``, ``tcp!HOST!PORT``, or the path of a socket that exists."""
    return text.startswith(("unix!", "tcp!")) or ("/" in text and _is_socket(text))


def _is_socket(path: str) -> bool:
    import stat

    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def parse(address: str) -> str | tuple[str, int]:
    """The path of a socket, or a host and a port. Raises `CommandError`."""
    kind, _, rest = address.partition("!")
    if kind == "tcp" and rest:
        host, _, port = rest.rpartition("!")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise CommandError(f"{address}: a TCP address is tcp!HOST!PORT")
        return host, int(port)
    return rest if kind == "unix" and rest else address


def connect(address: str | None) -> socket.socket:
    """A connected stream socket for a path, ``unix!PATH`` or ``tcp!HOST!PORT``.

    Raises `CommandError`.
    """
    address = address or default_socket()
    where = parse(address)
    try:
        if isinstance(where, tuple):
            return socket.create_connection(where)
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(where)
        except OSError:
            sock.close()
            raise
        return sock
    except (FileNotFoundError, ConnectionRefusedError):
        raise NoBridge(f"no bridge answers at {address}: llambo serve starts one") from None
    except UnicodeError:
        raise CommandError(f"{address}: no such host") from None
    except OSError as error:
        raise CommandError(f"{address}: {error.strerror or error}") from None
