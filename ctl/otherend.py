"""What Linux tells of the other end of a connected unix socket, beyond what reading it tells."""

from __future__ import annotations

import fcntl
import select
import struct
import termios

import trio

_INT = struct.Struct("i")


async def hung_up(events: select.epoll) -> bool:
    """Wait for an event of the one socket that is registered there; whether it is that the other
    end is closed. One that has only shut down its sending is not: it still reads.

    Source: EPOLLHUP in epoll_ctl(2), which is told without being asked for.
    """
    await trio.lowlevel.wait_readable(events.fileno())
    return any(mask & select.EPOLLHUP for _, mask in events.poll(0))


async def has_read(fd: int) -> None:
    """Wait until the other end has read, or thrown away, all that was sent.

    At once, and without a checkpoint, where it has. Source: SIOCOUTQ in unix(7); the kernel
    wakes those who wait for EPOLLOUT whenever something was read. Raises `OSError` where there is
    no descriptor to wait with.
    """
    if not unread(fd):
        return
    with select.epoll() as events:
        events.register(fd, select.EPOLLOUT | select.EPOLLET)
        while size := unread(fd):
            if size == 1:
                # The kernel is just about to be done with it, and will not tell again.
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(events.fileno())
                events.poll(0)


def unread(fd: int) -> int:
    """Bytes of kernel memory that what was sent takes until it is read; 1 is none, but soon."""
    count: int = _INT.unpack(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(_INT.size)))[0]
    return count
