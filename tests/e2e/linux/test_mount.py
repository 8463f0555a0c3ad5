"""`llambo mount` and `llambo umount` with the kernel's 9p, run in the guest, whose root they are.

That is emulated, and a Python in it takes a second or two to start.
"""

import json
import shlex
import sys

import pytest

from tests.e2e import stuck
from tests.e2e.linux.conftest import LLAMBO, Served
from tests.e2e.linux.kernel import REPOSITORY
from tests.e2e.linux.test_streaming import arrivals, assert_apart

THIS_TREE = f"export PYTHONPATH={shlex.quote(str(REPOSITORY))};"
LLAMBO_HERE = f"{THIS_TREE} {shlex.quote(LLAMBO)}"


@pytest.fixture
def at(guest):
    """An empty directory of the guest, on which nothing is mounted in the end."""
    path = guest.name()
    guest.output(f"mkdir {path}")
    yield path
    guest.run(f"umount -f -l {path}")


@pytest.fixture(scope="module")
def own(guest):
    """The socket of a bridge in the guest, and its process, for what may be done to that."""
    folder = guest.name()
    pid = guest.output(
        f"""mkdir {folder}
        {LLAMBO_HERE} serve --engine echo --socket {folder}/9p 2>{folder}.log & echo $!
        until grep -q 'loaded echo' {folder}.log; do sleep .1; kill -0 $! || exit 1; done"""
    )
    return f"{folder}/9p", int(pid)


def mounted(guest, at):
    return guest.run(f"grep ' {at} ' /proc/mounts").status == 0


def test_the_command_that_a_dry_run_prints_mounts_and_streams(guest, inside, at):
    printed = guest.output(f"{LLAMBO_HERE} mount -n --with kernel {inside.source} {at}")
    assert printed.startswith("mount -t 9p -o trans=unix,uname=root ")
    assert not mounted(guest, at)
    guest.output(printed)
    assert_apart(arrivals(guest, at))


def test_root_mounts_with_the_kernel(guest, inside, at):
    said = guest.output(f"{LLAMBO_HERE} mount {inside.source} {at}").splitlines()
    command = f"    mount -t 9p -o trans=unix,uname=root {inside.source} {at}"
    assert said[:3] == ["mounting with the kernel's 9p:", command, "it answers: model echo, ready"]
    assert guest.output(f"{LLAMBO_HERE} umount {at}") == ""
    assert not mounted(guest, at)


def test_a_bridge_over_tcp_is_mounted_with_an_attach_name(guest, fast, at):
    assert isinstance(fast, Served)
    port = fast.options.rpartition("=")[2]
    guest.output(f"{LLAMBO_HERE} mount -a new tcp!{fast.source}!{port} {at}")
    assert "aname=new" in guest.output(f"grep ' {at} ' /proc/mounts")
    assert json.loads(guest.output(f"cat {at}/status"))["model"]["name"] == "echo"
    assert guest.output(f"{LLAMBO_HERE} umount {at}") == ""


def test_what_uses_it_is_named(guest, inside, at):
    said = guest.output(
        f"""{LLAMBO_HERE} mount {inside.source} {at} >/dev/null
        cd {at}; {LLAMBO_HERE} umount {at}; echo $?"""
    )
    assert f"{at} is in use by bash (process " in said
    assert said.endswith(f"take it out of sight at once: umount -l {at}\n1\n")


def test_a_mount_that_does_not_answer_is_undone(guest, at):
    socket = f"{guest.name()}/9p"
    said = guest.run(
        f"""{THIS_TREE} cd {REPOSITORY}; {sys.executable} -m {stuck.__name__} {socket} &
        until [ -S {socket} ]; do sleep .1; kill -0 $! || exit 1; done
        {LLAMBO_HERE} mount --timeout 5 {socket} {at}; kill -9 $!"""
    )
    *_, last = said.output.splitlines()
    assert last == "llambo: the mount does not answer within 5 s; it is unmounted again"
    assert not mounted(guest, at)


def test_a_mount_whose_bridge_hangs_is_taken_away(guest, own, at):
    socket, pid = own
    guest.output(f"{LLAMBO_HERE} mount {socket} {at}; kill -STOP {pid}")
    assert guest.output(f"{LLAMBO_HERE} umount --timeout 3 {at}; kill -CONT {pid}") == ""
    assert not mounted(guest, at)


def test_a_mount_whose_bridge_was_killed_is_taken_away(guest, own, at):
    socket, pid = own  # the last test with it
    guest.output(f"{LLAMBO_HERE} mount {socket} {at}; kill -9 {pid}")
    assert guest.output(f"{LLAMBO_HERE} umount {at}") == ""
    assert not mounted(guest, at)
