"""Several users under one mount, which root made of the bridge's unix socket.

Over a unix socket the peer is the one that mounted, root; 9P2000.u says at each attach which
user it is for, and the bridge believes root.
"""

import json

import pytest

from tests.e2e.linux.test_files import LISTING, listing

ANN, BOB = 40001, 40002  # numbers that no host has a name for


def by(user, command):
    """A command of that user."""
    return f"setpriv --reuid {user} --regid {user} --clear-groups bash -c '{command}'"


@pytest.fixture(scope="module")
def at(inside, mount):
    """Where the socket is mounted, as README says it."""
    return mount(inside, "uname=root")


def session(guest, user, at):
    return json.loads(guest.output(by(user, f"cat {at}/status")))["session"]


def test_a_mount_of_the_socket_speaks_9p2000u(guest, at):
    assert "version=9p2000.u" in guest.output(f"grep {at} /proc/mounts")


def test_the_user_who_mounts_sees_the_files_as_his_own(guest, at):
    rows = listing(guest, at)
    assert {name: row[1:] for name, row in rows.items()} == dict.fromkeys(rows, ("root", "root"))


@pytest.mark.parametrize("user", [ANN, BOB])
def test_each_user_sees_the_files_as_his_own(guest, at, user):
    shown = guest.output(by(user, f"ls -ln {at}")).splitlines()[1:]
    assert {line.split()[2] for line in shown} == {str(user)}
    assert {line.split()[-1] for line in shown} >= LISTING.keys()


def test_a_user_can_ask(guest, at):
    assert guest.output(by(ANN, f"echo my question > {at}/prompt; cat {at}/output")) == (
        "my question"
    )


def test_each_user_has_a_session_of_his_own(guest, at):
    writes = [by(user, f"echo I am {user} > {at}/system") for user in (ANN, BOB)]
    reads = [by(user, f"cat {at}/system") for user in (ANN, BOB)]
    assert guest.output("; ".join(writes + reads)) == f"I am {ANN}\nI am {BOB}\n"
    assert session(guest, ANN, at)["owner"] == str(ANN)


def test_two_users_ask_at_the_same_time(guest, at):
    asking = [by(user, f"echo I am {user} > {at}/prompt; cat {at}/output") for user in (ANN, BOB)]
    said = guest.output(f"{asking[0]} > one & {asking[1]} > two; wait; cat one; echo; cat two")
    assert said == f"I am {ANN}\nI am {BOB}"


CLONED = "exec 3<>{}/clone; read -r number <&3; export number;"
"""Holds a session of root's open, whose number is then known to the commands that follow."""


def test_a_session_is_listed_for_its_owner_only(guest, at):
    listed = f"ls {at} | grep -cx $number"
    shown = guest.output(f"{CLONED.format(at)} {by(ANN, listed)}; {listed}")
    assert shown == "0\n1\n"


def test_anothers_session_is_not_found(guest, at):
    enters = f"cd {at}/$number && echo inside"
    said = guest.output(f"{CLONED.format(at)} {by(ANN, enters)} 2>&1; {enters}")
    assert said.endswith(": No such file or directory\ninside\n")


def test_quit_is_refused_to_others(guest, at):
    refusal = "Permission denied" if guest.release < (6, 8) else "Input/output error"
    done = guest.run(by(ANN, f"echo QUIT > {at}/ctl"))
    assert done.output.endswith(f"write error: {refusal}\n")
    reply = guest.output(by(ANN, f"cat {at}/ctl"))
    assert json.loads(reply) == {"status": "error", "message": "permission denied"}
    assert session(guest, BOB, at)["state"] == "idle"


def test_on_plain_9p2000_all_users_of_a_mount_are_one(guest, mount, inside):
    at = mount(inside, "version=9p2000")
    guest.output(by(ANN, f"echo from Ann > {at}/system"))
    assert guest.output(by(BOB, f"cat {at}/system")) == "from Ann\n"
    assert session(guest, BOB, at)["owner"] == "root"
