"""The options of `llambo serve`: where, what, and how much of it one client may have.

Defaults stand where they are used: `fs9p.Limits` and `ctl.bridge.Options`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeVar

from ctl.bridge import Options
from ctl.log import FORMATS
from engine.api import MAX_MODELS, WORKER_TIMEOUT
from fs9p import Limits

N = TypeVar("N", int, float)


def add_options(serve: argparse.ArgumentParser) -> None:
    """Add them to the parser of that command."""
    _where(serve.add_argument_group("where (sockets that systemd passes are served, too)"))
    what = serve.add_argument_group("what")
    what.add_argument(
        "--model", metavar="PATH|NAME|none", help="load this first (default: SmolLM2)"
    )
    what.add_argument(
        "--models", metavar="DIR", action="append", default=[], help="a directory of GGUF files"
    )
    what.add_argument("--engine", default="llama", metavar="llama|echo[:RATE]")
    what.add_argument(
        "--max-models", type=_positive, default=MAX_MODELS, metavar="N",
        help="models loaded at once; one more unloads the one idle longest (default: %(default)s)",
    )  # fmt: skip
    what.add_argument(
        "--worker-timeout", type=_seconds, default=WORKER_TIMEOUT, metavar="SECONDS",
        help="a model's process that is silent for so long at work is killed, and started again "
        "by the next question (default: %(default)g)",
    )  # fmt: skip
    _bridge_limits(serve.add_argument_group("limits of the bridge"))
    _client_limits(serve.add_argument_group("limits of clients"))
    log = serve.add_argument_group("log")
    log.add_argument("-v", "--verbose", action="store_true", help="log more")
    log.add_argument(
        "--log-format", choices=FORMATS, default=FORMATS[0],
        help="lines for people, or an object a line (default: %(default)s)",
    )  # fmt: skip
    log.add_argument("-D", "--debug", action="store_true", help="log every 9P message")
    log.add_argument(
        "--trace", metavar="FILE", help="record every 9P message there, one JSON object a line"
    )


def bridge_options(args: argparse.Namespace) -> Options:
    """The limits of the bridge that a command line asks for."""
    return Options(
        session_ttl=args.session_ttl,
        max_sessions=args.max_sessions,
        max_prompt=args.max_prompt,
        max_answers=args.max_answers,
        max_conversation=args.max_conversation,
        max_buffered=args.max_buffered,
    )


def client_limits(args: argparse.Namespace) -> Limits:
    """The limits of 9P clients that a command line asks for. Raises `ValueError`."""
    return Limits(
        msize=args.msize,
        fids=args.max_fids,
        requests=args.max_requests,
        connections=args.max_connections,
        version_timeout=args.version_timeout,
        idle_timeout=args.idle_timeout,
    )


def _where(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--socket", metavar="PATH", action="append", default=[],
        help="a unix socket; may be repeated (default: see README)",
    )  # fmt: skip
    group.add_argument(
        "--line-socket", metavar="PATH", action="append", default=[],
        help="a unix socket for the line protocol; may be repeated",
    )  # fmt: skip
    group.add_argument(
        "--socket-mode", type=_mode, default=0o600, metavar="MODE",
        help="permissions of the unix sockets, octal (default: 600)",
    )  # fmt: skip
    group.add_argument("--socket-group", metavar="GROUP", help="the group of the unix sockets")
    group.add_argument(
        "--tcp", metavar="HOST:PORT", action="append", default=[],
        help="serve TCP too, on loopback; may be repeated",
    )  # fmt: skip
    group.add_argument(
        "--metrics-http", metavar="HOST:PORT",
        help="serve `metrics` over HTTP, for Prometheus: whoever reaches that can read it",
    )  # fmt: skip
    group.add_argument("--insecure", action="store_true", help="allow TCP beyond loopback")
    group.add_argument(
        "--stdio",
        action="store_true",
        help="serve one client on standard input and output; alone if nothing else is named",
    )


def _bridge_limits(group: argparse._ArgumentGroup) -> None:
    usual = Options()
    group.add_argument(
        "--session-ttl", type=_seconds, default=usual.session_ttl, metavar="SECONDS",
        help="end sessions unused for so long (default: %(default)g)",
    )  # fmt: skip
    for option, default, unit, text in (
        ("--max-sessions", usual.max_sessions, "N", ""),
        ("--max-answers", usual.max_answers, "N", "answers running and waiting "),
        ("--max-prompt", usual.max_prompt, "BYTES", "of one prompt or command "),
        ("--max-conversation", usual.max_conversation, "CHARS", "of one session's context "),
        ("--max-buffered", usual.max_buffered, "BYTES", "of a session's unfinished lines "),
    ):
        group.add_argument(
            option, type=_positive, default=default, metavar=unit,
            help=f"{text}(default: %(default)s)",
        )  # fmt: skip


def _client_limits(group: argparse._ArgumentGroup) -> None:
    usual = Limits()
    for option, default, unit, text in (
        ("--msize", usual.msize, "BYTES", "of one message, header included "),
        ("--max-connections", usual.connections, "N", ""),
        ("--max-fids", usual.fids, "N", "of one connection "),
        ("--max-requests", usual.requests, "N", "of one connection that wait "),
    ):
        group.add_argument(
            option, type=_positive, default=default, metavar=unit,
            help=f"{text}(default: %(default)s)",
        )  # fmt: skip
    group.add_argument(
        "--version-timeout", type=_seconds, default=usual.version_timeout, metavar="SECONDS",
        help="until a client's first Tversion (default: %(default)g)",
    )  # fmt: skip
    group.add_argument(
        "--idle-timeout", type=_seconds, default=usual.idle_timeout, metavar="SECONDS",
        help="a connection idle for so long makes room when all are taken (default: %(default)g)",
    )  # fmt: skip


def _seconds(text: str) -> float:
    return _number(text, float, "a number of seconds above 0")


def _positive(text: str) -> int:
    return _number(text, int, "a whole number above 0")


def _mode(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise argparse.ArgumentTypeError(f"{text!r} is not a mode such as 660")
    return mode


def _number(text: str, kind: Callable[[str], N], what: str) -> N:
    try:
        value = kind(text)
    except ValueError:
        value = kind("0")
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return value
