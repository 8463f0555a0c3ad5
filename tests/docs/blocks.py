"""The examples in the documentation: blocks of code, and what is typed and shown in them.

Pure: text in, data out. Who runs a block stands in `tests.docs.table`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

PROMPTS = "$%;#"
"""Of a shell, of rc, of Inferno's, of root's."""

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?<=\n\n)((?: {4}\S.*\n(?:\n(?= {4}))?)+)")


@dataclass(frozen=True)
class Block:
    """A block of code. key: its first line, by which the table knows it."""

    page: str
    language: str
    text: str

    @property
    def key(self) -> str:
        return self.text.split("\n", 1)[0].strip()

    @property
    def id(self) -> str:
        """What a test of it is called: without what runners and shells cut names at."""
        return re.sub(r"[^\w.]+", "-", f"{self.page} {self.key}").strip("-")


@dataclass(frozen=True)
class Step:
    """What is typed, and what is shown behind it."""

    typed: str
    shown: str


def pages() -> list[str]:
    """Those of the README and of docs/."""
    return ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


def blocks(page: str) -> list[Block]:
    """Fenced ones and indented ones, in their order but for that."""
    text = (ROOT / page).read_text()
    found = [Block(page, m[1], m[2]) for m in _FENCED.finditer(text)]
    rest = _FENCED.sub("", text)
    return found + [Block(page, "", m[1]) for m in _INDENTED.finditer(rest)]


def steps(block: Block) -> list[Step]:
    """The lines with a prompt before them, each with the lines to the next."""
    found: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line[:1] in PROMPTS and line[1:2] == " ":
            found.append((line[2:], []))
        elif found:
            found[-1][1].append(line)
    return [Step(typed, "\n".join(shown)) for typed, shown in found]


def alike(shown: str, printed: str, words: tuple[str, ...] = ()) -> bool:
    """Whether a program printed what the page shows.

    Numbers may be others and white space is not compared. ``…`` stands for anything, and so do
    words: what a model said, which depends on the machine.
    """
    for each in words:
        shown = shown.replace(each, "…")
    shown, printed = _plain(shown), _plain(printed)
    pattern = r"\s*".join(".*" if part == "…" else re.escape(part) for part in _parts(shown))
    return re.fullmatch(rf"\s*{pattern}\s*", printed, flags=re.DOTALL) is not None


def _parts(text: str) -> list[str]:
    return [part for word in text.split() for part in re.split("(…)", word) if part]


def _plain(text: str) -> str:
    return re.sub(r"\d+(?:\.\d+)*", "0", text)
