"""Makes docs/session.svg, the picture in the README: a terminal in which a bridge is used.

    LLAMBO_PLAN9=/usr/local/plan9 python -m benchmarks.picture

A shell runs on a terminal of its own, and all that stands in the picture is what it printed: the
bridge is real, and SmolLM2 answers. The mount takes plan9port's 9pfuse, on the PATH or in
`LLAMBO_PLAN9`.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from benchmarks import plan9
from benchmarks.bridge import LLAMBO, until

PICTURE = Path(__file__).parents[1] / "docs" / "session.svg"

WIDTH, HEIGHT = 92, 60
"""Characters and lines of the terminal."""

PROMPT = b"\x1b[1;32m$ \x1b[0m"

COMMANDS = (
    "llambo serve 2>log &",
    "llambo ask -p seed=1 'What is a file server?'",
    "llambo mount mnt",
    "ls mnt",
    "echo 'seed 1' > mnt/params",
    "echo 'Write a haiku about files.' > mnt/prompt; cat mnt/output; echo",
    "cat mnt/usage",
)
"""What is typed, the first of them to begin with: the others wait until its socket is there."""

THEME = TerminalTheme(
    (24, 26, 31),
    (214, 216, 220),
    [(24, 26, 31), (224, 108, 117), (152, 195, 121), (229, 192, 123),
     (97, 175, 239), (198, 120, 221), (86, 182, 194), (214, 216, 220)],
)  # fmt: skip

SVG = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<title>A terminal: llambo ask answers a question; a mount has the files, and answers another</title>
<style>
.{unique_id}-matrix {{
    font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace;
    font-size: {char_height}px;
    line-height: {line_height}px;
}}
{styles}
</style>
<defs>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""As rich's own, which fetches its font from a network."""


class Shell:
    """A shell, and what its terminal has shown."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.shown = b""
        self._terminal, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("4H", HEIGHT, WIDTH, 0, 0))
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "--noediting", "+H", "-i"], cwd=folder, stdin=its,
            stdout=its, stderr=its, start_new_session=True,
            env={**environ, "PS1": PROMPT.decode(), "TERM": "xterm-256color"},
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(its)
        self._until_prompt()

    def type(self, command: str) -> None:
        """A command, to the next prompt."""
        os.write(self._terminal, command.encode() + b"\n")
        self._until_prompt()

    def _until_prompt(self) -> None:
        before = len(self.shown)
        while not self.shown.endswith(PROMPT) or len(self.shown) == before:
            self.shown += os.read(self._terminal, 65536)

    def close(self) -> None:
        """End it."""
        os.write(self._terminal, b"exit\n")
        self._process.wait()
        os.close(self._terminal)


def session(folder: Path) -> str:
    """What a terminal shows when these commands are typed. Raises SystemExit without 9pfuse."""
    programs = plan9.find()
    if programs is None:
        raise SystemExit("plan9port is missing: name its root in LLAMBO_PLAN9")
    environ = plan9.environ(programs, folder)
    environ["PATH"] = f"{Path(LLAMBO).parent}:{environ['PATH']}"
    environ["LLAMBO_SOCKET"] = str(folder / "9p")
    (folder / "mnt").mkdir()
    shell = Shell(folder, environ)
    first, *others = COMMANDS
    shell.type(first)
    try:
        if not until(lambda: (folder / "9p").exists()):
            raise SystemExit((folder / "log").read_text())
        for command in others:
            shell.type(command)
        return shell.shown.removesuffix(PROMPT).decode().replace("\r\n", "\n").rstrip()
    finally:
        shell.type("llambo umount mnt; kill %1; wait")
        shell.close()


def draw(shown: str) -> str:
    """The picture of a terminal that shows this."""
    console = Console(
        width=WIDTH, record=True, force_terminal=True, color_system="truecolor", file=io.StringIO()
    )
    console.print(Text.from_ansi(shown), overflow="fold")
    return console.export_svg(theme=THEME, title="", code_format=SVG, unique_id="llambo")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        shown = session(Path(folder))
    PICTURE.write_text(draw(shown))
    sys.stdout.write(shown + "\n")


if __name__ == "__main__":
    main()
