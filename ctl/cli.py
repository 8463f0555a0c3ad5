"""The `llambo` command: which module carries out what its arguments say.

Client commands start fast, so each imports what it needs when it is chosen.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from ctl.address import CommandError, NoBridge, default_socket, is_address
from ctl.arguments import parser_for

if TYPE_CHECKING:
    from ctl.client import Files


def main() -> None:
    """Carry out the command line; ends the process with its status."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # it was closed, as by `>&-`
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    try:
        args = _parse()
        status = COMMANDS[args.command](args)
        sys.stdout.flush()
    except OSError as error:
        # What is left for our output would be another error at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        # Its reader may have gone, as in `llambo models | head -1`.
        status = 0 if isinstance(error, BrokenPipeError) else 1
        if status:
            where = f"{error.filename}: " if error.filename else ""
            print(f"llambo: {where}{error.strerror or error}", file=sys.stderr)
    except KeyboardInterrupt:
        status = 130
    except CommandError as error:
        print(f"llambo: {error}", file=sys.stderr)
        status = 1
    sys.exit(status)


def _parse() -> argparse.Namespace:
    if {"_ARGCOMPLETE", "COMP_LINE"} <= os.environ.keys():
        from ctl.completion import complete, typed

        complete(parser_for(typed()))
    parser = parser_for(sys.argv[1:])
    # argparse takes words with options between them only in part: `ask ADDRESS -s NAME PROMPT`.
    args, rest = parser.parse_known_args()
    if rest and (not hasattr(args, "words") or any(word[:1] == "-" != word for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.words += rest
    return args


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
    from ctl.config import Invalid, printed, source_of

    source = source_of(sys.argv[2:])
    try:
        configuration = source.read()
        if args.print_config:
            print(printed(configuration), end="")
            return 0
    except Invalid as invalid:
        for error in invalid.errors:
            print(f"llambo: {error}", file=sys.stderr)
        return 2

    from ctl.serve import run

    return run(configuration, source)


def _dial(args: argparse.Namespace) -> int:
    from ctl.dial import relay

    return relay(args.address)


def _attach(address: str | None, aname: str = "") -> Files:
    from py9p.client import RemoteError

    from ctl.client import Files

    try:
        return Files(address, aname)
    except RemoteError as error:
        session = "" if aname in ("", "new") else f"session {aname}: "
        raise RemoteError(f"{session}{error}") from None


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
    model = os.path.abspath(words[0]) if os.path.isfile(words[0]) else words[0]

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
    from ctl.show import show_models, show_own_models

    address, _ = _split(args.words, 0)

    def run() -> int:
        try:
            files = _attach(address)
        except NoBridge as nobody:
            if address is not None:
                raise
            print(f"llambo: {nobody}; these are the models it would find", file=sys.stderr)
            show_own_models(long=args.long)
            return 0
        with files:
            show_models(files, long=args.long)
        return 0

    return _remote(run)


def _pull(args: argparse.Namespace) -> int:
    from ctl.pull import RETRIES, pull

    return pull(args.model, RETRIES if args.retries is None else args.retries)


def _completion(args: argparse.Namespace) -> int:
    from ctl.completion import script

    print(script(args.shell, sys.argv[0]))
    return 0


def _top(args: argparse.Namespace) -> int:
    from ctl.top import top

    address, _ = _split(args.words, 0)
    return _remote(lambda: top(address, args.delay, args.count, text=args.once))


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


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "serve": _serve,
    "ask": _ask,
    "status": _status,
    "top": _top,
    "models": _models,
    "load": _load,
    "free": _free,
    "pull": _pull,
    "mount": _mount,
    "umount": _umount,
    "dial": _dial,
    "completion": _completion,
}
