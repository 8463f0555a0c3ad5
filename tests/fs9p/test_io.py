"""Tread, Twrite, Tstat and Twstat."""

from __future__ import annotations

from dataclasses import replace

import pytest
from py9p.messages import (
    Dir,
    Qid,
    Rerror,
    Rread,
    Rwrite,
    Rwstat,
    Tread,
    Tstat,
    Twrite,
    Twstat,
)
from trio.testing import wait_all_tasks_blocked

from fs9p import Dialect, Peer, decode_dir
from fs9p.messages import TattachU
from fs9p.permissions import DONT_TOUCH

TRUNCATE = replace(DONT_TOUCH, length=0)


@pytest.mark.parametrize(
    ("offset", "count", "data"), [(0, 4, b"0123"), (8, 4, b"89"), (10, 4, b""), (3, 0, b"")]
)
async def test_a_read_gives_at_most_count_bytes_from_the_offset(client, offset, count, data):
    await client.open(1, "file")
    assert await client.rpc(Tread(1, offset, count)) == Rread(data)


async def test_a_read_is_cut_to_what_fits_a_message(client, world):
    world.file.text = b"x" * 10000
    await client.open(1, "file")
    assert len((await client.rpc(Tread(1, 0, 0xFFFFFFFF))).data) == 8192 - 24


async def test_a_generated_text_is_taken_once_for_a_reading_from_the_start(client, world):
    await client.open(1, "hello")
    assert await client.rpc(Tread(1, 0, 5)) == Rread(b"hello")
    assert await client.rpc(Tread(1, 5, 100)) == Rread(b", world\n")
    assert await client.rpc(Tread(1, 13, 100)) == Rread(b"")


@pytest.mark.parametrize("offset", [1 << 63, (1 << 64) - 1])
async def test_offsets_that_no_client_can_hold_are_refused(client, offset):
    await client.open(1, "file", mode=2)
    assert await client.rpc(Tread(1, offset, 1)) == Rerror("illegal offset")
    assert await client.rpc(Twrite(1, b"x", offset)) == Rerror("illegal offset")


async def test_reading_and_writing_need_an_open_for_it(client):
    refusal = Rerror("invalid fid: not open for that")
    await client.walk(1, "file")
    assert await client.rpc(Tread(1, 0, 1)) == refusal
    assert await client.rpc(Twrite(1, b"x")) == refusal
    await client.open(2, "file", mode=1)
    assert await client.rpc(Tread(2, 0, 1)) == refusal
    await client.open(3, "file", mode=0)
    assert await client.rpc(Twrite(3, b"x")) == refusal
    await client.open(4, "sub", mode=0)
    assert await client.rpc(Twrite(4, b"x")) == refusal


async def test_a_write_answers_with_what_was_taken(client, world):
    await client.open(1, "file", mode=2)
    assert await client.rpc(Twrite(1, b"abc", 2)) == Rwrite(3)
    assert world.file.text == b"01abc56789"
    assert await client.rpc(Twrite(1, b"", 2)) == Rwrite(0)


async def test_a_write_may_wait(client, world):
    await client.open(1, "slow", mode=1)
    await client.send(Twrite(1, b"text"))
    await wait_all_tasks_blocked()
    world.waiting[0].give(4)
    assert await client.receive() == Rwrite(4)


async def test_replies_come_in_the_order_in_which_requests_end(client, world):
    await client.open(1, "slow")
    await client.send(Tread(1, 0, 9, tag=1), Tread(1, 0, 9, tag=2), Tstat(1, tag=3))
    assert (await client.receive()).tag == 3
    world.waiting[1].give(b"second")
    assert await client.receive() == Rread(b"second", 2)
    world.waiting[0].give(b"first")
    assert await client.receive() == Rread(b"first", 1)


def names(data, decoded=decode_dir):
    found = []
    while data:
        size = int.from_bytes(data[:2], "little") + 2
        found.append(decoded(data[:size]).name)
        data = data[size:]
    return found


async def listing(client, fid, count):
    pieces, offset = [], 0
    while data := (await client.rpc(Tread(fid, offset, count))).data:
        pieces.append(data)
        offset += len(data)
    return pieces


@pytest.mark.parametrize("count", [80, 100, 200, 8192])
async def test_a_directory_is_read_by_whole_entries(client, count):
    await client.open(1, "many")
    pieces = await listing(client, 1, count)
    assert [n for piece in pieces for n in names(piece)] == [f"file{n:02}" for n in range(50)]
    assert all(len(piece) <= count for piece in pieces)


async def test_a_directory_can_be_read_again_from_the_start(client):
    await client.open(1, "many")
    assert await listing(client, 1, 500) == await listing(client, 1, 500)


@pytest.mark.parametrize("offset", [1, 59, 5000])
async def test_a_seek_in_a_directory_is_refused(client, offset):
    await client.open(1, "many")
    await client.rpc(Tread(1, 0, 120))
    assert await client.rpc(Tread(1, offset, 120)) == Rerror("illegal offset")


async def test_a_count_too_small_for_an_entry_is_an_error_and_not_the_end(client):
    await client.open(1, "many")
    reply = await client.rpc(Tread(1, 0, 20))
    assert reply == Rerror("invalid count 20: the next entry has 67 bytes")
    assert await client.rpc(Tread(1, 0, 0)) == Rread(b"")
    assert len(names((await client.rpc(Tread(1, 0, 67))).data)) == 1


async def test_a_listing_of_a_9p2000u_client_has_its_entries(unix_client):
    await unix_client.open(1, "sub")
    data = (await unix_client.rpc(Tread(1, 0, 8192))).data
    assert names(data, lambda stat: decode_dir(stat, Dialect.UNIX)) == ["deep", "sealed"]


async def test_stat_answers_with_the_entry(client):
    await client.walk(1, "sub")
    assert (await client.rpc(Tstat(1))).stat == Dir(
        qid=Qid(0x80, 0, 20),
        mode=0x80000000 | 0o555,
        name="sub",
        uid="none",
        gid="none",
        muid="none",
    )


async def test_a_9p2000u_client_sees_files_as_its_own(dial):
    client = dial()
    await client.version("9P2000.u")
    await client.rpc(TattachU(0, "glenda", n_uname=1000))
    stat = (await client.rpc(Tstat(0))).stat
    assert (stat.n_uid, stat.n_gid, stat.n_muid) == (1000, 65534, 1000)


async def test_without_a_number_the_peer_is_the_owner(serve):
    client = serve()(peer=Peer(7, 8, 9))
    await client.version("9P2000.u")
    await client.attach()
    stat = (await client.rpc(Tstat(0))).stat
    assert (stat.n_uid, stat.n_gid) == (7, 8)


@pytest.mark.parametrize(
    ("changes", "truncates"),
    [
        pytest.param({}, False, id="nothing"),
        pytest.param({"length": 0}, True, id="length 0"),
        pytest.param({"length": 0, "mtime": 5}, True, id="length 0 and mtime, as v9fs"),
        pytest.param({"atime": 5, "mtime": 6}, False, id="touch"),
        pytest.param({"mode": 0o666}, False, id="unchanged mode, as vim"),
        pytest.param({"type": 0, "dev": 0, "qid": Qid(0, 0, 2)}, False, id="unchanged numbers"),
        pytest.param({"name": "file", "gid": "none", "uid": "none"}, False, id="unchanged names"),
    ],
)
async def test_wstats_that_shells_and_editors_send_are_accepted(client, world, changes, truncates):
    await client.walk(1, "file")
    assert await client.rpc(Twstat(1, replace(DONT_TOUCH, **changes))) == Rwstat()
    assert (world.file.text == b"") == truncates


@pytest.mark.parametrize(
    "changes",
    [
        {"length": 5},
        {"mode": 0o600},
        {"mode": 0o666 | 0x80000000},
        {"name": "other"},
        {"gid": "other"},
        {"uid": "other"},
        {"muid": "other"},
        {"qid": Qid(0, 0, 5)},
        {"length": 0, "name": "other"},
    ],
)
async def test_other_wstats_change_nothing(client, world, changes):
    await client.walk(1, "file")
    wstat = Twstat(1, replace(DONT_TOUCH, **changes))
    assert await client.rpc(wstat) == Rerror("wstat prohibited")
    assert world.file.text == b"0123456789"


async def test_a_file_that_cannot_be_written_cannot_be_truncated(client):
    await client.walk(1, "hello")
    assert await client.rpc(Twstat(1, TRUNCATE)) == Rerror("permission denied")


async def test_length_0_of_a_directory_changes_nothing(client):
    assert await client.rpc(Twstat(0, TRUNCATE)) == Rwstat()


async def test_a_truncating_wstat_may_wait(client, world):
    world.file.truncate = world.wait
    await client.walk(1, "file")
    await client.send(Twstat(1, TRUNCATE))
    await wait_all_tasks_blocked()
    world.waiting[0].give(None)
    assert await client.receive() == Rwstat()


async def test_a_wstat_of_9p2000u_judges_its_own_fields(unix_client):
    await unix_client.walk(1, "file")
    assert await unix_client.rpc(Twstat(1, DONT_TOUCH)) == Rwstat()
    reply = await unix_client.rpc(Twstat(1, replace(DONT_TOUCH, n_uid=1)))
    assert (reply.ename, reply.errno) == ("wstat prohibited", 1)
