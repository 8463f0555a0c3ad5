"""The example in the package's docstring runs as it stands there."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time

from py9p import Client

import fs9p


def test_the_ten_line_server_serves_its_two_files(tmp_path):
    _, _, rest = fs9p.__doc__.partition("::\n")
    source = textwrap.dedent(rest[: rest.index("\n\nThen ")])
    path = tmp_path / "socket"
    source = source.replace("/tmp/hello/socket", str(path))
    ready = "\nlisten = fs9p.listen.unix\n"
    ready += "fs9p.listen.unix = lambda p: (listen(p), print('up', flush=True))[0]\n"
    source = source.replace("\nimport fs9p\n", "\nimport fs9p\n" + ready)
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE) as process:
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
        process.terminate()
