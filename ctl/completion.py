"""What a shell offers for TAB: its script, and the words that can come next.

The script (`llambo completion SHELL`) calls the command with ``_ARGCOMPLETE`` in its environment;
argcomplete reads the line from there and answers on descriptor 8. Only then is this module
imported.

What a value can be is told by how the help calls it, its metavar: a new option that takes a FILE
or a MODEL needs nothing here.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from argcomplete.completers import SuppressCompleter
from argcomplete.finders import CompletionFinder
from argcomplete.lexers import split_line
from argcomplete.shell_integration import shellcode

from ctl.address import CommandError, is_address
from ctl.mounted import read_table
from engine.plugins import names as engines

WAIT = 1.0
"""Seconds for an answer of a bridge that is asked for its models: behind TAB nobody waits long."""

Values = Callable[[str, argparse.Namespace], Iterable[str]]
"""The values that begin with a prefix, perhaps with others, given the words before it."""

Wanted = Callable[[str, int], bool]
"""Whether a file is, by its path and mode."""


def script(shell: str, command: str) -> str:
    """What the shell has to read to complete `llambo`. command: how it was called."""
    # bash and zsh call what is being typed; fish calls it by name.
    path = None if shutil.which("llambo") else os.path.abspath(command)
    return shellcode(["llambo"], shell=shell, argcomplete_script=path if shell == "fish" else None)


def typed() -> list[str]:
    """The words behind `llambo` that are there already."""
    line, point = os.environ["COMP_LINE"], int(os.environ["COMP_POINT"])
    words: list[str] = split_line(line, point)[3]
    return words[1:]


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell, and end the process."""
    _tell_values(parser)
    finder = CompletionFinder()
    finder(parser, always_complete_options=False, default_completer=SuppressCompleter())


def _tell_values(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                _tell_values(each)
        elif action.choices is None and isinstance(action.metavar, str):
            action.completer = partial(_values, action.metavar)  # type: ignore[attr-defined]


def _values(metavar: str, prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """What can stand for a metavar such as ``[ADDRESS] MODEL`` or ``llama|echo[:RATE]``: each of
    its words in capitals is a kind of value, each of the others a value."""
    if metavar in _PAIRS:
        return list(_PAIRS[metavar](prefix, parsed_args))
    found: list[str] = []
    for word in re.findall(r"[A-Za-z]+", metavar):
        found += _KINDS.get(word, _none)(prefix, parsed_args) if word.isupper() else [word]
    return found


def _none(prefix: str, args: argparse.Namespace) -> list[str]:
    return []


def _models(prefix: str, args: argparse.Namespace) -> list[str]:
    """Those of the bridge that is meant, or none where it does not answer."""
    from py9p.client import RemoteError
    from py9p.messages import NinePError

    from ctl.client import Files

    words = getattr(args, "words", None)
    address = words[0] if words and is_address(words[0]) else None
    try:
        with Files(address, timeout=WAIT) as files:
            return files.names("models")
    except (CommandError, RemoteError, NinePError, EOFError, OSError):
        return []


def _files(prefix: str, args: argparse.Namespace, wanted: Wanted | None = None) -> Iterator[str]:
    """Paths that begin so: directories, with a slash behind them, and files, if all are wanted or
    this one is."""
    folder, name = os.path.split(prefix)
    try:
        here = os.path.realpath(os.path.expanduser(folder))
        names = sorted(os.listdir(here))
    except OSError:
        return
    mounts = _mounts()
    for each in names:
        path = os.path.join(folder, each)
        if not each.startswith(name) or (each.startswith(".") and not name):
            continue
        if os.path.join(here, each) in mounts:
            yield path + "/"  # nobody looks at it: its bridge may hang
            continue
        try:
            mode = os.stat(os.path.expanduser(path)).st_mode
        except OSError:
            continue
        if stat.S_ISDIR(mode):
            yield path + "/"
        elif wanted is None or wanted(path, mode):
            yield path


def _mounts() -> list[str]:
    try:
        return [each.path for each in read_table() if each.is_9p]
    except OSError:  # elsewhere than on Linux
        return []


def _mounted(prefix: str, args: argparse.Namespace) -> Iterator[str]:
    """What may be unmounted, as seen from the folder that is typed, without a look at it."""
    folder = os.path.dirname(prefix)
    here = os.path.realpath(os.path.expanduser(folder))
    for path in _mounts():
        if os.path.commonpath([here, path]) == here:
            yield os.path.join(folder, os.path.relpath(path, here))
        elif not prefix:
            yield path


def _is_socket(path: str, mode: int) -> bool:
    return stat.S_ISSOCK(mode)


def _is_gguf(path: str, mode: int) -> bool:
    return path.endswith(".gguf")


def _no_file(path: str, mode: int) -> bool:
    return False


def _addresses(prefix: str, args: argparse.Namespace) -> Iterable[str]:
    """Sockets. A word without a slash is no address, but a model or the first word of a prompt."""
    return _files(prefix, args, wanted=_is_socket) if "/" in prefix else ()


def _settings(prefix: str, args: argparse.Namespace) -> Iterator[str]:
    """``NAME=``, and ``NAME=WORD`` of those that take words."""
    from ctl.settings import CHOICES, LISTS, NUMBERS

    yield from (f"{name}=" for name in (*NUMBERS, *LISTS))
    yield from (f"{name}={word}" for name, words in CHOICES.items() for word in words)


def _load_options(prefix: str, args: argparse.Namespace) -> Iterator[str]:
    """The same for a LOAD, whose help has them as ``NAME=N`` and ``NAME=WORD|WORD``."""
    from ctl.commands import CLUSTER_OPTIONS, COMMANDS

    # Whether the bridge is on a cluster is not known here.
    told = f"{COMMANDS['LOAD'].arguments} {CLUSTER_OPTIONS}"
    for name, value in re.findall(r"(\w+)=([\w|]+)", told):
        yield from [f"{name}="] if value.isupper() else [f"{name}={v}" for v in value.split("|")]


def _engines(prefix: str, args: argparse.Namespace) -> list[str]:
    return ["llama", "echo", "ray", *engines()]


_KINDS: dict[str, Values] = {
    "ADDRESS": _addresses,
    "DIR": partial(_files, wanted=_no_file),
    "FILE": _files,
    "MODEL": lambda prefix, args: [*_models(prefix, args), *_files(prefix, args, wanted=_is_gguf)],
    "MOUNTPOINT": _mounted,
    "NAME": _models,
    "PATH": _files,
}

_PAIRS: dict[str, Values] = {
    "NAME=N": _load_options,
    "NAME=VALUE": _settings,
    "REPO[:FILE]": _none,
    "llama|echo[:RATE]|ray[:HOST:PORT][/ENGINE]|NAME[:ARGUMENT]": _engines,
    "[ADDRESS] [MODEL]": lambda prefix, args: [*_models(prefix, args), *_addresses(prefix, args)],
}
"""Metavars that mean something as a whole: of FREE a path is none, and an engine is no model."""
