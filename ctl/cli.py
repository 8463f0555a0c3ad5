"""The `llambo` command: what its arguments are, and which module carries them out.

Client commands start fast, so each imports what it needs when it is chosen.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from ctl.address import CommandError, NoBridge, default_socket, is_address

if TYPE_CHECKING:
    from collections.abc import Generator

    from ctl.client import Files

    _Actions = Generator[argparse.Action, None, None]

_ADDRESS = "a socket's path, unix!PATH or tcp!HOST!PORT; the default socket if left out"

_EPILOG = """\
llambo COMMAND --help tells more.

for example:
  llambo serve &
  llambo ask 'What is a file server?'

environment:
  LLAMBO_SOCKET  where a bridge is served, and where the other commands look for it; else
                 $NAMESPACE/llm, else $XDG_RUNTIME_DIR/llambo/9p, else /tmp/llambo-UID/9p
"""


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
    if "_ARGCOMPLETE" in os.environ:
        from ctl.completion import complete, typed

        complete(_parser(typed()))
    parser = _parser(sys.argv[1:])
    # argparse takes words with options between them only in part: `ask ADDRESS -s NAME PROMPT`.
    args, rest = parser.parse_known_args()
    if rest and (not hasattr(args, "words") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.words += rest
    return args


class _Help(argparse.RawDescriptionHelpFormatter):
    """argparse indents the commands and forgets that when it reckons the column of their help."""

    def _iter_indented_subactions(self, action: argparse.Action) -> _Actions:
        yield from getattr(action, "_get_subactions", list)()


class _Versions(argparse.Action):
    """Like argparse's own, but what it prints is found out only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from ctl.versions import versions

        print(versions())
        parser.exit()


def _parser(words: list[str]) -> argparse.ArgumentParser:
    """What the arguments are; those of `serve` only where the words begin with it."""
    parser = argparse.ArgumentParser(
        "llambo", description="llama.cpp as files, over 9P.", epilog=_EPILOG,
        formatter_class=_Help,
    )  # fmt: skip
    parser.add_argument(
        "--version", action=_Versions, nargs=0,
        help="show the versions of llambo, llama.cpp and Python, and exit",
    )  # fmt: skip
    commands = parser.add_subparsers(required=True, title="commands", metavar="COMMAND")

    serve = commands.add_parser(
        "serve", allow_abbrev=False, help="serve a bridge until a signal or QUIT"
    )
    serve.set_defaults(run=_serve)
    if words[:1] == ["serve"]:
        from ctl.options import add_options

        add_options(serve)

    dial = commands.add_parser("dial", help="relay between stdin/stdout and a bridge's socket")
    dial.set_defaults(run=_dial)
    dial.add_argument("address", nargs="?", metavar="ADDRESS", help=_ADDRESS)

    ask = commands.add_parser("ask", help="ask, and print the answer as it is generated")
    ask.set_defaults(run=_ask)
    ask.add_argument(
        "-s", "--session", default="new", metavar="SESSION",
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
    models = _client_command(commands, "models", "the models that are loaded or can be", _models)
    models.add_argument("-l", "--long", action="store_true", help="with their paths")

    pull = commands.add_parser("pull", help="download a model from the Hugging Face hub")
    pull.set_defaults(run=_pull)
    pull.add_argument(
        "--retries", type=int, metavar="N",
        help="how often to go on by itself after a lost connection that brought nothing "
        "(default: 5)",
    )  # fmt: skip
    pull.add_argument(
        "model",
        metavar="REPO[:FILE]",
        help="OWNER/NAME at the hub; FILE is one of its files or a quantisation such as Q8_0 "
        "(default: the only one, or Q4_K_M)",
    )

    completion = commands.add_parser("completion", help="print what makes a shell complete llambo")
    completion.set_defaults(run=_completion)
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))

    top = _client_command(commands, "top", "watch what the bridge is doing", _top)
    top.add_argument(
        "-d", "--delay", type=_delay, default=1.0, metavar="SECONDS",
        help="between two readings (default: 1)",
    )  # fmt: skip
    top.add_argument("-n", "--count", type=_count, help="end after so many readings")
    top.add_argument(
        "-b", "--once", action="store_true",
        help="print one screen as text, or COUNT of them; so do pipes",
    )  # fmt: skip

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


def _delay(text: str) -> float:
    with suppress(ValueError):
        if 0.1 <= (seconds := float(text)) <= 3600:
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is not from 0.1 to 3600 seconds")


def _count(text: str) -> int:
    with suppress(ValueError):
        if (count := int(text)) >= 1:
            return count
    raise argparse.ArgumentTypeError(f"{text!r} is no number from 1")


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
