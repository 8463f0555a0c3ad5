"""The guest, and the bridges that it mounts: two on the host over TCP, one of its own."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass

import pytest

from tests.e2e.conftest import LLAMBO, Bridge
from tests.e2e.linux.guest import HOST, Guest
from tests.e2e.linux.kernel import HERE, Missing, find_kernel
from tests.e2e.programs import missing

RATE = 5
"""Tokens a second of the slow bridges."""


@dataclass(frozen=True)
class Served:
    """Where the guest finds a bridge: what its `mount` takes."""

    source: str
    options: str


def pytest_collection_modifyitems(items):
    """Skip what needs a guest where none can be booted, unless LLAMBO_REQUIRE says `linux`."""
    if "linux" in os.environ.get("LLAMBO_REQUIRE", "").split(","):
        return
    try:
        find_kernel()
    except Missing as missing:
        for item in items:
            if item.path.parent == HERE:
                item.add_marker(pytest.mark.skip(str(missing)))


@pytest.fixture(scope="package")
def guest(tmp_path_factory):
    guest = Guest(find_kernel(), tmp_path_factory.mktemp("guest"))
    yield guest
    guest.stop()


def _over_tcp(folder, engine, *options):
    bridge = Bridge(folder, "--engine", engine, "--tcp", "127.0.0.1:0", *options)
    return bridge, Served(HOST, f"trans=tcp,port={bridge.tcp().rpartition('!')[2]}")


@pytest.fixture(scope="package")
def fast(tmp_path_factory):
    """A bridge on the host that answers at once. Over TCP, so nobody is authenticated."""
    bridge, served = _over_tcp(tmp_path_factory.mktemp("fast"), "echo")
    yield served
    bridge.stop()


@pytest.fixture(scope="package")
def slow(tmp_path_factory):
    """A bridge on the host that answers at `RATE`."""
    bridge, served = _over_tcp(tmp_path_factory.mktemp("slow"), f"echo:{RATE}")
    yield served
    bridge.stop()


@pytest.fixture(scope="package")
def small(tmp_path_factory):
    """A bridge on the host with two sessions, of which clients over TCP get one."""
    bridge, served = _over_tcp(tmp_path_factory.mktemp("small"), "echo", "--max-sessions", "2")
    yield served
    bridge.stop()


@pytest.fixture(scope="package")
def inside(guest):
    """A bridge in the guest, of the guest's root: its kernel mounts the socket itself."""
    folder = guest.name()
    serve = [LLAMBO, "serve", "--engine", f"echo:{RATE}", "--socket", f"{folder}/9p"]
    guest.output(
        f"""mkdir {folder}; {shlex.join(serve)} 2>{folder}.log &
        until grep -q 'loaded echo' {folder}.log; do
            sleep .1; kill -0 $! || {{ cat {folder}.log; exit 1; }}
        done"""
    )
    return Served(f"{folder}/9p", "trans=unix")


@pytest.fixture(scope="package")
def mount(guest):
    """A function that mounts a bridge with further options; the path where. It stays there."""

    def mount(served, *options):
        path = guest.name()
        joined = ",".join([served.options, *options])
        guest.output(f"mkdir {path}; mount -t 9p -o {joined} {served.source} {path}")
        return path

    return mount


@pytest.fixture(scope="package")
def mount_cached(guest, mount):
    """`mount` with a cache mode, where this kernel's reads anything."""

    def mount_cached(served, mode):
        if mode == "loose" and guest.release < (6, 4):
            missing(
                "linux",
                "before Linux 6.4 cache=loose reads nothing of a file whose length is 0: "
                "tests/e2e/linux/get-kernel unpacks a newer one",
            )
        return mount(served, f"cache={mode}")

    return mount_cached
