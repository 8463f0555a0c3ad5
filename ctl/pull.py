"""`llambo pull`: a model from the Hugging Face hub, with its progress. Needs no bridge."""

from __future__ import annotations

import os
import shlex
import sys
import time
from contextlib import nullcontext
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from ctl.address import CommandError
from ctl.pick import choose, target

RETRIES = 5
"""How often a connection that brought nothing is tried again, as huggingface_hub does."""


class _Report:
    """The progress of a download: a bar on a terminal, a line every tenth of it elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=console) if console.is_terminal else None
        self.showing = self._bar or nullcontext()
        self._name = ""
        self._total: int | None = None
        self._done = self._first = 0
        self._began = 0.0

    @property
    def kept(self) -> str | None:
        """What a new download of the file that is on its way can go on from."""
        return f"{decimal(self._done)} of {self._name}" if self._total and self._done else None

    def begin(self, name: str, total: int | None, done: int) -> None:
        """A file of ``total`` bytes begins, or begins again, with ``done`` of them there."""
        again = name == self._name
        self._name, self._total = name, total
        self._done = self._first = done
        self._began = time.monotonic()
        if self._bar is not None:
            if again:
                self._bar.remove_task(self._bar.task_ids[-1])
            self._bar.add_task(PurePosixPath(name).name, total=total, completed=done)
        elif not again:
            self.say(name if total is None else f"{name}, {decimal(total)}")
        if again:
            self.say("the hub gives the file from its beginning only")
        elif done:
            self.say(f"{decimal(done)} are here already; going on from there")

    def advance(self, count: int) -> None:
        """So many bytes came."""
        before, self._done = self._done, self._done + count
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[-1], count)
        elif self._total and before * 10 // self._total < self._done * 10 // self._total:
            seconds = max(time.monotonic() - self._began, 1e-3)
            speed = (self._done - self._first) / seconds
            left = max(self._total - self._done, 0) / speed
            self.say(
                f"{self._done / self._total:4.0%}  {decimal(self._done)} of "
                f"{decimal(self._total)}, {decimal(int(speed))}/s, {left:.0f} s left"
            )

    def say(self, text: str) -> None:
        """A line for the user."""
        self._console.print(text, markup=False)


def pull(words: str, retries: int) -> int:
    """Bring the model that ``REPO[:FILE]`` names into the hub's cache; the exit status.

    Prints its path, and on standard error how it is loaded. Raises `CommandError`.
    """
    repo, wanted = target(words)
    report = _Report(Console(stderr=True, highlight=False, soft_wrap=True))
    try:
        name, path = _pull(repo, wanted, retries, report)
    except KeyboardInterrupt:
        kept = report.kept
        report.say(
            f"llambo: interrupted: {kept} is kept, and the same command goes on from there"
            if kept
            else "llambo: interrupted before anything came"
        )
        return 130
    Console(highlight=False, soft_wrap=True).print(path, markup=False)
    report.say(f"load it with: llambo load {shlex.quote(name)}")
    return 0


def _pull(repo: str, wanted: str | None, retries: int, report: _Report) -> tuple[str, str]:
    """The name of the model, or its path where no bridge finds it, and that path: of its first
    part."""
    _check_endpoint()
    try:
        from ctl import download
    except ImportError:
        raise CommandError(
            "pull needs the Python package huggingface_hub: "
            f"{shlex.quote(sys.executable)} -m pip install huggingface_hub filelock"
        ) from None
    with download.explained(repo):
        commit, sizes = download.listing(repo)
        choice = choose(repo, sizes, wanted)
        remotes = [download.look(repo, file, commit) for file in choice.files]
        missing = [remote for remote in remotes if not download.is_cached(remote)]
        if missing:
            download.check_room(missing)
            with report.showing:
                for remote in missing:
                    download.fetch(remote, retries, report)
        else:
            report.say(f"{choice.files[0]} is here already")
        paths = [download.link(remote) for remote in remotes]
        download.check_models(paths)
    return choice.name or paths[0], paths[0]


def _check_endpoint() -> None:
    """Raises `CommandError` if HF_ENDPOINT is no address; huggingface_hub fails at its import."""
    endpoint = os.environ.get("HF_ENDPOINT")
    if endpoint is None:
        return
    try:
        parts = urlsplit(endpoint)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise CommandError(f"HF_ENDPOINT is no address of a hub: {endpoint}")
