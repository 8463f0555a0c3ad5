"""The options of `llambo serve`: where, what, and how much of it one client may have.

Each is a key of a configuration file, too (`ctl.config`): what an option takes is said once, by
its `Kind`. Defaults stand where they are used: `fs9p.Limits` and `ctl.bridge.Options`.
"""

from __future__ import annotations

import argparse
import logging

from ctl.bridge import Options
from ctl.kinds import ADDRESS, MODE, MODEL, MSIZE, PATH, POSITIVE, SECONDS, SOCKET
from ctl.log import FORMATS
from engine.api import MAX_MODELS, WORKER_TIMEOUT
from fs9p import Limits


def add_options(serve: argparse.ArgumentParser) -> None:
    """Add them to the parser of that command."""
    config = serve.add_argument_group("configuration")
    config.add_argument(
        "--config", metavar="FILE",
        help="read options from this TOML file; those of the command line come first",
    )  # fmt: skip
    config.add_argument(
        "--print-config", action="store_true",
        help="check all options, print them as such a file, and end",
    )  # fmt: skip
    _where(serve.add_argument_group("where (sockets that systemd passes are served, too)"))
    what = serve.add_argument_group("what")
    what.add_argument(
        "--model", type=MODEL, metavar="PATH|NAME|none", help="load this first (default: SmolLM2)"
    )
    what.add_argument(
        "--models", type=PATH, metavar="DIR", action="append", default=[],
        help="a directory of GGUF files; may be repeated",
    )  # fmt: skip
    what.add_argument(
        "--no-caches", action="store_true",
        help="models from --models and the package only, none from /models, the data folder and "
        "the caches of other programs",
    )  # fmt: skip
    what.add_argument(
        "--engine", default="llama",
        metavar="llama|echo[:RATE]|ray[:HOST:PORT][/ENGINE]|NAME[:ARGUMENT]",
        help="what answers; ray runs llama, or ENGINE, on the machines of a Ray cluster; NAME is "
        "of one that another package brings (default: %(default)s)",
    )  # fmt: skip
    what.add_argument(
        "--max-models", type=POSITIVE, default=MAX_MODELS, metavar="N",
        help="models loaded at once; one more unloads the one idle longest (default: %(default)s)",
    )  # fmt: skip
    what.add_argument(
        "--worker-timeout", type=SECONDS, default=WORKER_TIMEOUT, metavar="SECONDS",
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
        "--trace", type=PATH, metavar="FILE",
        help="record every 9P message there, one JSON object a line",
    )  # fmt: skip


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
    """The limits of 9P clients that a command line asks for."""
    return Limits(
        msize=args.msize,
        fids=args.max_fids,
        requests=args.max_requests,
        connections=args.max_connections,
        version_timeout=args.version_timeout,
        idle_timeout=args.idle_timeout,
    )


def log_level(args: argparse.Namespace) -> int:
    """What is logged: events of this level or above."""
    return logging.DEBUG if args.verbose or args.debug else logging.INFO


def _where(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--socket", type=SOCKET, metavar="PATH", action="append", default=[],
        help="a unix socket; may be repeated (default: $LLAMBO_SOCKET, or one of the user's own)",
    )  # fmt: skip
    group.add_argument(
        "--line-socket", type=SOCKET, metavar="PATH", action="append", default=[],
        help="a unix socket for the line protocol; may be repeated",
    )  # fmt: skip
    group.add_argument(
        "--socket-mode", type=MODE, default=0o600, metavar="MODE",
        help="permissions of the unix sockets, octal (default: 600)",
    )  # fmt: skip
    group.add_argument("--socket-group", metavar="GROUP", help="the group of the unix sockets")
    group.add_argument(
        "--tcp", type=ADDRESS, metavar="HOST:PORT", action="append", default=[],
        help="serve TCP too, on loopback; may be repeated",
    )  # fmt: skip
    group.add_argument(
        "--metrics-http", type=ADDRESS, metavar="HOST:PORT",
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
        "--session-ttl", type=SECONDS, default=usual.session_ttl, metavar="SECONDS",
        help="end sessions unused for so long (default: %(default)g)",
    )  # fmt: skip
    for option, default, unit, text in (
        ("--max-sessions", usual.max_sessions, "N", "at once "),
        ("--max-answers", usual.max_answers, "N", "answers running and waiting "),
        ("--max-prompt", usual.max_prompt, "BYTES", "of one prompt or command "),
        ("--max-conversation", usual.max_conversation, "CHARS", "of one session's context "),
        ("--max-buffered", usual.max_buffered, "BYTES", "of a session's unfinished lines "),
    ):
        group.add_argument(
            option, type=POSITIVE, default=default, metavar=unit,
            help=f"{text}(default: %(default)s)",
        )  # fmt: skip


def _client_limits(group: argparse._ArgumentGroup) -> None:
    usual = Limits()
    group.add_argument(
        "--msize", type=MSIZE, default=usual.msize, metavar="BYTES",
        help="of one message, header included (default: %(default)s)",
    )  # fmt: skip
    for option, default, unit, text in (
        ("--max-connections", usual.connections, "N", "at once "),
        ("--max-fids", usual.fids, "N", "of one connection "),
        ("--max-requests", usual.requests, "N", "of one connection that wait "),
    ):
        group.add_argument(
            option, type=POSITIVE, default=default, metavar=unit,
            help=f"{text}(default: %(default)s)",
        )  # fmt: skip
    group.add_argument(
        "--version-timeout", type=SECONDS, default=usual.version_timeout, metavar="SECONDS",
        help="until a client's first Tversion (default: %(default)g)",
    )  # fmt: skip
    group.add_argument(
        "--idle-timeout", type=SECONDS, default=usual.idle_timeout, metavar="SECONDS",
        help="a connection idle for so long makes room when all are taken (default: %(default)g)",
    )  # fmt: skip
