"""A whole conversation with a client that nobody here wrote."""

from __future__ import annotations

import threading

import pytest
import trio
from py9p import Client, RemoteError

from fs9p import Server, listen


async def talk(world, path, nursery, conversation):
    nursery.start_soon(listen.serve, Server(world), [listen.unix(path)])

    def run():
        with Client.connect_unix(str(path)) as client:
            client.negotiate()
            client.attach(0, uname="glenda")
            conversation(client)

    await trio.to_thread.run_sync(run)


async def test_py9p_reads_writes_lists_and_stats(world, tmp_path, nursery):
    def conversation(client):
        client.walk(0, 1, "sub/deep/leaf")
        client.open(1)
        assert client.read(1) == b"a leaf\n"
        assert client.read(1, offset=7) == b""
        client.clunk(1)

        client.walk(0, 2, "file")
        client.open(2, 2)
        assert client.write(2, b"new", 0) == 3
        assert client.read(2) == b"new3456789"
        assert client.stat(2).name == "file"
        client.clunk(2)

        client.walk(0, 3, "many")
        client.open(3)
        assert len(client.read(3)) > 50 * 60

    await talk(world, tmp_path / "socket", nursery, conversation)


async def test_py9p_gets_errors_as_words(world, tmp_path, nursery):
    def conversation(client):
        for refused, ename in (
            (lambda: client.walk(0, 1, "nothing"), "file not found"),
            (lambda: client.create(0, "new", 0o644), "permission denied"),
            (lambda: client.read(9), "fid unknown or out of range"),
            (lambda: client.attach(0, uname="glenda"), "fid already in use"),
        ):
            with pytest.raises(RemoteError, match=ename):
                refused()

    await talk(world, tmp_path / "socket", nursery, conversation)


async def test_py9p_waits_on_one_fid_while_it_reads_another(world, tmp_path, nursery):
    def conversation(client):
        client.walk(0, 1, "slow")
        client.open(1)
        client.walk(0, 2, "hello")
        client.open(2)
        answers = []
        reader = threading.Thread(target=lambda: answers.append(client.read(1)))
        reader.start()
        while not world.waiting:
            assert client.read(2) == b"hello, world\n"
        trio.from_thread.run_sync(world.waiting[0].give, b"at last")
        reader.join()
        assert answers == [b"at last"]

    await talk(world, tmp_path / "socket", nursery, conversation)
