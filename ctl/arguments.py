"""What the command line of `llambo` may say. `ctl.cli` carries it out.

Nothing heavy may come in here: it is what every command starts with.
"""

from __future__ import annotations

import argparse
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Generator

    _Actions = Generator[argparse.Action, None, None]

_ADDRESS = "a socket's path, unix!PATH or tcp!HOST!PORT; the default socket if left out"

_EPILOG = """\
llambo COMMAND --help tells more.

for example:
  llambo serve                            (in one terminal)
  llambo ask 'What is a file server?'     (in another)

environment:
  LLAMBO_SOCKET  where a bridge is served, and where the other commands look for it; else
                 $NAMESPACE/llm, else $XDG_RUNTIME_DIR/llambo/9p, else /tmp/llambo-UID/9p
"""


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


def parser_for(words: list[str]) -> argparse.ArgumentParser:
    """What the arguments are; those of `serve` only where the words begin with it. The name of the
    command is its ``command``."""
    parser = argparse.ArgumentParser(
        "llambo", description="llama.cpp as files, over 9P.", epilog=_EPILOG,
        formatter_class=_Help,
    )  # fmt: skip
    parser.add_argument(
        "--version", action=_Versions, nargs=0,
        help="show the versions of llambo, llama.cpp and Python, and exit",
    )  # fmt: skip
    commands = parser.add_subparsers(
        dest="command", required=True, title="commands", metavar="COMMAND"
    )

    serve = _command(commands, "serve", "serve a bridge until a signal or QUIT")
    serve.allow_abbrev = False
    if words[:1] == ["serve"]:
        from ctl.options import add_options

        add_options(serve)
    _add_asking(commands)
    _add_watching(commands)
    _add_models(commands)
    _add_mounting(commands)
    completion = _command(commands, "completion", "print what makes a shell complete llambo")
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    return parser


_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add_asking(commands: _Commands) -> None:
    ask = _command(commands, "ask", "ask, and print the answer as it is generated")
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
        help="without a prompt, standard input is it; so is a word -, as in 'Summarise:' -",
    )


def _add_watching(commands: _Commands) -> None:
    status = _client_command(commands, "status", "what the bridge is doing")
    status.add_argument("--json", action="store_true", help="as the status file has it")
    top = _client_command(commands, "top", "watch what the bridge is doing")
    top.add_argument(
        "-d", "--delay", type=_delay, default=1.0, metavar="SECONDS",
        help="between two readings (default: 1)",
    )  # fmt: skip
    top.add_argument("-n", "--count", type=_count, help="end after so many intervals")
    top.add_argument(
        "-b", "--once", action="store_true",
        help="print one screen as text, or COUNT of them; so do pipes",
    )  # fmt: skip


def _add_models(commands: _Commands) -> None:
    models = _client_command(commands, "models", "the models that are loaded or can be")
    models.add_argument("-l", "--long", action="store_true", help="with their paths")
    load = _client_command(commands, "load", "load a model, with progress", "[ADDRESS] MODEL")
    load.add_argument(
        "-o", "--option", action="append", default=[], metavar="NAME=N", help="such as n_ctx=4096"
    )
    _client_command(commands, "free", "unload a model", "[ADDRESS] [MODEL]")
    pull = _command(commands, "pull", "download a model from the Hugging Face hub")
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


def _add_mounting(commands: _Commands) -> None:
    mount = _client_command(commands, "mount", "mount a bridge on a directory", "[ADDRESS] DIR")
    mount.add_argument(
        "-n", "--dry-run", action="store_true", help="only print the command that would mount"
    )
    mount.add_argument(
        "-a", "--aname", default="", metavar="SESSION",
        help="the session at the root: new, a name or a number (default: your main session)",
    )  # fmt: skip
    mount.add_argument(
        "--with", dest="mounter", choices=("kernel", "9pfuse"),
        help="mount with the kernel's 9p, or with plan9port's 9pfuse (default: the first of them "
        "that works here)",
    )  # fmt: skip
    umount = _command(commands, "umount", "undo a mount")
    umount.add_argument("directory", metavar="MOUNTPOINT")
    for each in (mount, umount):
        each.add_argument(
            "--timeout", type=_seconds, default=10, metavar="SECONDS",
            help="how long a mount may take to answer (default: %(default)g)",
        )  # fmt: skip
    dial = _command(commands, "dial", "relay between stdin/stdout and a bridge's socket")
    dial.add_argument("address", nargs="?", metavar="ADDRESS", help=_ADDRESS)


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


def _command(commands: _Commands, name: str, text: str) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")


def _client_command(
    commands: _Commands,
    name: str,
    text: str,
    words: str = "[ADDRESS]",
) -> argparse.ArgumentParser:
    parser = _command(commands, name, text)
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
