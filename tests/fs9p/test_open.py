"""Topen, Tcreate, Tremove and Tclunk: who may, and what is closed when."""

from __future__ import annotations

import pytest
from py9p.messages import (
    Qid,
    Rclunk,
    Rerror,
    Ropen,
    Rread,
    Rwrite,
    Tclunk,
    Tcreate,
    Tflush,
    Topen,
    Tread,
    Tremove,
    Tstat,
    Twrite,
)
from trio.testing import wait_all_tasks_blocked

from fs9p import Error

OREAD, OWRITE, ORDWR, OEXEC, OTRUNC, OCEXEC, ORCLOSE, APPEND = 0, 1, 2, 3, 0x10, 0x20, 0x40, 0x80


async def test_an_open_answers_with_the_qid_and_leaves_the_iounit_to_msize(client):
    assert await client.open(1, "hello") == Ropen(Qid(0, 0, 1), 0)


@pytest.mark.parametrize(
    "mode",
    [
        OREAD,
        OWRITE,
        ORDWR,
        OWRITE | OTRUNC,
        OREAD | OTRUNC,
        ORDWR | OTRUNC | OCEXEC,
        OWRITE | APPEND,
        OWRITE | APPEND | OTRUNC,
    ],
)
async def test_modes_that_clients_send_are_accepted(client, world, mode):
    await client.open(1, "file", mode=mode)
    assert ("open", "file", mode) in world.log
    assert (("truncate", "file") in world.log) == bool(mode & OTRUNC)


@pytest.mark.parametrize(
    ("path", "mode", "ename"),
    [
        ("file", ORCLOSE, "permission denied"),
        ("file", 0x04, "illegal mode"),
        ("file", 0x08 | OWRITE, "illegal mode"),
        ("file", OEXEC, "permission denied"),
        ("hello", OWRITE, "permission denied"),
        ("hello", ORDWR, "permission denied"),
        ("hello", OREAD | OTRUNC, "permission denied"),
        ("sub", OWRITE, "Is a directory"),
        ("sub", ORDWR, "Is a directory"),
        ("sub", OREAD | OTRUNC, "Is a directory"),
    ],
)
async def test_modes_that_are_refused(client, world, path, mode, ename):
    await client.walk(1, path)
    assert await client.rpc(Topen(1, mode)) == Rerror(ename)
    assert not [entry for entry in world.log if entry[0] == "open"]
    await client.walk(2, start=1)  # still not open


@pytest.mark.parametrize("mode", [OREAD, OEXEC, OREAD | OCEXEC])
async def test_a_directory_can_be_opened_to_read_and_to_search(client, mode):
    await client.open(1, "sub", mode=mode)


async def test_an_open_fid_cannot_be_opened_again(client):
    await client.open(1, "hello")
    assert await client.rpc(Topen(1)) == Rerror("invalid fid: already open")


async def test_an_open_that_fails_leaves_the_fid_to_be_opened(client, world):
    await client.walk(1, "opening")
    await client.send(Topen(1))
    await wait_all_tasks_blocked()
    world.waiting[0].give(Error("busy: later"))
    assert await client.receive() == Rerror("busy: later")
    await client.send(Topen(1))
    await wait_all_tasks_blocked()
    world.waiting[1].give(world.opening.handle())
    assert isinstance(await client.receive(), Ropen)


async def test_a_fid_whose_open_waits_can_neither_be_read_nor_opened(client, world):
    await client.walk(1, "opening")
    await client.send(Topen(1, tag=1))
    assert await client.rpc(Tread(1, 0, 1)) == Rerror("invalid fid: not open for that")
    assert await client.rpc(Topen(1)) == Rerror("invalid fid: already open")


async def test_a_flushed_open_leaves_the_fid_unopened(client, world):
    await client.walk(1, "opening")
    await client.send(Topen(1, tag=1), Tflush(1, tag=2))
    assert (await client.receive()).tag == 2
    await client.walk(2, start=1)


async def test_a_handle_opened_for_a_fid_that_is_gone_is_closed(client, world):
    await client.walk(1, "opening")
    await client.send(Topen(1, tag=1))
    await wait_all_tasks_blocked()
    assert await client.rpc(Tclunk(1)) == Rclunk()
    assert ("close", "opening") not in world.log
    world.waiting[0].give(world.opening.handle())
    assert isinstance(await client.receive(), Ropen)
    assert world.log[-1] == ("close", "opening")


async def test_a_truncation_that_fails_closes_what_was_opened_for_it(client, world):
    def refuse():
        raise Error("busy: in use")

    world.file.truncate = refuse
    await client.walk(1, "file")
    assert await client.rpc(Topen(1, OWRITE | OTRUNC)) == Rerror("busy: in use")
    assert world.log[-1] == ("close", "file")


async def test_a_truncation_may_wait(client, world):
    world.file.truncate = world.wait
    await client.walk(1, "file")
    await client.send(Topen(1, OWRITE | OTRUNC))
    await wait_all_tasks_blocked()
    world.waiting[0].give(None)
    assert isinstance(await client.receive(), Ropen)


async def test_nothing_is_created_and_nothing_removed(client):
    refusal = Rerror("permission denied")
    assert await client.rpc(Tcreate(0, "new", 0o644, OWRITE)) == refusal
    await client.walk(1, "hello")
    assert await client.rpc(Tremove(1)) == refusal


async def test_a_remove_clunks_although_it_fails(client, world):
    await client.open(1, "file")
    await client.rpc(Tremove(1))
    assert world.log[-1] == ("close", "file")
    assert await client.rpc(Tstat(1)) == Rerror("fid unknown or out of range")


async def test_a_clunk_closes_the_handle_once_and_frees_the_fid(client, world):
    await client.open(1, "file")
    assert await client.rpc(Tclunk(1)) == Rclunk()
    assert await client.rpc(Tclunk(1)) == Rerror("fid unknown or out of range")
    assert world.log.count(("close", "file")) == 1
    await client.walk(1)


async def test_a_clunk_of_a_fid_that_was_not_opened_closes_nothing(client, world):
    await client.walk(1, "file")
    await client.rpc(Tclunk(1))
    assert ("close", "file") not in world.log


async def test_a_clunk_ends_the_reads_that_wait_on_its_fid(client, world):
    await client.open(1, "slow")
    await client.send(Tread(1, 0, 10, tag=1))
    await wait_all_tasks_blocked()
    await client.send(Tclunk(1, tag=2))
    assert await client.receive() == Rclunk(2)
    assert await client.receive() == Rerror("fid unknown or out of range", 1)
    assert world.waiting[0].cancelled
    assert world.log[-1] == ("close", "slow")


async def test_a_clunk_lets_a_write_come_to_its_end_before_it_closes(client, world):
    await client.open(1, "slow", mode=OWRITE)
    await client.send(Twrite(1, b"text", 0, tag=1))
    await wait_all_tasks_blocked()
    assert await client.rpc(Tclunk(1, tag=2)) == Rclunk(2)
    assert ("close", "slow") not in world.log
    world.waiting[0].give(4)
    assert await client.receive() == Rwrite(4, 1)
    assert world.log[-1] == ("close", "slow")


async def test_a_clunk_leaves_reads_of_other_fids_alone(client, world):
    await client.open(1, "slow")
    await client.open(2, "slow")
    await client.send(Tread(1, 0, 10, tag=1))
    await wait_all_tasks_blocked()
    await client.rpc(Tclunk(2, tag=2))
    world.waiting[0].give(b"text")
    assert await client.receive() == Rread(b"text", 1)
