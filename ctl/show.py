"""What the client commands print: the state of a bridge, its models, the progress of a load."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import takewhile
from typing import Any

import msgspec
from py9p.client import RemoteError
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ctl.client import Files
from ctl.lines import quote

_POLL = 0.1
"""Seconds between two looks at a load's progress."""

NOBODY = "none"
"""The owner of a session that nobody authenticated."""

Json = dict[str, Any]


def show_status(files: Files, *, as_json: bool) -> None:
    """What the bridge is doing: a few lines, or the file's JSON as it is."""
    text = files.read("status").decode()
    console = Console(highlight=False, soft_wrap=True)
    if as_json:
        console.out(text, end="")
        return
    status: Json = msgspec.json.decode(text)
    bridge, session = status["bridge"], status["session"]
    # Only this file has the replicas.
    model: Json = msgspec.json.decode(files.read("model"))
    lines = bridge["line_connections"]
    rows = [
        (
            "bridge",
            f"{bridge['version']}, up {bridge['uptime']:.0f} s, "
            f"{bridge['running']} answering, {bridge['queued']} queued, "
            f"sessions: {bridge['sessions']}, connections: {bridge['connections']}"
            + (f" and {lines} of the line protocol" if lines else ""),
        ),
        ("model", _describe(model)),
        *(("", text) for text in (model["path"], model["error"], model["note"]) if text),
        (
            "session",
            f"{session['id']} of {session['owner']}, {session['state']}, turns: {session['turns']}",
        ),
    ]
    if session["error"]:
        rows.append(("", f"last error: {session['error']}"))
    for name, text in rows:
        console.print(f"{name:8} {text}", markup=False)


def _describe(model: Json) -> str:
    if model["state"] == "none":
        again = "unloaded; the next question loads it again"
        return f"{model['name']}, {again}" if model["name"] else "none loaded"
    facts = [f"{model['name']}, {model['state']}"]
    if model["state"] == "loading":
        facts[0] += f" {model['progress']:.0%}"
    facts += filter(None, [_replicas(model)])
    if model["parameters"]:
        facts.append(f"{model['parameters'] / 1e6:.0f} M parameters")
    facts += filter(None, [model["quantization"]])
    if model["memory_bytes"]:
        facts.append(f"{decimal(model['memory_bytes'])} of memory")
    if model["n_ctx"]:
        facts.append(f"context of {model['n_ctx']} tokens")
    return ", ".join(facts)


def _all_models(files: Files) -> Iterator[Json]:
    for name in files.names("models"):
        # One that is listed may be gone by now.
        with suppress(RemoteError):
            yield msgspec.json.decode(files.read(f"models/{name}"))


def show_models(files: Files, *, long: bool) -> None:
    """A table of the models that are loaded or can be. long: with their paths."""
    _show(_all_models(files), long=long)


def show_own_models(*, long: bool) -> None:
    """The same of the models that a bridge would find if one were started."""
    from ctl.local import models

    _show(map(msgspec.to_builtins, models()), long=long)


def _show(models: Iterable[Json], *, long: bool) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("name", overflow="fold")
    table.add_column("state", no_wrap=True)
    for column in ("size", "context"):
        table.add_column(column, no_wrap=True, justify="right")
    for column in ("quant", "arch", "from", *(["path"] if long else [])):
        table.add_column(column, overflow="fold")
    for model in models:
        cells = (
            model["name"],
            _state(model),
            decimal(model["file_bytes"]) if model["file_bytes"] else "",
            str(model["n_ctx_train"] or ""),
            model["quantization"] or "",
            _architecture(model),
            model["source"] or "",
            *([model["path"]] if long else []),
        )
        table.add_row(*map(Text, cells))
    # In a pipe there is no edge to fold at, and a folded path cannot be copied.
    folds = sys.stdout.isatty() and not long
    Console(highlight=False, soft_wrap=not folds, width=None if folds else 1000).print(table)


def _state(model: Json) -> str:
    """Of a model that is not loaded, whether it could be."""
    if model["state"] == "none":
        return {True: "fits", False: "too large"}.get(model["fits"], "")
    return ", ".join(filter(None, [model["state"], _replicas(model)]))


def _replicas(model: Json) -> str:
    """How many there are; of a model that runs on no cluster nothing."""
    states = [replica["state"] for replica in model.get("replicas", ())]
    if not states:
        return ""
    ready, there = states.count("ready"), len(states)
    count = f"{there}" if ready == there else f"{ready} of {there}"
    return f"{count} replica" + ("s" if there != 1 else "")


def _architecture(model: Json) -> str:
    """With what it is, where that is no model, and why it is none, where it cannot be read."""
    if model["error"] and not model["architecture"]:
        return "unreadable"
    kind = "" if model["type"] in (None, "model") else f" {model['type']}"
    return (model["architecture"] or "") + kind


def _loading(watch: Files) -> Json | None:
    """The model that the user's main session is loading, and its progress."""
    session: Json = msgspec.json.decode(watch.read("status"))["session"]
    if session["loading"] is not None or session["owner"] != NOBODY:
        found: Json | None = session["loading"]
        return found
    # Over TCP each attach has a main session of its own.
    loaded = takewhile(lambda model: model["state"] != "none", _all_models(watch))
    return next((model for model in loaded if model["state"] == "loading"), None)


def load(files: Files, watch: Files, model: str, options: list[str]) -> int:
    """Load a model over one attach and show the progress seen over the other; the exit status.

    Raises ``py9p.RemoteError`` with the bridge's reason.
    """
    failed: list[Exception] = []

    def write() -> None:
        try:
            files.write("ctl", os.fsencode(" ".join(["LOAD", quote(model), *options])))
        except Exception as error:
            failed.append(error)

    loading = threading.Thread(target=write, daemon=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    # Elsewhere than on a terminal it would leave an empty line.
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task("loading", total=1.0)
        loading.start()
        while loading.is_alive():
            loading.join(_POLL)
            if known := _loading(watch):
                progress.update(task, description=known["name"], completed=known["progress"])
    if failed:
        if isinstance(failed[0], RemoteError):
            # The error on the wire is cut at 127 bytes; ctl has all of it.
            raise RemoteError(msgspec.json.decode(files.read("ctl"))["message"])
        raise failed[0]
    loaded = _describe(msgspec.json.decode(files.read("model")))
    Console(highlight=False, soft_wrap=True).print(loaded, markup=False)
    return 0
