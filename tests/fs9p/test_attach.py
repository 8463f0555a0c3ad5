"""Tauth and Tattach, and how long an attach lasts."""

from __future__ import annotations

import pytest
from py9p.constants import NOFID
from py9p.messages import Qid, Rattach, Rclunk, Rerror, Tattach, Tauth, Tclunk, Twalk
from trio.testing import wait_all_tasks_blocked

from fs9p import Limits
from fs9p.messages import TattachU


async def test_authentication_is_not_required(client):
    assert await client.rpc(Tauth(9, "glenda")) == Rerror("authentication not required")
    assert await client.rpc(Tattach(9, "glenda", afid=3)) == Rerror("authentication not required")


async def test_attach_answers_with_the_qid_of_the_root(client):
    assert await client.rpc(Tattach(9, "glenda")) == Rattach(Qid(0x80, 0, 0))


async def test_the_file_system_is_told_who_asks_for_what(client, world):
    await client.rpc(Tattach(9, "glenda", aname="new"))
    attach = world.attaches[-1]
    assert (attach.uname, attach.aname, attach.n_uname) == ("glenda", "new", None)
    assert attach.connection.number == 1


@pytest.mark.parametrize(("number", "told"), [(1000, 1000), (0, 0), (0xFFFFFFFF, None)])
async def test_the_numeric_user_of_9p2000u_is_passed_on(unix_client, world, number, told):
    await unix_client.rpc(TattachU(9, "glenda", n_uname=number))
    assert world.attaches[-1].n_uname == told


async def test_a_fid_in_use_is_refused(client):
    assert await client.rpc(Tattach(0, "glenda")) == Rerror("fid already in use")


async def test_nofid_cannot_be_attached(client):
    assert await client.rpc(Tattach(NOFID, "glenda")) == Rerror("fid unknown or out of range")


async def test_an_attach_that_fails_leaves_the_fid_free(client):
    assert await client.rpc(Tattach(1, "glenda", aname="nowhere")) == Rerror("file not found")
    await client.attach(1)


async def test_an_attach_may_wait(client, world):
    await client.send(Tattach(1, "glenda", aname="slow"))
    await wait_all_tasks_blocked()
    world.waiting[0].give(world.root)
    assert isinstance(await client.receive(), Rattach)
    await client.walk(2, "hello", start=1)


async def test_of_two_attaches_to_one_fid_the_later_to_end_is_refused_and_detached(client, world):
    await client.send(Tattach(1, "glenda", aname="slow", tag=1))
    await client.send(Tattach(1, "glenda", tag=2))
    assert await client.receive() == Rattach(Qid(0x80, 0, 0), 2)
    world.waiting[0].give(world.root)
    assert await client.receive() == Rerror("fid already in use", 1)
    assert world.log[-1] == ("detach",)


async def test_an_attach_ends_with_the_last_fid_that_came_from_it(client, world):
    await client.walk(1, "sub")
    await client.walk(2, "deep", start=1)
    for fid in (0, 2):
        assert await client.rpc(Tclunk(fid)) == Rclunk()
    assert ("detach",) not in world.log
    assert await client.rpc(Tclunk(1)) == Rclunk()
    assert world.log[-1] == ("detach",)


async def test_two_attaches_end_each_by_itself(client, world):
    await client.attach(1, "other")
    await client.rpc(Tclunk(1))
    assert world.log.count(("detach",)) == 1
    await client.walk(2, "hello")


async def test_too_many_fids_are_refused_until_some_are_clunked(serve):
    client = serve(limits=Limits(fids=3))()
    await client.version()
    await client.attach()
    await client.walk(1)
    await client.walk(2)
    refusal = Rerror("temporarily out of fids: a connection has 3, clunk some")
    assert await client.rpc(Twalk(0, 3)) == refusal
    assert await client.rpc(Tattach(3, "glenda")) == refusal
    await client.rpc(Tclunk(2))
    await client.walk(3)
