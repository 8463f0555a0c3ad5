"""Another configuration for a bridge that runs: what is taken over, and what is not."""

import dataclasses
import logging
import os
from pathlib import Path

import pytest
import trio

from ctl import reload, shelf
from ctl.bridge import Options
from ctl.caches import Source, folder
from ctl.catalog import Catalog
from ctl.config import keys, source_of
from ctl.lineserver import LineServer
from ctl.namespace import Llambo
from ctl.options import bridge_options, client_limits
from ctl.reload import Reloading
from fs9p import Error, Limits, Server
from tests.ctl.conftest import Client
from tests.engine.header import write


class Reloaded:
    """A bridge, and the file that configures it."""

    def __init__(self, bridge, path, *words):
        self.bridge = bridge
        self.path = path
        self.services = (Server(Llambo(bridge)), LineServer(bridge))
        self.allowed = []
        self.catalog = Catalog
        path.write_text("engine = 'echo'\n")
        source = source_of(["--config", str(path), *words])
        self.reloading = Reloading(source, source.read())

    async def reload(self, text):
        self.path.write_text(f"engine = 'echo'\n{text}")
        await self.reloading.reload(
            self.bridge,
            self.services,
            lambda args: self.catalog(list(map(Path, args.models))),
            self.allowed.append,
        )


@pytest.fixture
def reloaded(bridge, tmp_path):
    return Reloaded(bridge, tmp_path / "llambo.toml")


@pytest.fixture
def said(caplog, tmp_path):
    """A function for what the bridge has logged since, the folder left out."""
    caplog.set_level(logging.INFO, logger="llambo")

    def said():
        lines = [record.getMessage().replace(f"{tmp_path}/", "") for record in caplog.records]
        caplog.clear()
        return lines

    return said


async def test_limits_of_the_bridge_are_taken_over(reloaded, said):
    said()
    await reloaded.reload("max-answers = 3")
    assert reloaded.bridge.options == Options(max_answers=3)
    assert said() == ["llambo.toml read again: max-answers 256 → 3"]
    with pytest.raises(Error, match="4 prompts at once are more than 3"):
        await Client(reloaded.bridge).write("ctl", "INFER_MULTI a||b||c||d")


async def test_a_shorter_life_of_sessions_counts_at_once(reloaded, mock_clock):
    client = Client(reloaded.bridge, "kept")
    client.detach()
    mock_clock.jump(100)
    await reloaded.reload("session-ttl = 60")
    await trio.testing.wait_all_tasks_blocked()
    assert client.session.closed


async def test_limits_of_clients_are_taken_over(reloaded):
    await reloaded.reload("max-fids = 5\nmax-connections = 7")
    limits = Limits(fids=5, connections=7)
    assert [service.limits for service in reloaded.services] == [limits, limits]
    assert reloaded.allowed == [7]


async def test_other_directories_of_models_are_taken_over(reloaded, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "one.gguf").write_bytes(b"GGUF")
    await reloaded.reload("models = 'models'")
    assert "one" in Client(reloaded.bridge).names("models")


class Watched(Catalog):
    """A catalog that tells whether it is watched."""

    def __init__(self, folders):
        super().__init__(folders)
        self.begun, self.ended = trio.Event(), trio.Event()

    async def watch(self, scope):
        self.begun.set()
        with scope:
            await trio.sleep_forever()
        self.ended.set()


async def test_other_directories_are_looked_at_from_then_on(reloaded, tmp_path):
    reloaded.catalog = Watched
    await reloaded.reload(f"models = '{tmp_path}'")
    first = reloaded.bridge.catalog
    with trio.fail_after(10):
        await first.begun.wait()
        await reloaded.reload("")
        await first.ended.wait()
        await reloaded.bridge.catalog.begun.wait()


async def test_what_was_seen_of_the_other_places_stays_at_a_reload(reloaded, tmp_path, monkeypatch):
    write(tmp_path / "cache" / "theirs.gguf")
    write(tmp_path / "models" / "ours.gguf")
    cache = Source("cache", str(tmp_path / "cache"), folder)
    reloaded.catalog = lambda folders: Catalog(folders, [], [cache])
    await reloaded.reload(f"models = '{tmp_path}/models'")
    with trio.fail_after(10):
        while not {"ours", "theirs"} <= set(Client(reloaded.bridge).names("models")):
            await trio.lowlevel.checkpoint()
    (tmp_path / "more").mkdir()
    monkeypatch.setattr(shelf, "read", None)  # what was read of a file holds
    await reloaded.reload(f"models = ['{tmp_path}/more', '{tmp_path}/models']")
    assert {"ours", "theirs"} <= set(Client(reloaded.bridge).names("models"))


async def test_fewer_models_at_once_are_taken_over(reloaded, said):
    said()
    await reloaded.reload("max-models = 1\nworker-timeout = 5")
    assert reloaded.bridge.engine.max_models == 1
    # The echo engine has no workers.
    assert said() == ["llambo.toml read again: max-models 4 → 1; needs a restart: worker-timeout"]


async def test_several_models_make_room_where_fewer_may_be_loaded(reloaded):
    engine = reloaded.bridge.engine
    await engine.load("two", "two")
    await engine.load("three", "three")
    await reloaded.reload("max-models = 1")
    await engine.load("four", "four")
    assert [model.name for model in engine.models() if model.state == "ready"] == ["four"]


async def test_verbose_is_taken_over(reloaded, monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(root, "level", logging.INFO)
    await reloaded.reload("verbose = true")
    assert root.level == logging.DEBUG
    await reloaded.reload("")
    assert root.level == logging.INFO


async def test_what_needs_a_restart_is_named_until_there_is_one(reloaded, said):
    said()
    text = "tcp = '127.0.0.1:1'\nsocket-mode = '660'\nmax-sessions = 5"
    await reloaded.reload(text)
    await reloaded.reload(text)
    assert said() == [
        "llambo.toml read again: max-sessions 256 → 5; needs a restart: socket-mode, tcp",
        "llambo.toml read again: needs a restart: socket-mode, tcp",
    ]


async def test_a_file_that_has_not_changed_changes_nothing(reloaded, said):
    said()
    await reloaded.reload("# a comment")
    assert said() == ["llambo.toml read again: nothing has changed"]


async def test_of_a_file_with_errors_nothing_is_taken_over(reloaded, said):
    said()
    await reloaded.reload("max-answers = 3\nmax-session = 5\nmodels = '/absent'")
    assert reloaded.bridge.options == Options()
    assert said() == [
        "llambo.toml: max-session: unknown key; did you mean max-sessions?",
        'llambo.toml: models: "/absent" is not a directory',
        "llambo.toml: nothing of it is taken over",
    ]


async def test_a_file_that_is_gone_changes_nothing(reloaded, said):
    said()
    reloaded.path.unlink()
    reloaded.path.mkdir()
    await reloaded.reloading.reload(reloaded.bridge, (), Catalog, reloaded.allowed.append)
    assert said() == ["llambo.toml: Is a directory", "llambo.toml: nothing of it is taken over"]


AWAY = [
    "llambo.toml: it, or what it names, did not answer within 0.1 s",
    "llambo.toml: nothing of it is taken over",
]


async def test_a_file_that_does_not_answer_keeps_no_later_one_waiting(reloaded, said, monkeypatch):
    said()
    reloaded.path.unlink()
    os.mkfifo(reloaded.path)
    with monkeypatch.context() as patched:
        patched.setattr(reload, "PATIENCE", 0.1)
        await reloaded.reloading.reload(reloaded.bridge, (), Catalog, reloaded.allowed.append)
    assert said() == AWAY
    reloaded.path.unlink()
    await reloaded.reload("max-answers = 3")
    assert reloaded.bridge.options == Options(max_answers=3)


class Away(Catalog):
    """Of a disk that does not answer."""

    async def look(self):
        await trio.sleep_forever()


async def test_of_directories_that_do_not_answer_nothing_is_taken_over(reloaded, said, monkeypatch):
    said()
    reloaded.catalog = Away
    with monkeypatch.context() as patched:
        patched.setattr(reload, "PATIENCE", 0.1)
        await reloaded.reload("max-answers = 3\nno-caches = true")
    assert reloaded.bridge.options == Options()
    assert said() == AWAY
    reloaded.catalog = Catalog
    await reloaded.reload("max-answers = 3\nno-caches = true")
    assert said() == ["llambo.toml read again: no-caches false → true; max-answers 256 → 3"]


async def test_a_limit_that_the_engine_does_not_take_is_tried_again(reloaded, monkeypatch):
    class Stubborn(type(reloaded.bridge.engine)):
        @property
        def max_models(self):
            return 4

    engine = reloaded.bridge.engine
    monkeypatch.setattr(engine, "__class__", Stubborn)
    with pytest.raises(AttributeError):
        await reloaded.reload("max-models = 1")
    monkeypatch.undo()
    await reloaded.reload("max-models = 1")
    assert engine.max_models == 1


async def test_the_command_line_still_comes_first(bridge, tmp_path):
    reloaded = Reloaded(bridge, tmp_path / "llambo.toml", "--max-answers", "9")
    await reloaded.reload("max-answers = 3")
    assert bridge.options.max_answers == 256  # as it was made, without the options
    await reloaded.reload("max-sessions = 2")
    assert bridge.options == Options(max_answers=9, max_sessions=2)


async def test_a_running_answer_goes_on(slow_bridge, tmp_path, mock_clock):
    client = Client(slow_bridge)
    await client.write("prompt", "one two three")
    await Reloaded(slow_bridge, tmp_path / "llambo.toml").reload(
        "max-answers = 1\nmax-prompt = 1\nmax-connections = 1\nsession-ttl = 1\nmax-models = 1"
    )
    mock_clock.autojump_threshold = 0
    assert await client.read("output") == "one two three"


def test_all_limits_can_be_changed():
    """Keys and limits correspond: a wrong value of each is one that the limits have, too."""
    usual = source_of([]).read().args
    for names, of in ((reload.BRIDGE, bridge_options), (reload.CLIENTS, client_limits)):
        changed = set()
        for key in names:
            args = source_of([f"--{key}", "777"]).read().args
            before, after = of(usual), of(args)
            changed |= {
                field.name
                for field in dataclasses.fields(after)
                if getattr(before, field.name) != getattr(after, field.name)
            }
        assert changed == {field.name for field in dataclasses.fields(of(usual))}
    assert (
        set(keys()) >= reload.BRIDGE | reload.CLIENTS | reload.MODELS | reload.ENGINE | reload.LOG
    )
