"""What is wrong with a configuration whose every value is well formed: what it names is not
there, or two values do not go together.

Looks, and changes nothing; what only trying can tell, such as a port in use, is left to that.
"""

from __future__ import annotations

import argparse
import grp
import ipaddress
import os
from collections.abc import Iterator
from dataclasses import dataclass

import engine
from ctl import toml
from ctl.kinds import host_port

LONGEST_SOCKET = 107
"""Bytes of a unix socket's path: sun_path of unix(7) without its NUL."""

LARGEST_GROUP = 2**32 - 2
"""The number of a group; the one above it means no group to chown(2)."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A value that cannot be. text: the rest of a sentence that begins with the key."""

    key: str
    text: str


def faults(args: argparse.Namespace) -> Iterator[Fault]:
    """All that can be seen of them from here."""
    yield from _of_sockets(args)
    yield from _of_tcp(args)
    yield from _of_models(args)
    if args.trace is not None:
        yield from _of_trace(args.trace)


def _of_trace(path: str) -> Iterator[Fault]:
    folder = os.path.dirname(path)
    if os.path.isdir(path):
        yield Fault("trace", f"{_quoted(path)} is a directory")
    elif not os.path.isdir(folder):
        yield Fault("trace", f"{_quoted(folder)} is not a directory")
    elif not os.access(path, os.W_OK) and (
        os.path.exists(path) or not os.access(folder, os.W_OK | os.X_OK)
    ):
        yield Fault("trace", f"{_quoted(path)} may not be written")


def _of_sockets(args: argparse.Namespace) -> Iterator[Fault]:
    seen: set[str] = set()
    for key, paths in (("socket", args.socket), ("line-socket", args.line_socket)):
        for path in paths:
            length = len(os.fsencode(path))
            if length > LONGEST_SOCKET:
                text = (
                    f"{_quoted(path)} has {length} bytes, a socket's path {LONGEST_SOCKET} at most"
                )
                yield Fault(key, text)
            if path in seen:
                yield Fault(key, f"{_quoted(path)} is there twice")
            seen.add(path)
    group = args.socket_group
    if group is not None and not (group.isdecimal() and int(group) <= LARGEST_GROUP):
        try:
            grp.getgrnam(group)
        except KeyError:
            yield Fault("socket-group", f"there is no group {_quoted(group)}")


def _of_tcp(args: argparse.Namespace) -> Iterator[Fault]:
    for address in args.tcp:
        if not args.insecure and _beyond_loopback(host_port(address)[0]):
            text = f"{_quoted(address)} is not a loopback address: anybody could connect"
            yield Fault("tcp", f"{text}; --insecure allows it")


def _beyond_loopback(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name: what it stands for is asked when it is served


def _of_models(args: argparse.Namespace) -> Iterator[Fault]:
    for folder in args.models:
        if not os.path.isdir(folder):
            yield Fault("models", f"{_quoted(folder)} is not a directory")
        elif not os.access(folder, os.R_OK | os.X_OK):
            yield Fault("models", f"{_quoted(folder)} may not be read")
    try:
        # One that is made starts nothing before its block is entered.
        reads_files = engine.create(args.engine).reads_files
    except engine.EngineError as error:
        yield Fault("engine", str(error))
        return
    model = args.model
    absolute = model is not None and os.path.isabs(model)
    if reads_files and absolute and not os.path.isfile(model):
        yield Fault("model", f"{_quoted(model)} is not a file")


def _quoted(text: str) -> str:
    try:
        return toml.value(text)
    except ValueError:
        return ascii(text)
