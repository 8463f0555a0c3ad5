"""Twalk as in walk(5)."""

from __future__ import annotations

import pytest
from py9p.constants import NOFID
from py9p.messages import Qid, Rerror, Rwalk, Tread, Twalk

NOT_FOUND = Rerror("file not found")


async def test_walks_element_by_element_and_answers_with_every_qid(client):
    reply = await client.rpc(Twalk(0, 1, ("sub", "deep", "leaf")))
    assert reply == Rwalk((Qid(0x80, 0, 20), Qid(0x80, 0, 21), Qid(0, 0, 22)))


async def test_no_names_clone_a_fid(client):
    await client.walk(1, "sub")
    await client.walk(2, start=1)
    await client.walk(3, "deep", start=2)
    await client.walk(4, "deep", start=1)


async def test_a_file_can_be_cloned_too(client):
    await client.walk(1, "hello")
    await client.walk(2, start=1)


async def test_a_first_name_that_fails_is_an_error(client):
    assert await client.rpc(Twalk(0, 1, ("nothing", "deep"))) == NOT_FOUND


async def test_a_later_name_that_fails_is_a_short_reply_and_makes_no_fid(client):
    assert await client.rpc(Twalk(0, 1, ("sub", "nothing"))) == Rwalk((Qid(0x80, 0, 20),))
    assert await client.rpc(Twalk(1, 2)) == Rerror("fid unknown or out of range")


async def test_a_file_within_a_path_is_where_the_walk_ends(client):
    assert await client.rpc(Twalk(0, 1, ("hello", ".."))) == Rwalk((Qid(0, 0, 1),))


async def test_a_walk_from_a_file_is_refused(client):
    await client.walk(1, "hello")
    assert await client.rpc(Twalk(1, 2, ("..",))) == Rerror("not a directory")


async def test_dot_dot_goes_back_the_way_that_was_come(client):
    reply = await client.rpc(Twalk(0, 1, ("sub", "deep", "..", "..", "hello")))
    assert [qid.path for qid in reply.wqid] == [20, 21, 20, 0, 1]


async def test_dot_dot_of_the_root_is_the_root(client):
    reply = await client.rpc(Twalk(0, 1, ("..", "..", "sub")))
    assert [qid.path for qid in reply.wqid] == [0, 0, 20]


@pytest.mark.parametrize("name", [".", "", "sub/deep", "/", "../sub"])
async def test_names_that_no_file_can_have_are_not_found(client, name):
    assert await client.rpc(Twalk(0, 1, (name,))) == NOT_FOUND


async def test_sixteen_names_are_walked_in_one_message(client):
    names = ("sub", "..") * 8
    assert len((await client.rpc(Twalk(0, 1, names))).wqid) == 16


async def test_a_fid_can_be_moved_to_where_it_walks(client):
    assert len((await client.rpc(Twalk(0, 0, ("sub", "deep")))).wqid) == 2
    await client.walk(1, "leaf")


async def test_a_fid_whose_walk_fails_stays_where_it_was(client):
    await client.rpc(Twalk(0, 0, ("sub", "nothing")))
    assert await client.rpc(Twalk(0, 0, ("nothing",))) == NOT_FOUND
    await client.walk(1, "hello")


@pytest.mark.parametrize("names", [(), ("sub",), ("sub", "nothing")])
async def test_a_newfid_in_use_is_refused(client, names):
    await client.walk(1)
    assert await client.rpc(Twalk(0, 1, names)) == Rerror("fid already in use")


async def test_nofid_cannot_be_walked_to(client):
    assert await client.rpc(Twalk(0, NOFID)) == Rerror("fid unknown or out of range")


async def test_an_unknown_fid_is_refused(client):
    assert await client.rpc(Twalk(7, 8)) == Rerror("fid unknown or out of range")


@pytest.mark.parametrize("newfid", [1, 2])
async def test_an_open_fid_cannot_be_walked(client, newfid):
    await client.open(1, "sub")
    refusal = Rerror("invalid fid: already open")
    assert await client.rpc(Twalk(1, newfid, ("deep",))) == refusal
    assert (await client.rpc(Tread(1, 0, 4096))).data
