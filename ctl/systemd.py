"""What a service tells systemd: that it is ready, what it does, that it is alive, that it ends.

Source: sd_notify(3), sd_watchdog_enabled(3). Where no service manager listens, nothing is told.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, MutableMapping
from contextlib import suppress

import trio

EVERY = 10.0
"""Seconds between two lines of ``systemctl status``, where no watchdog asks for more."""


class Notifier:
    """The way to the service manager that ``$NOTIFY_SOCKET`` names. Takes the variables out of
    the environment, lest a child speaks for us. period: seconds between two signs of life, half
    of what the watchdog allows at most."""

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        path = environment.pop("NOTIFY_SOCKET", "")
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        watched = environment.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        micros = environment.pop("WATCHDOG_USEC", "")
        allowed = int(micros) / 1e6 if micros.isdecimal() else 0.0
        self.period = min(allowed / 2, EVERY) if watched and allowed else EVERY

    def tell(self, **assignments: str) -> None:
        """Send these, such as ``READY="1"``. A manager that does not listen is no error."""
        if not self._address:
            return
        lines = (f"{name}={' '.join(value.split())}" for name, value in assignments.items())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, suppress(OSError):
            sock.setblocking(False)
            sock.sendto("\n".join(lines).encode(errors="replace"), self._address)

    async def live(self, state: Callable[[], str]) -> None:
        """Give signs of life, with a line about the state, until cancelled."""
        if not self._address:
            return
        while True:
            # READY each time: a message is lost where the manager's queue is full.
            self.tell(READY="1", WATCHDOG="1", STATUS=state())
            await trio.sleep(self.period)
