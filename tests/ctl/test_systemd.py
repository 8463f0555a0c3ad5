"""What the bridge tells systemd, at a socket as systemd has it."""

import os
import socket

import pytest
import trio

from ctl.systemd import EVERY, Notifier


@pytest.fixture
def manager(tmp_path):
    """A function that gives the next message; its socket is `path`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(5)

        def told():
            return sock.recv(4096).decode().splitlines()

        told.path = str(tmp_path / "notify")
        yield told


def test_assignments_are_sent_as_lines(manager):
    Notifier({"NOTIFY_SOCKET": manager.path}).tell(READY="1", STATUS="fine")
    assert manager() == ["READY=1", "STATUS=fine"]


def test_an_abstract_socket_is_found():
    name = f"llambo-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0{name}")
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).tell(STOPPING="1")
        assert sock.recv(99) == b"STOPPING=1"


def test_without_a_manager_nothing_happens():
    Notifier({}).tell(READY="1")


def test_a_manager_that_has_gone_is_no_error(tmp_path):
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "absent")}).tell(READY="1")


def test_children_do_not_inherit_the_way_to_the_manager(manager):
    environment = {
        "NOTIFY_SOCKET": manager.path,
        "WATCHDOG_USEC": "1",
        "WATCHDOG_PID": "1",
        "A": "",
    }
    Notifier(environment)
    assert environment == {"A": ""}


async def test_signs_of_life_come_twice_in_the_time_of_the_watchdog(
    manager, nursery, autojump_clock
):
    notifier = Notifier({"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "3000000"})
    nursery.start_soon(notifier.live, lambda: f"at {trio.current_time() - begin:g}")
    begin = trio.current_time()
    await trio.sleep(3.1)
    for seconds in ("0", "1.5", "3"):
        assert manager() == ["READY=1", "WATCHDOG=1", f"STATUS=at {seconds}"]
    nursery.cancel_scope.cancel()


def test_a_value_cannot_be_taken_for_another_assignment(manager):
    Notifier({"NOTIFY_SOCKET": manager.path}).tell(STATUS="a\nMAINPID=1 \udcff")
    assert manager() == ["STATUS=a MAINPID=1 ?"]


@pytest.mark.parametrize(
    "watchdog",
    [
        {},
        {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "-5"},
        {"WATCHDOG_USEC": "1e6"},
        {"WATCHDOG_USEC": ""},
    ],
)
def test_without_a_watchdog_of_ours_the_state_is_told_now_and_then(watchdog):
    assert Notifier(watchdog).period == EVERY
