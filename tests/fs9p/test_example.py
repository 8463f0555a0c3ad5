"""The examples run as they stand: in the package's docstring, in docs/fs9p.md, and hellofs.py."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from py9p import Client
from py9p.constants import OWRITE

import fs9p
from tests.conftest import started

DEADLINE = 60
"""Seconds for any one reply; far more than any needs."""

ROOT = Path(__file__).parents[2]


def docstring():
    _, _, rest = fs9p.__doc__.partition("::\n")
    return textwrap.dedent(rest[: rest.index("\n\nThen ")])


def manual():
    return re.search(r"```python\n(.*?)```", (ROOT / "docs/fs9p.md").read_text(), re.DOTALL)[1]


@pytest.mark.parametrize("example", [docstring, manual])
def test_the_ten_line_server_serves_its_two_files(example, tmp_path):
    path = tmp_path / "socket"
    source = example().strip().replace("/tmp/hello/socket", str(path))
    ready = "\nlisten = fs9p.listen.unix\n"
    ready += "fs9p.listen.unix = lambda p: (listen(p), print('up', flush=True))[0]\n"
    source = source.replace("\nimport fs9p\n", "\nimport fs9p\n" + ready)
    with started([sys.executable, "-c", source], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"up\n"
        with Client.connect_unix(str(path)) as client:
            client.negotiate()
            client.attach(uname="glenda")
            client.walk(0, 1, "hello")
            client.open(1)
            assert client.read(1) == b"hello, world\n"
            client.walk(0, 2, "time")
            client.open(2)
            assert abs(int(client.read(2)) - time.time()) < 60


@pytest.fixture
def hellofs(tmp_path):
    """A function that connects to a running hellofs.py."""
    path = str(tmp_path / "socket")
    command = [sys.executable, str(ROOT / "examples/hellofs.py"), path]
    with started(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == f"serving unix!{path}\n"
        clients = []

        def connect():
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(DEADLINE)
            sock.connect(path)
            clients.append(Client(sock))
            clients[-1].negotiate()
            clients[-1].attach(0)
            return clients[-1]

        yield connect
        for client in clients:
            client.close()


def opened(client, name, mode=0):
    client.walk(0, 1, name)
    client.open(1, mode)
    return client


def test_a_note_of_hellofs_is_read_as_it_was_written(hellofs):
    writer = opened(hellofs(), "note", int(OWRITE) | 0x10)
    writer.write(1, b"first")
    writer.write(1, b", then", 5)
    assert opened(hellofs(), "note").read(1) == b"first, then"


def test_readers_of_the_news_of_hellofs_get_what_was_noted(hellofs):
    reader, writer = opened(hellofs(), "news"), opened(hellofs(), "note", int(OWRITE))
    writer.write(1, b"it rains")
    assert reader.read(1) == b"it rains"


def test_readers_of_the_news_of_hellofs_wait_for_more(hellofs):
    reader, writer = opened(hellofs(), "news"), opened(hellofs(), "note", int(OWRITE))
    writer.write(1, b"it rains")
    reader.read(1)
    with ThreadPoolExecutor() as pool:
        reading = pool.submit(reader.read, 1)
        writer.write(1, b"it snows")
        assert reading.result() == b"it snows"


def test_news_longer_than_a_read_come_whole(hellofs):
    reader, writer = opened(hellofs(), "news"), opened(hellofs(), "note", int(OWRITE))
    writer.write(1, b"it rains")
    assert [reader.read(1, count=5) for _ in range(2)] == [b"it ra", b"ins"]


def test_the_package_exports_what_it_says():
    assert all(hasattr(fs9p, name) for name in fs9p.__all__)
