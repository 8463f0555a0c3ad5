"""`llambo dial`: a relay between standard input and output and a bridge's socket.

Inferno's own `dial` knows no unix sockets; its mount runs this as a host command instead
(``mount -A {os llambo dial PATH >[1=0]} /n/llm``). It has to start fast, so nothing but the
smallest of the standard library comes in, and it may not look at the bytes.
"""

from __future__ import annotations

import os
import socket
import threading

from ctl.address import connect

_PIECE = 1 << 16


def relay(address: str | None) -> int:
    """Carry bytes both ways until either side ends. Raises `ctl.address.CommandError`."""
    sock = connect(address)
    # Two threads that block: one loop would have to hold back one way while the other is full.
    threading.Thread(target=_send, args=(sock,), daemon=True).start()
    while data := _receive(sock):
        if not _write_all(1, data):
            break
    return 0


def _receive(sock: socket.socket) -> bytes:
    try:
        return sock.recv(_PIECE)
    except ConnectionResetError:
        return b""


def _send(sock: socket.socket) -> None:
    try:
        while data := os.read(0, _PIECE):
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        # The bridge has gone; the other thread sees the end of the connection.
        pass


def _write_all(fd: int, data: bytes) -> bool:
    try:
        while data:
            data = data[os.write(fd, data) :]
    except BrokenPipeError:
        return False
    return True
