"""Sockets that the process was started with: from systemd, and as standard input."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from py9p import Client as Py9pClient

from fs9p import Peer, listen


@pytest.fixture
def path(tmp_path):
    return tmp_path / "socket"


PASSED = """
import os, socket, sys
sock = socket.socket(fileno=int(sys.argv[1]))
os.dup2(sock.fileno(), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="llambo")
os.execv(sys.executable, [sys.executable, "-c", sys.argv[2]])
"""

INHERITS = """
import os, trio, fs9p
listeners = fs9p.listen.inherited()
assert not fs9p.listen.inherited(), "only once"
assert not [name for name in os.environ if name.startswith("LISTEN_")]
assert not os.get_inheritable(3)
print(*map(fs9p.listen.address_of, listeners), flush=True)
server = fs9p.Server(fs9p.Tree(fs9p.Folder("/", 0, [fs9p.Text("a", 1, lambda: b"text")])))
trio.run(fs9p.listen.serve, server, listeners)
"""


def inherit(sock):
    """A process that was passed this socket as systemd passes one."""
    return subprocess.Popen(
        [sys.executable, "-c", PASSED, str(sock.fileno()), INHERITS],
        pass_fds=[sock.fileno()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_sockets_that_systemd_passes_are_served(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        with inherit(sock) as process, Py9pClient.connect_unix(str(path)) as client:
            client.negotiate()
            client.attach()
            client.walk(0, 1, "a")
            client.open(1)
            assert client.read(1) == b"text"
            process.terminate()
            assert process.stdout.read() == f"unix!{path}\n"
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
    assert process.returncode == 1


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
