"""Tflush as in flush(5)."""

from __future__ import annotations

from py9p.messages import (
    Rerror,
    Rflush,
    Rread,
    Rwrite,
    Tclunk,
    Tflush,
    Tread,
    Tstat,
    Twrite,
)
from trio.testing import wait_all_tasks_blocked

from fs9p import Error


async def test_a_flushed_request_is_never_answered(client, world, autojump_clock):
    await client.open(1, "slow")
    await client.send(Tread(1, 0, 9, tag=1))
    await wait_all_tasks_blocked()
    assert await client.rpc(Tflush(1, tag=2)) == Rflush(2)
    assert world.waiting[0].cancelled
    assert await client.silent()


async def test_a_flush_in_the_same_chunk_as_its_request(client, world, autojump_clock):
    await client.open(1, "slow")
    await client.send(Tread(1, 0, 9, tag=1), Tflush(1, tag=2))
    assert await client.receive() == Rflush(2)
    assert await client.silent()


async def test_a_flush_of_an_unknown_tag_is_answered_at_once(client):
    assert await client.rpc(Tflush(77, tag=2)) == Rflush(2)


async def test_a_flush_of_its_own_tag_is_answered_at_once(client):
    assert await client.rpc(Tflush(2, tag=2)) == Rflush(2)


async def test_a_flush_before_any_version_is_answered(dial):
    assert await dial().rpc(Tflush(1, tag=2)) == Rflush(2)


async def test_a_flush_of_an_answered_request_comes_after_the_answer(client):
    await client.open(1, "hello")
    await client.send(Tread(1, 0, 5, tag=1), Tflush(1, tag=2))
    assert await client.receive() == Rread(b"hello", 1)
    assert await client.receive() == Rflush(2)


async def test_the_tag_can_be_used_again_after_the_rflush(client, world):
    await client.open(1, "slow")
    await client.send(Tread(1, 0, 9, tag=1), Tflush(1, tag=2))
    await client.receive()
    await client.send(Tread(1, 0, 9, tag=1))
    await wait_all_tasks_blocked()
    world.waiting[-1].give(b"new")
    assert await client.receive() == Rread(b"new", 1)


async def test_a_request_that_ends_all_the_same_is_answered_before_the_rflush(client, world):
    await client.open(1, "stubborn")
    await client.send(Tread(1, 0, 9, tag=1), Tflush(1, tag=2))
    await wait_all_tasks_blocked()
    world.waiting[0].give(b"done")
    assert await client.receive() == Rread(b"done", 1)
    assert await client.receive() == Rflush(2)


async def test_a_flushed_write_that_was_carried_out_says_so_by_being_answered_first(client, world):
    await client.open(1, "file", mode=1)
    await client.open(2, "stubborn", mode=1)
    await client.send(Twrite(1, b"at once", tag=1), Tflush(1, tag=2))
    assert [await client.receive() for _ in range(2)] == [Rwrite(7, 1), Rflush(2)]
    await client.send(Twrite(2, b"later", tag=1), Tflush(1, tag=2))
    await wait_all_tasks_blocked()
    world.waiting[0].give(5)
    assert [await client.receive() for _ in range(2)] == [Rwrite(5, 1), Rflush(2)]


async def test_a_request_that_fails_all_the_same_is_answered_before_the_rflush(client, world):
    await client.open(1, "stubborn")
    await client.send(Tread(1, 0, 9, tag=1), Tflush(1, tag=2))
    await wait_all_tasks_blocked()
    world.waiting[0].give(Error("busy: no"))
    assert await client.receive() == Rerror("busy: no", 1)
    assert await client.receive() == Rflush(2)


async def test_a_flush_waits_until_its_request_has_ended(client, world, autojump_clock):
    await client.open(1, "stubborn")
    await client.send(Tread(1, 0, 9, tag=1), Tflush(1, tag=2))
    assert await client.silent()
    world.waiting[0].give(b"")
    assert await client.receive() == Rread(b"", 1)
    assert await client.receive() == Rflush(2)


async def test_several_flushes_of_one_tag_are_answered_in_their_order(client, world):
    await client.open(1, "slow")
    await client.send(Tread(1, 0, 9, tag=1))
    await client.send(Tflush(1, tag=4), Tflush(1, tag=2), Tflush(1, tag=3))
    assert [await client.receive() for _ in range(3)] == [Rflush(4), Rflush(2), Rflush(3)]


async def test_a_flush_of_a_flush_is_answered_after_it(client, world):
    await client.open(1, "stubborn")
    await client.send(Tread(1, 0, 9, tag=1), Tflush(1, tag=2), Tflush(2, tag=3))
    await wait_all_tasks_blocked()
    world.waiting[0].give(b"done")
    replies = [await client.receive() for _ in range(3)]
    assert replies == [Rread(b"done", 1), Rflush(2), Rflush(3)]


async def test_a_flush_leaves_other_requests_alone(client, world):
    await client.open(1, "slow")
    await client.send(Tread(1, 0, 9, tag=1), Tread(1, 0, 9, tag=2), Tflush(1, tag=3))
    assert await client.receive() == Rflush(3)
    world.waiting[1].give(b"text")
    assert await client.receive() == Rread(b"text", 2)


async def test_a_killed_reader_of_inferno(client, world):
    """Tflush, then Tclunk, then the same tags again: FACTS."""
    await client.open(1, "slow")
    await client.send(Tread(1, 0, 9, tag=1))
    await wait_all_tasks_blocked()
    await client.send(Tflush(1, tag=2))
    assert await client.receive() == Rflush(2)
    await client.rpc(Tclunk(1, tag=1))
    assert world.log[-1] == ("close", "slow")
    assert (await client.rpc(Tstat(0, tag=1))).tag == 1


async def test_a_tag_in_use_ends_the_connection(client, world):
    await client.open(1, "slow")
    await client.send(Tread(1, 0, 9, tag=1), Tstat(0, tag=1))
    assert await client.receive() is None
    assert world.log[-1] == ("disconnected", 1)
