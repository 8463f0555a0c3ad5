"""How `llambo top` looks: a `View` drawn for a terminal of some width and height.

Names come from the bridge and are shown as they are: as Text, which knows no markup, and without
characters that a terminal would obey.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.table import Column, Table
from rich.text import Text

from ctl.readings import ModelState, Reading, Track

_STATES = {
    "generating": "green",
    "prefill": "green",
    "queued": "yellow",
    "loading": "yellow",
    "failed": "red",
}

_NONE = "-"
"""Where nothing is known."""

_TALL = 30
"""Lines from which on there is room for a sparkline of `_TALL_SPARK` lines."""

_TALL_SPARK = 4

_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII_BLOCKS = "_.:-=+*#"

_LONGEST = 200
"""Characters of a name that are looked at: no terminal shows more."""


@dataclass(frozen=True, slots=True)
class View:
    """What is on the screen.

    where: the bridge's address. now: of the clock of the readings, in seconds. corner: what
    stands at the upper right. notice: what is wrong, or empty.
    """

    track: Track
    where: str
    now: float
    corner: str = ""
    notice: str = ""


@dataclass(frozen=True, slots=True)
class Layout:
    """Lines of each part."""

    spark: int
    gap: int
    models: int
    nodes: int
    sessions: int


def layout(height: int, models: int, nodes: int = 0) -> Layout:
    """How ``height`` lines are divided, with so many models and nodes of a cluster."""
    spark, gap = (_TALL_SPARK, 1) if height >= _TALL else (1, 0)
    # The head and a line for what is wrong; the facts; of each other part the title and a line
    # above it, which for the sessions tells of models that are not shown.
    rest = height - (2 + _FACTS + 2 + spark + 2 + gap + 2)
    # The title of the nodes, and the line that tells of those that are not shown.
    rest -= 2 if nodes else 0
    rows = max(1, min(models, rest // (3 if nodes else 2)))
    node_rows = max(1, min(nodes, (rest - rows) // 2)) if nodes else 0
    return Layout(spark, gap, rows, node_rows, max(1, rest - rows - node_rows))


def known_nodes(reading: Reading) -> int:
    """How many nodes the cluster has, shown or not."""
    return len(reading.nodes) + reading.more_nodes


def draw(view: View, width: int, height: int, *, ascii_only: bool = False) -> Group:
    """The screen, of ``height`` lines at most where there are 24, none wider than ``width``."""
    reading = view.track.last
    notice = Text(_notice(view, reading), "bold red", no_wrap=True, overflow="ellipsis")
    corner = Text(view.corner, "dim")
    if reading is None:
        return Group(_ends(Text(f"llambo, at {plain(view.where)}"), corner, width), notice)
    parts = layout(height, len(reading.models), known_nodes(reading))
    spark = _sparkline(view, width, parts.spark, _ASCII_BLOCKS if ascii_only else _BLOCKS)
    return Group(
        _ends(_head(view, reading), corner, width),
        notice,
        _facts(view.track, reading, width),
        Text(),
        *spark,
        Text(),
        _models(reading, view.track, parts.models),
        _other_models(reading, parts.models),
        *_nodes(reading, parts.nodes),
        *[Text()] * parts.gap,
        _sessions(reading, parts.sessions),
    )


def plain(text: str) -> str:
    """The text without what a terminal would not print but do."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _name(text: str, style: str = "") -> Text:
    return Text(plain(text[:_LONGEST]), style, no_wrap=True, overflow="ellipsis")


def _ends(left: Text, right: Text, width: int) -> RenderableType:
    """A line with something at either end; the left end is cut where both have no room."""
    left.truncate(max(0, width - right.cell_len - 1), overflow="ellipsis", pad=True)
    return Text.assemble(left, " ", right, no_wrap=True, overflow="crop")


def _head(view: View, reading: Reading) -> Text:
    bridge = reading.status.bridge
    text = Text.assemble(("llambo ", "bold"), (plain(bridge.version[:_LONGEST]), "bold"))
    return text.append(f", up {duration(bridge.uptime)}, at {plain(view.where)}")


def _notice(view: View, reading: Reading | None) -> str:
    if view.notice or reading is None:
        return plain(view.notice)
    for model in reading.models:
        if model.state == "failed" and model.error:
            return plain(f"{model.name}: {model.error}"[:_LONGEST])
    if reading.metrics is None:
        return "this bridge has no file metrics, so rates are not known"
    return ""


# Facts

_FACTS = 5


def _facts(track: Track, reading: Reading, width: int) -> Table:
    """What there is to say of the bridge as a whole."""
    rows = zip(_work(track, reading), _means(track, reading), strict=True)
    table = Table.grid(
        Column(style="dim", no_wrap=True),
        Column(no_wrap=True, overflow="ellipsis", ratio=1),
        Column(style="dim", no_wrap=True),
        Column(no_wrap=True, overflow="ellipsis", ratio=1),
        padding=(0, 2, 0, 0),
    )
    table.width = width
    for left, right in rows:
        table.add_row(*left, *right)
    return table


def _work(track: Track, reading: Reading) -> list[tuple[str, Text]]:
    """The left half: the answers."""
    rates, metrics, bridge = track.rates, reading.metrics, reading.status.bridge
    prompt = metrics.total("llambo_prompt_tokens_total") if metrics else None
    cached = metrics.total("llambo_cached_tokens_total") if metrics else None
    whole = cached / prompt if prompt and cached is not None else None
    return [
        ("answers", Text(f"{bridge.running} running, {bridge.queued} queued")),
        ("generated", Text(f"{number(rates.generated if rates else None)} tokens/s")),
        ("prompts", Text(f"{number(rates.prompt if rates else None)} tokens/s")),
        ("reused", _recent(rates.reused if rates else None, track.reused, share)
            .append(f" of late, {share(whole)} in all")),
        ("first token", _recent(rates.first_token if rates else None, track.first_token, brief)
            .append(" after the question" if track.first_token is not None else "")),
    ]  # fmt: skip


def _means(track: Track, reading: Reading) -> list[tuple[str, Text]]:
    """The right half: what it takes."""
    rates, bridge = track.rates, reading.status.bridge
    lines = bridge.line_connections
    connections = f"{bridge.connections} of 9P" + (f", {lines} of lines" if lines else "")
    resident = reading.metrics.total("process_resident_memory_bytes") if reading.metrics else None
    models = sum(model.memory_bytes or 0 for model in reading.models)
    memory = size(resident) + (f", models {size(models)}" if models else "")
    rpcs = _NONE
    if rates is not None:
        own = reading.rpcs / rates.seconds
        rpcs = f"{number(round(rates.rpcs))}, {number(round(own))} of them top's"
    return [
        ("sessions", Text(str(bridge.sessions))),
        ("connections", Text(connections)),
        ("RPCs/s", Text(rpcs)),
        ("memory", Text(memory)),
        ("processor", Text(f"{share(rates.processor if rates else None)} of a core")),
    ]


def _recent(now: float | None, last: float | None, show: Callable[[float | None], str]) -> Text:
    """What the last interval had, or, paler, one before it."""
    return Text().append(show(last), "" if now is not None else "dim")


# Parts


def _sparkline(view: View, width: int, height: int, blocks: str) -> list[Text]:
    history = view.track.history
    cells = history.cells(width, view.now)
    known = [cell for cell in cells if cell is not None]
    top = max(known, default=0.0)
    span = duration(history.seconds_a_cell(width) * width)
    title = Text.assemble(
        ("TOKENS/S", "bold"), (f" of the last {span}, at most {number(top)}", "dim"),
        no_wrap=True, overflow="ellipsis",
    )  # fmt: skip
    full = len(blocks) * height
    levels = [None if cell is None else round(cell / top * full) if top else 0 for cell in cells]
    lines = []
    for below in range((height - 1) * len(blocks), -1, -len(blocks)):
        line = "".join(_block(level, below, blocks) for level in levels)
        lines.append(Text(line, "cyan", no_wrap=True, overflow="crop"))
    return [title, *lines]


def _block(level: int | None, below: int, blocks: str) -> str:
    """The part of a bar in one line of it. below: eighths of a line under this line."""
    if level is None or (level <= below and below):
        return " "
    # What is known and nothing has a foot, too: else it would look as if it was not known.
    return blocks[min(max(level - below, 1), len(blocks)) - 1]


def _models(reading: Reading, track: Track, rows: int) -> Table:
    # Only a cluster has replicas.
    replicas = ["REPLICAS"] if any(model.replicas for model in reading.models) else []
    titles = (*replicas, "MEMORY", "TOKENS/S", "RUNNING", "RESTARTS")
    table = _table(_names("MODEL"), _words("STATE"), *map(_numbers, titles))
    by_model = track.rates.by_model if track.rates else None
    for model in reading.models[:rows]:
        table.add_row(
            _name(model.name),
            _state(model.state, model.progress),
            *([_replicas(model)] if replicas else []),
            size(model.memory_bytes),
            number(None if by_model is None else by_model.get(model.name, 0.0)),
            number(_running(reading, model)),
            number(model.restarts),
        )
    return table


def _replicas(model: ModelState) -> str:
    """How many there are, and before it how many of them can answer, where not all can."""
    ready = sum(each.state == "ready" for each in model.replicas)
    there = len(model.replicas)
    return number(there) if ready == there else f"{number(ready)}/{number(there)}"


def _running(reading: Reading, model: ModelState) -> float | None:
    """Its answers: those of all where there is no other model."""
    if reading.metrics is not None:
        by_model = reading.metrics.by("model", "llambo_requests_running")
        if by_model:
            return by_model.get(model.name, 0.0)
    return reading.status.bridge.running if len(reading.models) == 1 else None


def _other_models(reading: Reading, rows: int) -> Text:
    """What is not among the rows."""
    more, loadable = len(reading.models[rows:]), reading.loadable
    texts = [f"{more} more"] if more else []
    texts += [f"{loadable} {'more ' if not more else ''}can be loaded"] if loadable else []
    return Text(f"… {', '.join(texts)}" if texts else "", "dim", no_wrap=True, overflow="ellipsis")


def _nodes(reading: Reading, rows: int) -> list[RenderableType]:
    """The nodes of a cluster, and how many more there are; nothing where it is none."""
    if not rows:
        return []
    table = _table(
        _names("NODE"),
        _words("ADDRESS"),
        *map(_numbers, ("CPUS", "RUNNING", "QUEUED", "TOKENS/S")),
    )
    shown = reading.nodes[:rows]
    for node in shown:
        cpus = f"{number(node.used.get('CPU', 0.0))}/{number(node.resources.get('CPU', 0.0))}"
        table.add_row(
            _name(node.name),
            _name(node.address),
            Text(cpus) if node.alive else Text("lost", "red"),
            number(node.running),
            number(node.queued),
            number(node.tokens_per_second),
        )
    more = known_nodes(reading) - len(shown)
    return [table, Text(f"… {more} more" if more else "", "dim")]


def _sessions(reading: Reading, rows: int) -> RenderableType:
    table = _table(
        _numbers("SESSION"),
        _words("STATE"),
        _names("MODEL"),
        *map(_numbers, ("TURNS", "PROMPT", "GENERATED")),
    )
    more = reading.more
    shown = reading.sessions
    if len(shown) + more > rows:
        shown, more = shown[: rows - 1], more + len(shown[rows - 1 :])
    for row in shown:
        session, total = row.session, row.total
        table.add_row(
            str(session.id),
            _state(session.state),
            _name(row.model),
            number(session.turns),
            number(total.prompt_tokens),
            number(total.completion_tokens),
        )
    return Group(table, Text(f"… {more} more", "dim")) if more else table


def _table(*columns: Column) -> Table:
    """One with a line of titles and a line a row."""
    return Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")


def _names(title: str) -> Column:
    # What may wrap is what a Table makes narrower; a name itself does not wrap, and is cut.
    return Column(title)


def _words(title: str) -> Column:
    return Column(title, no_wrap=True, overflow="ellipsis")


def _numbers(title: str) -> Column:
    return Column(title, justify="right", no_wrap=True, overflow="ellipsis")


def _state(state: str, progress: float | None = None) -> Text:
    text = Text(plain(state[:_LONGEST]), _STATES.get(state, ""))
    return text.append(f" {share(progress)}") if state == "loading" else text


# Numbers


def number(value: float | None) -> str:
    """Three or four digits of it; ``-`` where it is not known."""
    if value is None:
        return _NONE
    if value < 9999.5:
        return f"{value:.0f}" if value >= 99.95 or value == int(value) else f"{value:.1f}"
    units = ["k", "M", "G"]
    while (value := value / 1000) >= 9999.5 and len(units) > 1:
        units.pop(0)
    return f"{value:.1f} {units[0]}"


def share(value: float | None) -> str:
    """Per cent."""
    return _NONE if value is None else f"{value:.0%}".replace("%", " %")


def size(value: float | None) -> str:
    """Bytes."""
    return _NONE if value is None else decimal(int(value))


def brief(seconds: float | None) -> str:
    """A time of less than a minute, mostly."""
    if seconds is None:
        return _NONE
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def duration(seconds: float) -> str:
    """A time in its two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    while len(units) > 1 and not units[0][0]:
        units.pop(0)
    shown = [f"{count} {unit}" for count, unit in units[:2] if count]
    return " ".join(shown) or "0 s"
