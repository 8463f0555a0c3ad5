"""What one client may cost, and what its mistakes may not do to others."""

import errno
import gc
import json
import weakref

import pytest
import trio

from ctl.errors import client_error
from engine import EngineError
from fs9p import Error
from tests.ctl.conftest import Client


def unended(line):
    """A command line of at least 4,096 bytes without a newline: it has no end until the close."""
    return line + b" " * max(0, 4096 - len(line))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"LOAD " + b"x" * 4079 + b" n_ctx=--5", "invalid n_ctx '--5'"),
        (b"LOAD x n_ctx=" + b"9" * 5000, "invalid n_ctx"),
        (b"INFER stop=" + b"[" * 5000, "invalid stop"),
        (b"LOAD " + b"x" * 5000, "invalid path"),
        (b"FREE " + b"''" * 5000, "arguments are longer than 8192"),
    ],
    ids=["minus", "digits", "brackets", "path", "quotes"],
)
async def test_an_odd_command_is_refused_by_a_live_bridge(client, line, message, tmp_path):
    from ctl.catalog import Catalog

    client.session.bridge.catalog = Catalog([tmp_path])
    ctl = client.open("ctl")
    await ctl.write(unended(line))
    ctl.close()
    assert message in json.loads(await client.read("ctl"))["message"]
    assert await client.ask("still here") == "still here"


async def test_a_defect_in_a_command_is_an_error_of_that_command(client, monkeypatch):
    def broken(name):
        raise RuntimeError("a defect")

    with monkeypatch.context() as patch:
        patch.setattr(client.session.bridge, "model_name", broken)
        with pytest.raises(Error, match="internal error"):
            await client.write("ctl", "USE x")
        ctl = client.open("ctl")
        await ctl.write(unended(b"USE x"))
        ctl.close()
        assert "internal error" in await client.read("ctl")
    assert await client.ask("still here") == "still here"


async def test_a_defect_in_a_task_of_the_bridge_ends_that_task_only(client):
    async def broken():
        raise RuntimeError("a defect")

    client.session.bridge.start(broken)
    await trio.testing.wait_all_tasks_blocked()
    assert await client.ask("still here") == "still here"


async def test_more_answers_than_allowed_are_busy(make_bridge, autojump_clock):
    async with make_bridge("echo:2", max_answers=1) as bridge:
        await Client(bridge, "new").write("prompt", "one two three")
        with pytest.raises(Error, match="^busy: 1 requests waiting, at most 1$"):
            await Client(bridge, "new").write("prompt", "another")


async def test_more_prompts_at_once_than_allowed_are_refused(make_bridge):
    async with make_bridge(max_answers=3) as bridge:
        with pytest.raises(Error, match="invalid: 4 prompts at once are more than 3"):
            await Client(bridge).write("ctl", "INFER_MULTI a||b||c||d")


async def test_stop_strings_are_few(client):
    with pytest.raises(Error, match="at most 16"):
        await client.write("params", 'stop "a"\n' * 17)


async def test_a_setting_given_twice_is_refused(client):
    with pytest.raises(Error, match="seed is given twice"):
        await client.write("ctl", "INFER seed=1 seed=2 hello")


async def test_a_conversation_has_a_limit(make_bridge):
    async with make_bridge(max_conversation=100) as bridge:
        line = json.dumps({"role": "user", "content": "x" * 60}) + "\n"
        with pytest.raises(Error, match="longer than 100 characters"):
            await Client(bridge).write("context", line * 2)


async def test_unfinished_lines_share_a_limit_and_give_it_back(make_bridge):
    async with make_bridge(max_buffered=10_000) as bridge:
        client = Client(bridge)
        first, second = client.open("ctl"), client.open("params")
        await first.write(b"x" * 6000)
        with pytest.raises(Error, match="temporarily out of room"):
            await second.write(b"x" * 6000)
        first.hangup()
        await second.write(b"x" * 6000)


@pytest.mark.parametrize(
    "path", ["ctl", "clone", "params", "context", "system", "prompt", "output"]
)
async def test_a_closed_file_is_gone_without_the_garbage_collector(client, path):
    file = client.open(path)
    handle = weakref.ref(file.handle)
    gc.disable()
    try:
        file.hangup()
        del file
        assert handle() is None
    finally:
        gc.enable()


async def test_strangers_take_at_most_half_of_the_sessions(make_bridge):
    async with make_bridge(max_sessions=4) as bridge:
        Client(bridge, "a", uid=None)
        Client(bridge, "b", uid=None)
        with pytest.raises(Error, match="^too many sessions$"):
            Client(bridge, "c", uid=None)
        Client(bridge, "new")


async def test_a_load_with_other_options_waits_until_no_answer_runs(slow, autojump_clock):
    await slow.write("prompt", "one two three")
    other = Client(slow.session.bridge, "new")
    with pytest.raises(Error, match="busy: answers run on echo"):
        await other.write("ctl", "LOAD echo n_ctx=512")
    assert await slow.read("output") == "one two three"


async def test_a_load_that_fails_after_the_old_model_went_brings_that_back(client, monkeypatch):
    engine = client.session.bridge.engine
    load = engine.load

    async def refuse_small(name, path, options):
        if options.n_ctx:
            await engine.free(name)
            raise EngineError("context too large")
        return await load(name, path, options)

    monkeypatch.setattr(engine, "load", refuse_small)
    with pytest.raises(Error, match="context too large"):
        await client.write("ctl", "LOAD echo n_ctx=512")
    assert await client.ask("still here") == "still here"


async def test_load_by_the_name_of_a_loaded_model_is_that_model(client):
    await client.write("ctl", "LOAD /models/big.gguf\nLOAD big")
    assert client.names("models") == ["echo", "big"]
    assert (await client.json("model"))["path"] == "/models/big.gguf"


async def test_free_moves_the_sessions_that_used_the_model_to_the_default(bridge):
    one, two = Client(bridge, "new"), Client(bridge, "new")
    await one.write("ctl", "LOAD big\nLOAD small\nUSE big")
    await two.write("ctl", "FREE big")
    assert (await one.json("model"))["name"] == "small"


async def test_a_name_of_many_digits_is_file_not_found(client):
    with pytest.raises(Error, match="^file not found$"):
        client.node("9" * 5000)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Unknown command: FROB", errno.EINVAL),
        ("No prompt provided", errno.EINVAL),
        ("too many sessions", errno.EAGAIN),
        ("no prompt yet", errno.ENODATA),
        ("no model loaded: write LOAD path to ctl", errno.ENXIO),
        ("busy: an answer runs here", errno.EBUSY),
        ("i/o error: model x was freed", errno.EIO),
    ],
)
def test_every_error_has_an_errno_that_fits(text, number):
    assert client_error(text).errno == number


async def test_a_command_that_is_unknown_is_an_invalid_argument(client):
    with pytest.raises(Error) as caught:
        await client.write("ctl", "FROB\n")
    assert caught.value.errno == errno.EINVAL


async def test_a_read_without_a_prompt_finds_no_data(client):
    with pytest.raises(Error) as caught:
        await client.open("output").read()
    assert caught.value.errno == errno.ENODATA
