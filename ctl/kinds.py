"""What options take: from a word of the command line, or from a value of a TOML file.

Only the form of a value is looked at here; whether there is such a folder or group is found in
`ctl.faults`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass

from fs9p.limits import LARGEST_MSIZE, SMALLEST_MSIZE

MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class Kind:
    """What an option takes; it is the option's ``type=`` of argparse.

    what: the allowed values, in the words of an error. parse: makes the value of a text; the
    folder is where a relative path begins, "" being the working directory; raises `ValueError`.
    toml: the types that a file may have for it. write: the value as one of those again.
    """

    what: str
    parse: Callable[[str, str], object]
    toml: tuple[type, ...] = (str,)
    write: Callable[[object], object] = lambda value: value

    def __call__(self, text: str) -> object:
        """The value of a word of the command line. Raises `argparse.ArgumentTypeError`."""
        try:
            return self.parse(text, "")
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {self.what}") from None

    def of_toml(self, value: object, folder: str) -> object:
        """The value that a file in that folder has. Raises `ValueError`."""
        # Exactly these: to Python, True is a whole number.
        if type(value) not in self.toml or "\0" in (text := str(value)):
            raise ValueError
        return self.parse(text, folder)


def kind_of(option: argparse.Action) -> Kind:
    """What that option takes."""
    if option.choices is not None:
        # A list, not a set: in the order of the help.
        choices = [str(choice) for choice in option.choices]
        return Kind(f"one of {', '.join(choices)}", lambda text, folder: _one(text, choices))
    if option.type is None:
        return TEXT
    assert isinstance(option.type, Kind)
    return option.type


def host_port(text: str) -> tuple[str, int]:
    """The two of HOST:PORT, an IPv6 address being in brackets. Raises `ValueError`."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > MAX_PORT:
        raise ValueError(f"{text!r} is not HOST:PORT")
    host = host.strip("[]")
    host.encode("idna")  # a UnicodeError is a ValueError
    return host, int(port)


def _seconds(text: str, folder: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError
    return number


def _positive(text: str, folder: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _msize(text: str, folder: str) -> int:
    number = int(text)
    if not SMALLEST_MSIZE <= number <= LARGEST_MSIZE:
        raise ValueError
    return number


def _mode(text: str, folder: str) -> int:
    mode = int(text, 8)
    if not 0 <= mode <= 0o777:
        raise ValueError
    return mode


def _address(text: str, folder: str) -> str:
    host_port(text)
    return text


def _path(text: str, folder: str) -> str:
    if not text:
        raise ValueError
    # In a file no shell has seen to the `~`.
    return absolute(os.path.join(folder, os.path.expanduser(text)) if folder else text)


def absolute(path: str) -> str:
    """The same from the root. Raises `OSError` where the working directory is gone."""
    try:
        return os.path.abspath(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(error.errno, "the working directory is gone", path) from None


def _socket(text: str, folder: str) -> str:
    if text.startswith("tcp!"):
        raise ValueError
    return _path(text.removeprefix("unix!"), folder)


def _model(text: str, folder: str) -> str:
    """A path if there is such a file, else a name or what the catalog makes of it."""
    path = _path(text, folder)
    return path if os.path.exists(path) else text


def _one(text: str, choices: list[str]) -> str:
    if text not in choices:
        raise ValueError
    return text


_NUMBERS = (int, float)

TEXT = Kind("a string", lambda text, folder: text)
SECONDS = Kind("a number of seconds above 0", _seconds, _NUMBERS)
POSITIVE = Kind("a whole number above 0", _positive, (int,))
MSIZE = Kind(f"a number of bytes from {SMALLEST_MSIZE} to {LARGEST_MSIZE}", _msize, (int,))
MODE = Kind('a mode such as "660"', _mode, write=lambda mode: f"{mode:o}")
ADDRESS = Kind("HOST:PORT", _address)
PATH = Kind("a path", _path)
SOCKET = Kind("the path of a unix socket (for TCP use --tcp)", _socket)
MODEL = Kind("a path or a name", _model)
