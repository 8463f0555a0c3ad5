"""What an Rerror carries, and that a bug in a node's code is nobody else's trouble."""

from __future__ import annotations

import errno
import logging

import pytest
from py9p.messages import Rclunk, Rerror, Rread, Tclunk, Tread, Tstat, Twalk, Twrite, Twstat
from trio.testing import wait_all_tasks_blocked

from fs9p import Error, Folder, Text, Tree
from tests.fs9p.test_io import TRUNCATE

INTERNAL = Rerror("i/o error: internal error")


@pytest.mark.parametrize(
    ("ename", "number"),
    [
        ("file not found", errno.ENOENT),
        ("file not found: no model called x", errno.ENOENT),
        ("permission denied", errno.EACCES),
        ("permission denied: only models under --models", errno.EACCES),
        ("not a directory", errno.ENOTDIR),
        ("busy: an answer is being generated", errno.EBUSY),
        ("temporarily out of memory", errno.EAGAIN),
        ("invalid name", errno.EINVAL),
        ("something else", errno.EIO),
    ],
)
def test_every_error_has_an_errno(ename, number):
    assert Error(ename).errno == number


def test_an_author_may_choose_the_errno():
    assert Error("no model loaded", errno.ENODEV).errno == errno.ENODEV


async def failing(client, world, error):
    """The reply to a read that fails with an error."""
    await client.open(1, "slow")
    await client.send(Tread(1, 0, 9))
    await wait_all_tasks_blocked()
    world.waiting[0].give(error)
    return await client.receive()


async def test_a_9p2000u_client_gets_the_errno(unix_client, world):
    reply = await failing(unix_client, world, Error("no model loaded", errno.ENODEV))
    assert (reply.ename, reply.errno) == ("no model loaded", errno.ENODEV)


@pytest.mark.parametrize(
    ("ename", "sent"),
    [
        ("x" * 127, "x" * 127),
        ("x" * 200, "x" * 127),
        ("x" * 126 + "é", "x" * 126),
        ("x" * 125 + "é", "x" * 125 + "é"),
        ("€" * 100, "€" * 42),
        ("nul\0nul", "nulnul"),
        ("half \ud83d a pair", "half ? a pair"),
    ],
)
async def test_a_long_error_is_cut_between_characters(client, world, ename, sent):
    assert await failing(client, world, Error(ename)) == Rerror(sent)


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(Tread(1, 0, 9), id="read raises"),
        pytest.param(Tread(1, 1, 9), id="read gives too much"),
        pytest.param(Tread(1, 2, 9), id="a waiting read raises"),
        pytest.param(Twrite(1, b"x"), id="write takes more than there is"),
        pytest.param(Twstat(1, TRUNCATE), id="truncate raises"),
    ],
)
async def test_a_bug_is_logged_and_answered_and_the_connection_goes_on(client, request_, caplog):
    await client.open(1, "broken", mode=2)
    assert await client.rpc(request_) == INTERNAL
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info
    assert (await client.rpc(Tstat(0))).stat.name == "/"


async def test_a_bug_in_close_is_logged_and_the_clunk_answered(client, caplog):
    await client.open(1, "broken")
    assert await client.rpc(Tclunk(1)) == Rclunk()
    assert "ZeroDivisionError" in caplog.text


async def test_a_bug_in_hangup_keeps_no_other_handle_open(client, world, caplog):
    await client.open(1, "broken")
    await client.open(2, "file")
    await client.stream.aclose()
    await wait_all_tasks_blocked()
    assert world.log[-3:] == [("hangup", "file"), ("detach",), ("disconnected", 1)]
    assert "ZeroDivisionError" in caplog.text


async def test_a_bug_in_lookup_is_answered(client, world, caplog):
    world.root.lookup = lambda name: 1 // 0
    assert await client.rpc(Twalk(0, 1, ("hello",))) == INTERNAL


async def test_a_bug_in_connected_ends_that_connection_only(dial, world, caplog):
    connected, world.connected = world.connected, lambda connection: 1 // 0
    assert await dial().receive() is None
    world.connected = connected
    await dial().version()


async def test_an_entry_too_long_for_a_message_is_an_error(serve, world, caplog):
    world.root = Folder("x" * 300, 0, [Text("y" * 70000, 1, lambda: b"")])
    client = serve()()
    await client.version(msize=256)
    await client.attach()
    assert (await client.rpc(Tstat(0))).ename == "invalid msize 256: this reply has 370 bytes"
    await client.open(1)
    assert await client.rpc(Tread(1, 0, 8192)) == INTERNAL


async def test_a_tree_serves_one_root_to_everybody(nursery):
    tree = Tree(Folder("/", 0, [Text("a", 1, lambda: b"text")]))
    assert tree.attach(None) is tree.root


async def test_a_text_may_be_waited_for(serve, world):
    world.root = Folder("/", 0, [Text("a", 1, world.wait)])
    client = serve()()
    await client.version()
    await client.attach()
    await client.open(1, "a")
    await client.send(Tread(1, 0, 4))
    await wait_all_tasks_blocked()
    world.waiting[0].give(b"a text")
    assert await client.receive() == Rread(b"a te")
    assert await client.rpc(Tread(1, 4, 100)) == Rread(b"xt")
