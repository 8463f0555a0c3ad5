"""`llambo top`: what two readings tell, which files a reading reads, and how it looks."""

import inspect
import io
import json
from dataclasses import replace

import msgspec
import pytest
import trio
from py9p.client import RemoteError
from py9p.messages import Dir
from py9p.native import encode_dir
from rich.cells import cell_len
from rich.console import Console

from ctl.address import CommandError
from ctl.readings import (
    KEPT,
    History,
    Metrics,
    ModelState,
    NodeState,
    Reading,
    ReplicaState,
    SessionRow,
    SessionState,
    StatusFile,
    Totals,
    Track,
    median,
    parse,
    rates,
)
from ctl.screen import View, draw, duration, layout, number
from ctl.watch import LOOKED_AT, Watch
from fs9p import Directory, Error
from tests.ctl.cluster import node
from tests.ctl.conftest import Client
from tests.docs.blocks import alike, blocks

STATUS = {
    "session": {"id": 0, "state": "idle", "turns": 0},
    "model": {"name": "echo", "state": "ready"},
    "bridge": {"version": "1", "uptime": 60.0, "sessions": 1, "connections": 1, "queued": 0,
               "running": 2, "requests": 0},
}  # fmt: skip

BUCKETS = 'llambo_time_to_first_token_seconds_bucket{{model="{}",le="{}"}} {}'


def page(**counters):
    """A page of metrics; of a counter by model the values are a dict."""
    lines = []
    for name, value in {"process_start_time_seconds": 1, **counters}.items():
        for model, count in value.items() if isinstance(value, dict) else [("", value)]:
            labels = f'{{model="{model}"}}' if model else ""
            lines.append(f"{name}{labels} {count}")
    return "\n".join([*lines, ""])


def reading(when, text=None, *, uptime=60.0, **more):
    """One at that moment, with this page of metrics."""
    bridge = {**STATUS["bridge"], "uptime": uptime}
    status = parse(json.dumps({**STATUS, "bridge": bridge}).encode(), StatusFile)
    return Reading(when, status, metrics=Metrics.parse(text) if text else None, **more)


def generated(count, **more):
    return page(llambo_completion_tokens_total=count, **more)


# What two readings tell


def test_tokens_a_second_are_of_each_model_and_of_all():
    known = rates(
        reading(10, generated({"a": 100, "b": 7})), reading(12, generated({"a": 150, "b": 7}))
    )
    assert known.generated == 25
    assert known.by_model == {"a": 25, "b": 0}


def test_a_model_that_is_new_counts_from_nothing():
    known = rates(reading(0, generated({"a": 5})), reading(1, generated({"a": 5, "b": 3})))
    assert known.by_model == {"a": 0, "b": 3}


def test_a_counter_that_began_anew_gives_no_negative_rate():
    known = rates(reading(0, generated({"a": 5000})), reading(2, generated({"a": 10})))
    assert known.generated == 5


@pytest.mark.parametrize(
    "again",
    [
        reading(20, generated(9e6), uptime=3.0),
        reading(20, generated(9e6, process_start_time_seconds=15), uptime=90.0),
    ],
)
def test_a_bridge_that_was_started_anew_has_no_rates_at_first(again):
    assert rates(reading(0, generated(5)), again) is None


def test_without_metrics_there_are_no_rates():
    assert rates(reading(0), reading(1)) is None


def test_the_reused_share_is_of_the_interval():
    old = page(llambo_prompt_tokens_total=1000, llambo_cached_tokens_total=0)
    new = page(llambo_prompt_tokens_total=1200, llambo_cached_tokens_total=150)
    assert rates(reading(0, old), reading(1, new)).reused == 0.75
    assert rates(reading(0, new), reading(1, new)).reused is None


def test_the_first_token_of_the_interval_is_a_median_over_all_models():
    def text(*counts):
        return "\n".join(BUCKETS.format(*row) for row in counts) + "\n"

    old = text(("a", "0.1", 50), ("a", "0.2", 50), ("a", "+Inf", 50))
    new = text(
        ("a", "0.1", 50), ("a", "0.2", 52), ("a", "+Inf", 52),
        ("b", "0.1", 0), ("b", "0.2", 2), ("b", "+Inf", 2),
    )  # fmt: skip
    assert rates(reading(0, old), reading(1, new)).first_token == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("buckets", "seconds"),
    [
        ({}, None),
        ({"0.1": 0, "+Inf": 0}, None),
        ({"0.1": 4, "+Inf": 4}, 0.05),
        ({"0.1": 0, "1": 4, "+Inf": 4}, 0.55),
        ({"0.1": 0, "1": 0, "+Inf": 4}, 1.0),
    ],
)
def test_a_median_lies_inside_of_its_bucket(buckets, seconds):
    assert median(buckets) == (None if seconds is None else pytest.approx(seconds))


def test_a_value_that_is_no_number_is_left_out():
    assert Metrics.parse("a NaN\nb 1\n").total("a") is None


@pytest.mark.parametrize("text", ["a{b 1\n", "a\n", "{\n"])
def test_what_is_no_page_of_metrics_is_an_error(text):
    with pytest.raises(CommandError, match="metrics is no page of Prometheus"):
        Metrics.parse(text)


@pytest.mark.parametrize("text", [b"", b"[]", b'{"session":{}}', b"\xff"])
def test_what_is_no_status_is_an_error(text):
    with pytest.raises(CommandError, match="none of a bridge's"):
        parse(text, StatusFile)


# History


def test_a_cell_of_the_sparkline_is_the_mean_of_its_time():
    history = History(interval=30.0)
    for when, value in [(0, 1.0), (30, 3.0), (60, 5.0), (90, 5.0)]:
        history.add(when, value)
    assert history.seconds_a_cell(4) == 60
    assert history.cells(4, 100) == [None, None, 2.0, 5.0]


def test_a_bridge_that_is_away_leaves_a_gap():
    history = History(interval=30.0)
    history.add(0, 1.0)
    history.add(130, 2.0)
    assert history.cells(4, 200) == [1.0, None, 2.0, None]


def test_a_reading_that_comes_late_leaves_none():
    history = History(interval=1.0)
    for second in range(200):
        history.add(second + second % 3 * 0.4, 1.0)
    assert history.cells(50, 200) == [1.0] * 50


def test_history_is_forgotten_at_last():
    history = History(interval=1.0)
    for when in range(10_000):
        history.add(when, 1.0)
    assert len(history._values) == KEPT


def test_slow_readings_fill_the_graph_as_well():
    history = History(interval=3600.0)
    for count in range(KEPT):
        history.add(count * 3600.0, 1.0)
    assert history.cells(80, (KEPT - 1) * 3600.0) == [1.0] * 80


def test_the_last_known_time_to_a_first_token_stays():
    track = Track(History(1.0))
    track.add(reading(0, BUCKETS.format("a", "1", 0)))
    track.add(reading(1, BUCKETS.format("a", "1", 4)))
    track.add(reading(2, BUCKETS.format("a", "1", 4)))
    assert track.rates.first_token is None
    assert track.first_token == 0.5


# Reading


class Direct:
    """A bridge's tree without a wire, as `Watch` uses it. opened: paths, in order."""

    room = 8192

    def __init__(self, client):
        self._client = client
        self._handles = {}
        self._next = 0
        self.opened = []

    def open(self, path):
        try:
            node = self._client.node(path)
            handle = node if isinstance(node, Directory) else node.open(0)
        except Error as error:
            raise RemoteError(error.ename) from None
        self.opened.append(path)
        self._next += 1
        self._handles[self._next] = handle
        return self._next

    def piece(self, fid, offset):
        handle = self._handles[fid]
        if isinstance(handle, Directory):
            entries = [encode_dir(Dir(name=node.name)) for node in handle.entries()]
            return b"".join(entries)[offset:]
        try:
            data = handle.read(offset, self.room)
        except Error as error:
            raise RemoteError(error.ename) from None
        assert not inspect.iscoroutine(data)
        return data

    def close(self, fid):
        handle = self._handles.pop(fid)
        if not isinstance(handle, Directory):
            handle.close()

    @property
    def held(self):
        return len(self._handles)


@pytest.fixture
def direct(client):
    return Direct(client)


async def cloned(client, count):
    for _ in range(count):
        await client.open("clone").read()


def numbers(found):
    return [row.session.id for row in found.sessions]


async def test_a_reading_has_the_bridge_its_models_and_the_users_sessions(direct, client):
    await client.ask("one two three")
    await cloned(client, 2)
    found = Watch(direct).reading(10)
    assert found.status.bridge.sessions == 3
    assert [model.name for model in found.models] == ["echo"]
    assert numbers(found) == [2, 1, 0]
    assert found.sessions[2].total.completion_tokens == 3
    assert found.metrics.total("llambo_completion_tokens_total") == 3


async def test_sessions_of_others_are_not_shown(direct, bridge):
    await cloned(Client(bridge, uid=7), 2)
    assert numbers(Watch(direct).reading(10)) == [0]


async def test_what_is_read_again_is_not_opened_again(direct, client):
    await cloned(client, 3)
    watch = Watch(direct)
    watch.reading(10)
    direct.opened.clear()
    assert watch.reading(10).rpcs <= 2 + 2 + 2 + 1 + 4 * 2
    assert direct.opened == []


async def test_of_many_sessions_only_the_newest_are_read(direct, client):
    await cloned(client, 100)
    watch = Watch(direct)
    watch.reading(8)
    direct.opened.clear()
    found = watch.reading(8)
    assert numbers(found) == [100, 99, 98, 97, 96, 95, 94]
    assert found.more == 94
    assert len(direct.opened) == LOOKED_AT
    assert found.rpcs < 50


async def test_a_session_at_work_is_found_among_many(slow, autojump_clock):
    await cloned(slow, 40)
    await slow.write("5/prompt", "a question with an answer that takes its time " * 9)
    await trio.sleep(1)
    watch = Watch(Direct(slow))
    for _ in range(40 // LOOKED_AT + 1):
        found = watch.reading(5)
    assert 5 in numbers(found)
    await slow.write("5/ctl", "CANCEL")
    await trio.sleep(1)
    watch.reading(5)
    assert 5 not in numbers(watch.reading(5))


async def test_what_has_ended_is_closed(direct, client):
    await cloned(client, 3)
    watch = Watch(direct)
    watch.reading(10)
    before = direct.held
    await client.write("2/ctl", "CLOSE")
    assert numbers(watch.reading(10)) == [3, 1, 0]
    assert direct.held == before - 2


async def test_watching_a_session_does_not_keep_it_alive(make_bridge, autojump_clock):
    async with make_bridge(session_ttl=10) as bridge:
        client = Client(bridge)
        clone = client.open("clone")
        await clone.read()
        clone.close()
        watch = Watch(Direct(client))
        for _ in range(12):
            watch.reading(10)
            await trio.sleep(1)
        assert numbers(watch.reading(10)) == [0]


async def test_models_that_only_can_be_loaded_are_counted(client, monkeypatch):
    bridge = client.session.bridge
    names = ["echo", *(f"m{i}" for i in range(50))]
    known = bridge.known.model("echo", client.session.owner)
    monkeypatch.setattr(bridge.known, "names", lambda viewer: names)
    monkeypatch.setattr(
        bridge.known, "model",
        lambda name, viewer: known if name == "echo" else type(known)(name=name),
    )  # fmt: skip
    direct = Direct(client)
    found = Watch(direct).reading(10)
    assert ([model.name for model in found.models], found.loadable) == (["echo"], 50)
    assert "models/m1" not in direct.opened


async def test_nodes_are_not_asked_for_where_there_is_no_cluster(direct):
    found = Watch(direct).reading(10)
    assert (found.nodes, found.more_nodes) == ((), 0)
    assert not any(path.startswith("nodes") for path in direct.opened)


async def test_a_reading_of_a_cluster_has_its_nodes_and_replicas(cluster_bridge):
    found = Watch(Direct(Client(cluster_bridge))).reading(10)
    assert [(node.name, node.address, node.running) for node in found.nodes] == [
        ("one", "10.0.0.1", 2), ("two", "10.0.0.2", 0),
    ]  # fmt: skip
    assert [replica.state for replica in found.models[0].replicas] == ["ready", "copying"]


async def test_of_many_nodes_only_those_that_are_shown_are_read(cluster_bridge):
    cluster_bridge.engine.machines[:] = [node(f"n{i:03}") for i in range(100)]
    direct = Direct(Client(cluster_bridge))
    found = Watch(direct).reading(10, 3)
    assert [node.name for node in found.nodes] == ["n000", "n001", "n002"]
    assert found.more_nodes == 97
    assert sum(path.startswith("nodes/") for path in direct.opened) == 3 + LOOKED_AT


async def test_a_node_at_work_is_found_among_many(cluster_bridge):
    machines = cluster_bridge.engine.machines
    machines[:] = [node(f"n{i:03}", running=int(i == 50)) for i in range(100)]
    watch = Watch(Direct(Client(cluster_bridge)))
    for _ in range(100 // LOOKED_AT + 1):
        found = watch.reading(10, 3)
    assert [node.name for node in found.nodes] == ["n000", "n001", "n050"]
    machines[50] = node("n050")
    watch.reading(10, 3)
    assert [node.name for node in watch.reading(10, 3).nodes] == ["n000", "n001", "n002"]


async def test_a_node_that_is_gone_is_left_out_and_closed(cluster_bridge):
    direct = Direct(Client(cluster_bridge))
    watch = Watch(direct)
    watch.reading(10)
    before = direct.held
    del cluster_bridge.engine.machines[0]
    assert [node.name for node in watch.reading(10).nodes] == ["two"]
    assert direct.held == before - 1


class Without(Direct):
    """A bridge of before `metrics`."""

    def open(self, path):
        if path == "metrics":
            raise RemoteError("file not found")
        return super().open(path)


async def test_a_bridge_without_metrics_is_read_all_the_same(client):
    found = Watch(Without(client)).reading(10)
    assert found.metrics is None
    assert numbers(found) == [0]


# How it looks


def screen(*readings, width=80, height=24, ascii_only=False, **more):
    """The lines of the screen after these readings."""
    track = Track(History(1.0))
    for each in readings:
        track.add(each)
    view = View(track, "unix!/s", readings[-1].when, "12:00:00", **more)
    return drawn(view, width, height, ascii_only=ascii_only)


def drawn(view, width=80, height=24, ascii_only=False):
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, force_terminal=False)
    console.print(draw(view, width, height, ascii_only=ascii_only))
    lines = out.getvalue().split("\n")[:-1]
    assert max(map(cell_len, lines)) <= width
    return lines


def model(name="echo", state="ready", **more):
    return ModelState(name, state, **more)


def session_rows(count):
    return tuple(
        SessionRow(SessionState(number, "generating", 2), "echo", Totals(10, 20))
        for number in range(count, 0, -1)
    )


def line_with(lines, word):
    return next(line for line in lines if word in line)


async def test_a_bridge_is_drawn(direct, client):
    await client.ask("one two three")
    lines = screen(Watch(direct).reading(10))
    assert lines[0].startswith("llambo ")
    assert lines[0].endswith("12:00:00")
    assert "0 running, 0 queued" in line_with(lines, "answers")
    assert line_with(lines, "echo").split()[:2] == ["echo", "ready"]


def test_the_page_shows_such_a_screen():
    block = next(each for each in blocks("docs/top.md") if "TOKENS/S" in each.text)
    [bar] = [line for line in block.text.splitlines() if set(line) & set("▁▂▃▄▅▆▇█")]
    sessions = tuple(
        SessionRow(SessionState(number, state, 1), "second", Totals(40, 256))
        for number, state in zip(
            range(18, 11, -1), ["generating", "prefill", "generating", *["idle"] * 4], strict=True
        )
    )
    models = (model("SmolLM2-135M-Instruct.Q4_1", memory_bytes=562_100_000),
              model("second", memory_bytes=539_200_000))  # fmt: skip
    track = Track(History(1.0))
    for when in (0, 1, 2):
        counters = page(
            llambo_completion_tokens_total=when, llambo_prompt_tokens_total=9 * min(when, 1),
            llambo_cached_tokens_total=8 * min(when, 1), llambo_rpcs_total=when,
            llambo_requests_running={"second": 3},
            process_cpu_seconds_total=when, process_resident_memory_bytes=37_700_000,
        )  # fmt: skip
        buckets = [BUCKETS.format("", bound, min(when, 1)) for bound in ("0.1", "+Inf")]
        text = "\n".join([counters, *buckets, ""])
        track.add(reading(when, text, uptime=26.0, models=models, sessions=sessions, more=12))
    lines = drawn(View(track, "/run/user/1000/llambo/9p", 2, "q ends  19:03:01"))
    assert alike(block.text, "\n".join(lines), (bar.strip(),))


def test_the_rates_of_the_interval_are_shown():
    lines = screen(reading(0, generated({"echo": 0})), reading(2, generated({"echo": 33})))
    assert "16.5 tokens/s" in line_with(lines, "generated")


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (100, 30), (60, 24)])
def test_a_full_screen_fits(width, height):
    rows = layout(height, 9).sessions
    full = reading(
        0, generated(1), models=tuple(model(f"model {i} " + "x" * 90) for i in range(9)),
        loadable=7, sessions=session_rows(rows), more=0,
    )  # fmt: skip
    assert len(screen(full, width=width, height=height)) == height
    lines = screen(replace(full, more=12), width=width, height=height)
    assert len(lines) == height
    assert lines[-1].rstrip() == "… 13 more"


@pytest.mark.parametrize(("width", "height"), [(1, 1), (10, 5), (40, 10), (300, 100)])
def test_any_size_is_drawn(width, height):
    screen(reading(0, generated(1), models=(model(),)), width=width, height=height)
    cluster = reading(0, generated(1), models=(model(),), nodes=node_rows(3))
    screen(cluster, width=width, height=height)


def test_models_that_are_not_shown_are_counted():
    lines = screen(reading(0, models=tuple(model(f"m{i}") for i in range(20)), loadable=3))
    assert "… 15 more, 3 can be loaded" in "\n".join(lines)


def node_rows(count):
    return tuple(
        NodeState(f"node-{i}", f"10.0.0.{i}", True, {"CPU": 16.0}, {"CPU": 2.5}, i, 1, 40.5)
        for i in range(1, count + 1)
    )


async def test_a_cluster_is_drawn_with_a_line_a_node(cluster_bridge):
    client = Client(cluster_bridge)
    lines = screen(Watch(Direct(client)).reading(10))
    assert line_with(lines, "MODEL").split()[:3] == ["MODEL", "STATE", "REPLICAS"]
    assert line_with(lines, "echo ").split()[:3] == ["echo", "ready", "1/2"]
    assert line_with(lines, "NODE").split() == [
        "NODE", "ADDRESS", "CPUS", "RUNNING", "QUEUED", "TOKENS/S",
    ]  # fmt: skip
    assert line_with(lines, "10.0.0.1").split() == ["one", "10.0.0.1", "3/16", "2", "0", "41.5"]
    assert line_with(lines, "10.0.0.2").split() == ["two", "10.0.0.2", "0/16", "0", "0", "0"]


def test_the_screen_of_one_machine_has_neither_nodes_nor_replicas():
    text = "\n".join(screen(reading(0, models=(model(),))))
    assert "NODE" not in text
    assert "REPLICAS" not in text


def test_replicas_that_can_all_answer_are_a_number():
    replicas = (ReplicaState("ready"),) * 3
    lines = screen(reading(0, models=(model(replicas=replicas), model("other"))))
    assert line_with(lines, "echo").split()[:3] == ["echo", "ready", "3"]
    assert line_with(lines, "other").split()[:3] == ["other", "ready", "0"]


def test_the_page_shows_the_lines_of_a_cluster():
    block = next(each for each in blocks("docs/top.md") if "NODE " in each.text)
    states = tuple(map(ReplicaState, ("ready", "ready", "copying")))
    nodes = tuple(
        NodeState(f"ip-10-0-0-{i}", f"10.0.0.{i}", True, {"CPU": 16.0}, {"CPU": cpus}, i, 0, speed)
        for i, cpus, speed in ((7, 8.0, 88.4), (8, 4.0, 40.5), (9, 4.0, 0.0))
    )
    busy = [
        reading(
            when, generated({"qwen": 129 * when}, llambo_requests_running={"qwen": 5}),
            models=(model("qwen", memory_bytes=562_100_000, replicas=states),), loadable=3,
            nodes=nodes,
        )
        for when in (0, 1)
    ]  # fmt: skip
    lines = screen(*busy)
    first = lines.index(line_with(lines, "MODEL"))
    assert alike(block.text, "\n".join(lines[first : first + 7]))


def test_a_node_that_is_lost_says_so():
    lost = msgspec.structs.replace(node_rows(1)[0], alive=False)
    assert line_with(screen(reading(0, nodes=(lost,))), "node-1").split()[2] == "lost"


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (100, 30), (60, 24)])
def test_a_full_screen_of_a_cluster_fits(width, height):
    full = reading(
        0, generated(1), models=tuple(model(f"m{i}") for i in range(9)), loadable=7,
        nodes=node_rows(9), more_nodes=12, sessions=session_rows(layout(height, 9, 21).sessions),
    )  # fmt: skip
    lines = screen(full, width=width, height=height)
    assert len(lines) == height
    parts = layout(height, 9, 21)
    assert sum("10.0.0." in line for line in lines) == min(9, parts.nodes) >= 3
    assert f"… {21 - min(9, parts.nodes)} more" in [line.strip() for line in lines]


def test_a_name_is_neither_markup_nor_orders_for_the_terminal():
    name = "[red]x[/red]\x1b[2J\x9b5m\a\r\n\u202e"
    lines = screen(reading(0, models=(model(name),)))
    text = "\n".join(lines)
    assert "[red]x[/red]�[2J�5m����" in text
    assert not set("\x1b\x9b\a\r\u202e") & set(text)


def test_a_model_that_is_loading_shows_how_far_it_is():
    assert "loading 43 %" in "\n".join(
        screen(reading(0, models=(model(state="loading", progress=0.43),)))
    )


def test_a_model_that_failed_says_why():
    lines = screen(reading(0, "a 1\n", models=(model(state="failed", error="no room"),)))
    assert lines[1].rstrip() == "echo: no room"


def test_what_is_wrong_stands_below_the_head():
    assert screen(reading(0), notice="no bridge answers, trying again")[1].startswith("no bridge")


def test_before_the_first_reading_it_says_what_is_wrong():
    lines = drawn(View(Track(History(1.0)), "unix!/s", 0.0, "q ends", "no bridge answers"))
    assert [line.split() for line in lines] == [["llambo,", "at", "unix!/s", "q", "ends"],
                                                ["no", "bridge", "answers"]]  # fmt: skip


def test_missing_metrics_are_said_in_a_sentence():
    assert screen(reading(0))[1].startswith("this bridge has no file metrics")


def test_a_terminal_without_unicode_gets_a_sparkline_of_ascii():
    figures = [reading(when, generated(when * when)) for when in range(0, 60, 2)]
    assert any(set(line.strip()) > set(".:=#") for line in screen(*figures, ascii_only=True))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), (0, "0"), (7, "7"), (0.25, "0.2"), (99.9, "99.9"), (123.4, "123"),
        (9999, "9999"), (12_345, "12.3 k"), (34_567_890, "34.6 M"),
    ],
)  # fmt: skip
def test_numbers_are_short(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.6, "1 min"), (61, "1 min 1 s"), (7260, "2 h 1 min"), (90000, "1 d 1 h")],
)
def test_durations_have_two_units(seconds, text):
    assert duration(seconds) == text
