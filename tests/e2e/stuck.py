"""A 9P server at a socket whose `status` is answered to its first reader only."""

from __future__ import annotations

import itertools
import sys

import trio

import fs9p


async def never() -> bytes:
    await trio.sleep_forever()
    return b""


async def main(socket: str) -> None:
    count = itertools.count()
    status = fs9p.Text("status", 1, lambda: never() if next(count) else b"{}")
    server = fs9p.Server(fs9p.Tree(fs9p.Folder("/", 0, [status])))
    await fs9p.listen.serve(server, [fs9p.listen.unix(socket)])


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
