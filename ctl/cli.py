"""The `llambo` command: what its arguments are, and which module carries them out.

Client commands start fast, so each imports what it needs when it is chosen.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from ctl import __version__
from ctl.address import CommandError, default_socket, is_address

if TYPE_CHECKING:
    from ctl.client import Files

_ADDRESS = "a socket's path, unix!PATH or tcp!HOST!PORT; the default socket if left out"


def main() -> None:
    """Carry out the command line; ends the process with its status."""
    args = _parse()
    try:
        status = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has gone, as in `llambo models | head -1`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = 0
    except KeyboardInterrupt:
        status = 130
    except CommandError as error:
        print(f"llambo: {error}", file=sys.stderr)
        status = 1
    sys.exit(status)


def _parse() -> argparse.Namespace:
    parser = _parser()
    # argparse takes words with options between them only in part: `ask ADDRESS -s NAME PROMPT`.
    args, rest = parser.parse_known_args()
    if rest and (not hasattr(args, "words") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.words += rest
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("llambo", description="llama.cpp as files, over 9P")
    parser.add_argument("--version", action="version", version=f"llambo {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="serve a bridge until a signal or QUIT")
    serve.set_defaults(run=_serve)
    if sys.argv[1:2] == ["serve"]:
        from ctl.options import add_options

        add_options(serve)

    dial = commands.add_parser("dial", help="relay between stdin/stdout and a bridge's socket")
    dial.set_defaults(run=_dial)
    dial.add_argument("address", nargs="?", metavar="ADDRESS", help=_ADDRESS)

    ask = commands.add_parser("ask", help="ask, and print the answer as it is generated")
    ask.set_defaults(run=_ask)
    ask.add_argument(
        "-s", "--session", default="new", metavar="NAME",
        help="go on in the session of this name; '' is your main session (default: a fresh one)",
    )  # fmt: skip
    ask.add_argument(
        "-p", "--param", action="append", default=[], metavar="NAME=VALUE",
        help="a setting of params, as in -p temperature=0",
    )  # fmt: skip
    ask.add_argument("--system", metavar="TEXT", help="the system prompt")
    ask.add_argument(
        "words",
        nargs="*",
        metavar="[ADDRESS] PROMPT",
        help="without a prompt, standard input is it",
    )

    status = _client_command(commands, "status", "what the bridge is doing", _status)
    status.add_argument("--json", action="store_true", help="as the status file has it")
    load = _client_command(
        commands, "load", "load a model, with progress", _load, "[ADDRESS] MODEL"
    )
    load.add_argument(
        "-o", "--option", action="append", default=[], metavar="NAME=N", help="such as n_ctx=4096"
    )
    _client_command(commands, "free", "unload a model", _free, "[ADDRESS] [MODEL]")
    _client_command(commands, "models", "the models that are loaded or can be", _models)
    mount = _client_command(
        commands, "mount", "mount a bridge on a directory", _mount, "[ADDRESS] DIR"
    )
    mount.add_argument(
        "-n", "--dry-run", action="store_true", help="only print the command that would mount"
    )
    mount.add_argument(
        "-a", "--aname", default="", metavar="NAME",
        help="the session at the root: new, a name or a number (default: your main session)",
    )  # fmt: skip
    mount.add_argument(
        "--with", dest="mounter", choices=("kernel", "9pfuse"),
        help="mount with the kernel's 9p, or with plan9port's 9pfuse (default: the first of them "
        "that works here)",
    )  # fmt: skip
    umount = commands.add_parser("umount", help="undo a mount")
    umount.set_defaults(run=_umount)
    umount.add_argument("directory", metavar="DIR")
    for each in (mount, umount):
        each.add_argument(
            "--timeout", type=_seconds, default=10, metavar="SECONDS",
            help="how long a mount may take to answer (default: %(default)g)",
        )  # fmt: skip
    return parser


def _client_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    run: object,
    words: str = "[ADDRESS]",
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text)
    parser.set_defaults(run=run)
    parser.add_argument("words", nargs="*", metavar=words, help=f"ADDRESS: {_ADDRESS}")
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def _split(words: list[str], most: int) -> tuple[str | None, list[str]]:
    """The address, if the words begin with one, and the other words, ``most`` at most.

    Raises `CommandError` where there are too many.
    """
    named = bool(words) and (len(words) > most or is_address(words[0]))
    address, rest = (words[0], words[1:]) if named else (None, words)
    if len(rest) > most:
        raise CommandError(f"too many arguments: {' '.join(rest[most:])}")
    return address, rest


def _serve(args: argparse.Namespace) -> int:
    from ctl.serve import run

    return run(args)


def _dial(args: argparse.Namespace) -> int:
    from ctl.dial import relay

    return relay(args.address)


def _attach(address: str | None, aname: str = "") -> Files:
    from ctl.client import Files

    return Files(address, aname)


def _remote(run: object, *args: object) -> int:
    """Run a client command, an error of the bridge being one line on the terminal."""
    from py9p.client import RemoteError
    from py9p.messages import NinePError

    try:
        return run(*args)  # type: ignore[operator, no-any-return]
    except RemoteError as error:
        print(f"llambo: {error}", file=sys.stderr)
    except BrokenPipeError:
        raise
    except (NinePError, EOFError, ConnectionError) as error:
        print(f"llambo: the connection to the bridge is lost: {error}", file=sys.stderr)
    return 1


def _ask(args: argparse.Namespace) -> int:
    from ctl.ask import ask, read_prompt

    first = args.words[0] if args.words else ""
    # A path in front of more words is meant as an address, though no socket may be there.
    path = len(args.words) > 1 and first.startswith(("/", "./")) and not first.count(" ")
    named = path or is_address(first)
    address, words = (first, args.words[1:]) if named else (None, args.words)

    def run() -> int:
        prompt = read_prompt(words)
        if not prompt.strip():
            raise CommandError("ask: the prompt is empty")
        with _attach(address, args.session) as files:
            if args.param:
                lines = [param.replace("=", " ", 1) + "\n" for param in args.param]
                files.write("params", os.fsencode("".join(lines)))
            if args.system is not None:
                files.write("system", os.fsencode(args.system))
            return ask(files, prompt, sys.stdout.buffer, sys.stderr)

    return _remote(run)


def _status(args: argparse.Namespace) -> int:
    from ctl.show import show_status

    address, _ = _split(args.words, 0)

    def run() -> int:
        with _attach(address) as files:
            show_status(files, as_json=args.json)
        return 0

    return _remote(run)


def _load(args: argparse.Namespace) -> int:
    from ctl.show import load

    address, words = _split(args.words, 1)
    if not words:
        raise CommandError("load: which model? llambo models lists them")
    model = os.path.abspath(words[0]) if os.path.exists(words[0]) else words[0]

    def run() -> int:
        with _attach(address) as files, _attach(address) as watch:
            return load(files, watch, model, args.option)

    return _remote(run)


def _free(args: argparse.Namespace) -> int:
    from ctl.lines import quote

    address, words = _split(args.words, 1)

    def run() -> int:
        with _attach(address) as files:
            files.write("ctl", os.fsencode(" ".join(["FREE", *map(quote, words)])))
        return 0

    return _remote(run)


def _models(args: argparse.Namespace) -> int:
    from ctl.show import show_models

    address, _ = _split(args.words, 0)

    def run() -> int:
        with _attach(address) as files:
            show_models(files)
        return 0

    return _remote(run)


def _mount(args: argparse.Namespace) -> int:
    from ctl.mount import Request, mount

    address, words = _split(args.words, 1)
    if not words:
        raise CommandError("mount: on which directory? llambo mount [ADDRESS] DIR")
    request = Request(address or default_socket(), words[0], args.aname, args.mounter)
    return _remote(mount, request, args.timeout, args.dry_run)


def _umount(args: argparse.Namespace) -> int:
    from ctl.umount import umount

    return umount(args.directory, args.timeout)
