"""Sockets that the process was started with: from systemd, and as standard input."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest
from py9p import Client as Py9pClient

from fs9p import Peer, listen
from tests.conftest import started

DEADLINE = 60
"""Seconds for any process to end."""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "socket"


PASSED = """
import fcntl, os, sys
names, *command = sys.argv[1:]
count = len(names.split(":"))
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in command[:count]]
for n, fd in enumerate(high, 3):
    os.dup2(fd, n)
os.environ.update(LISTEN_FDS=str(count), LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES=names)
os.execv(command[count], command[count:])
"""
"""Takes the descriptors that follow their names, as systemd passes them, to a command."""

INHERITS = """
import os, trio, fs9p
named = fs9p.listen.inherited()
assert not fs9p.listen.inherited(), "only once"
assert not [name for name in os.environ if name.startswith("LISTEN_")]
assert not os.get_inheritable(3)
print(*(f"{name}={fs9p.listen.address_of(listener)}" for name, listener in named), flush=True)
server = fs9p.Server(fs9p.Tree(fs9p.Folder("/", 0, [fs9p.Text("a", 1, lambda: b"text")])))
trio.run(fs9p.listen.serve, server, [listener for _, listener in named])
"""


@contextmanager
def passing(socks, *command, names="unknown:unknown"):
    """The command, which was passed these sockets as systemd passes them. They are closed here."""
    fds = [sock.fileno() for sock in socks]
    names = ":".join(names.split(":")[: len(fds)])
    with started(
        [sys.executable, "-c", PASSED, names, *map(str, fds), *command],
        pass_fds=fds, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        for sock in socks:
            sock.close()
        yield process


def inherit(*socks):
    return passing(socks, sys.executable, "-c", INHERITS, names="one:two")


def test_sockets_that_systemd_passes_are_served(path):
    unix, tcp = socket.socket(socket.AF_UNIX), socket.create_server(("127.0.0.1", 0))
    unix.bind(str(path))
    unix.listen()
    host, port = tcp.getsockname()
    with inherit(unix, tcp) as process:
        for connect in (
            lambda: Py9pClient.connect_unix(str(path)),
            lambda: Py9pClient(socket.create_connection((host, port))),
        ):
            with connect() as client:
                client.negotiate()
                client.attach()
                client.walk(0, 1, "a")
                client.open(1)
                assert client.read(1) == b"text"
        process.terminate()
        assert process.stdout.read() == f"one=unix!{path} two=tcp!{host}!{port}\n"
    assert path.exists()  # it is systemd's


@pytest.mark.parametrize(
    ("family", "kind", "error"),
    [
        (socket.AF_UNIX, socket.SOCK_DGRAM, "not a listening stream socket"),
        (socket.AF_INET, socket.SOCK_STREAM, "not a loopback address"),
    ],
)
def test_sockets_that_cannot_be_served_are_refused(path, family, kind, error):
    with socket.socket(family, kind) as sock:
        if family == socket.AF_UNIX:
            sock.bind(str(path))
        else:
            sock.bind(("0.0.0.0", 0))
            sock.listen()
        with inherit(sock) as process:
            assert error in process.stderr.read()
            assert process.wait(DEADLINE) == 1


@pytest.mark.parametrize(
    "environment", [{}, {"LISTEN_FDS": "1", "LISTEN_PID": "1"}, {"LISTEN_PID": str(os.getpid())}]
)
async def test_without_sockets_of_ones_own_nothing_is_inherited(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert listen.inherited() == []


PEER = "import fs9p; print(fs9p.peer_of_stdin())"


def test_a_unix_socket_as_standard_input_says_who_is_there():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        out = subprocess.check_output([sys.executable, "-c", PEER], stdin=theirs, text=True)
    assert out == f"{Peer(os.getuid(), os.getgid(), os.getpid())}\n"


def test_a_pipe_as_standard_input_belongs_to_who_started_the_process():
    out = subprocess.check_output([sys.executable, "-c", PEER], input="", text=True)
    assert out == f"{Peer(os.getuid(), os.getgid(), os.getpid())}\n"


def test_a_tcp_connection_as_standard_input_is_nobody():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        out = subprocess.check_output([sys.executable, "-c", PEER], stdin=client, text=True)
    assert out == "None\n"


STDIO = """
import os, trio, fs9p
async def main():
    stream = fs9p.listen.stdio()
    print("a stray line")
    os.write(1, b"and another")
    assert os.read(0, 1) == b""
    server = fs9p.Server(fs9p.Tree(fs9p.Folder("/", 0, [fs9p.Text("a", 1, lambda: b"text")])))
    await server.serve(stream)
trio.run(main)
"""


@pytest.mark.parametrize("kind", ["pipes", "one socket"])
def test_stdio_serves_one_connection_and_keeps_stray_output_away(kind):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ends = (subprocess.PIPE, subprocess.PIPE) if kind == "pipes" else (theirs, theirs)
        with started(
            [sys.executable, "-c", STDIO], stdin=ends[0], stdout=ends[1], stderr=subprocess.PIPE
        ) as process:
            theirs.close()
            transport = Pipes(process) if kind == "pipes" else ours
            client = Py9pClient(transport)
            client.negotiate()
            client.attach(uname="glenda")
            client.walk(0, 1, "a")
            client.open(1)
            assert client.read(1) == b"text"
            client.close()
            errors = process.stderr.read()
            assert process.wait(DEADLINE) == 0
    assert b"a stray line" in errors
    assert b"and another" in errors


class Pipes:
    def __init__(self, process):
        self.read = process.stdout.read
        self.write = process.stdin.write
        self.flush = process.stdin.flush
        self.close = process.stdin.close
