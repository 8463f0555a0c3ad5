"""What the kernel tells of the other end of a socket pair."""

import select
import socket

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ctl import otherend
from ctl.otherend import has_read, hung_up


@pytest.fixture
def ends():
    pair = socket.socketpair()
    yield pair
    for end in pair:
        end.close()


@pytest.fixture
def begun(nursery):
    """A function that begins to wait; whether that has ended is asked of what it gives."""

    def begin(wait, sock):
        ended = trio.Event()

        async def run():
            await wait(sock.fileno())
            ended.set()

        nursery.start_soon(run)
        return ended

    return begin


@pytest.fixture
def events(ends):
    with select.epoll() as events:
        events.register(ends[0], 0)
        yield events


async def test_an_end_that_only_stops_sending_has_not_hung_up(ends, events, begun):
    here, there = ends
    ended = begun(lambda fd: hung_up(events), here)
    there.sendall(b"more")
    there.shutdown(socket.SHUT_WR)
    await wait_all_tasks_blocked()
    assert not ended.is_set()
    there.close()
    await ended.wait()


async def test_an_end_that_had_hung_up_before_has_hung_up(ends, events):
    _, there = ends
    there.sendall(b"more")
    there.close()
    assert await hung_up(events)


async def test_something_to_read_is_told_where_that_is_asked_for(ends, events):
    here, there = ends
    there.sendall(b"more")
    events.modify(here, select.EPOLLIN)
    assert not await hung_up(events)
    assert not await hung_up(events)


async def test_what_was_sent_has_been_read_when_all_of_it_was(ends, begun):
    here, there = ends
    assert await has_read(here.fileno()) is None
    here.sendall(b"one" * 1000)
    here.sendall(b"two")
    ended = begun(has_read, here)
    there.recv(3000)
    await wait_all_tasks_blocked()
    assert not ended.is_set()
    there.recv(1)
    await wait_all_tasks_blocked()
    assert not ended.is_set()
    there.recv(4096)
    await ended.wait()


async def test_what_nobody_will_read_any_more_counts_as_read(ends, begun):
    here, there = ends
    here.sendall(b"one")
    ended = begun(has_read, here)
    await wait_all_tasks_blocked()
    there.close()
    await ended.wait()


async def test_what_the_kernel_is_just_about_to_be_done_with_is_waited_for_without_a_wakeup(
    ends, monkeypatch
):
    counts = iter([768, 1, 1, 0])
    monkeypatch.setattr(otherend, "unread", lambda fd: next(counts))
    with trio.fail_after(10):
        await has_read(ends[0].fileno())
    assert next(counts, None) is None
