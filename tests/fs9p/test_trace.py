"""Messages as plan9port's fcallfmt prints them."""

from __future__ import annotations

import pytest
from py9p.constants import NOFID, NOTAG
from py9p.messages import (
    Dir,
    Qid,
    Rattach,
    Rauth,
    Rclunk,
    Rcreate,
    Rerror,
    Rflush,
    Ropen,
    Rread,
    Rremove,
    Rstat,
    Rversion,
    Rwalk,
    Rwrite,
    Rwstat,
    Tattach,
    Tauth,
    Tclunk,
    Tcreate,
    Tflush,
    Topen,
    Tread,
    Tremove,
    Tstat,
    Tversion,
    Twalk,
    Twrite,
    Twstat,
)

from fs9p import TextTrace, format_message
from fs9p.messages import RerrorU, TattachU, TauthU, TcreateU
from fs9p.permissions import DONT_TOUCH

ROOT, FILE = Qid(0x80, 0, 0), Qid(0, 3, 255)
ENTRY = Dir(qid=ROOT, mode=0x80000000 | 0o555, mtime=9, name="/", uid="u", gid="g", muid="m")


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (Tversion(8192, "9P2000", NOTAG), "Tversion tag 65535 msize 8192 version '9P2000'"),
        (Rversion(8192, "9P2000", NOTAG), "Rversion tag 65535 msize 8192 version '9P2000'"),
        (Tauth(1, "u", "a", 2), "Tauth tag 2 afid 1 uname u aname a"),
        (TauthU(1, "u", "a", 2, 5), "Tauth tag 2 afid 1 uname u aname a n_uname 5"),
        (Rauth(ROOT, 2), "Rauth tag 2 qid (0000000000000000 0 d)"),
        (Tattach(1, "u", NOFID, "a", 2), "Tattach tag 2 fid 1 afid -1 uname u aname a"),
        (
            TattachU(1, "u", NOFID, "a", 2, 0xFFFFFFFF),
            "Tattach tag 2 fid 1 afid -1 uname u aname a n_uname -1",
        ),
        (Rattach(FILE, 2), "Rattach tag 2 qid (00000000000000ff 3 )"),
        (Rerror("file not found", 2), "Rerror tag 2 ename file not found"),
        (RerrorU("file not found", 2, 2), "Rerror tag 2 ename file not found errno 2"),
        (Tflush(1, 2), "Tflush tag 2 oldtag 1"),
        (Rflush(2), "Rflush tag 2"),
        (Twalk(1, 2, ("a", "b"), 3), "Twalk tag 3 fid 1 newfid 2 nwname 2 0:a 1:b "),
        (Rwalk((ROOT,), 3), "Rwalk tag 3 nwqid 1 0:(0000000000000000 0 d) "),
        (Topen(1, 17, 2), "Topen tag 2 fid 1 mode 17"),
        (Ropen(FILE, 0, 2), "Ropen tag 2 qid (00000000000000ff 3 ) iounit 0"),
        (Tcreate(1, "n", 0o644, 1, 2), "Tcreate tag 2 fid 1 name n perm --rw-r--r-- mode 1"),
        (
            TcreateU(1, "n", 0x80000000 | 0o755, 0, 2, "x"),
            "Tcreate tag 2 fid 1 name n perm d-rwxr-xr-x mode 0 ext 'x'",
        ),
        (Rcreate(FILE, 0, 2), "Rcreate tag 2 qid (00000000000000ff 3 ) iounit 0 "),
        (Tread(1, 0, 8192, 2), "Tread tag 2 fid 1 offset 0 count 8192"),
        (Tread(1, 2**64 - 1, 1, 2), "Tread tag 2 fid 1 offset -1 count 1"),
        (Rread(b"hello", 2), "Rread tag 2 count 5 'hello'"),
        (Rread(b"a\tb\n\0", 2), "Rread tag 2 count 5 'a\\tb\\n\\0'"),
        (Rread(b"\xff\x00\x01\x02\x03\x04", 2), "Rread tag 2 count 6 'ff000102 0304'"),
        (Rread(b"x" * 100, 2), f"Rread tag 2 count 100 '{'x' * 64}'"),
        (Rread(b"", 2), "Rread tag 2 count 0 ''"),
        (Twrite(1, b"hi", 3, 2), "Twrite tag 2 fid 1 offset 3 count 2 'hi'"),
        (Rwrite(2, 2), "Rwrite tag 2 count 2"),
        (Tclunk(1, 2), "Tclunk tag 2 fid 1"),
        (Rclunk(2), "Rclunk tag 2"),
        (Tremove(1, 2), "Tremove tag 2 fid 1"),
        (Rremove(2), "Rremove tag 2"),
        (Tstat(1, 2), "Tstat tag 2 fid 1"),
        (
            Rstat(ENTRY, 2),
            "Rstat tag 2  stat '/' 'u' 'g' 'm' q (0000000000000000 0 d) m 020000000555 "
            "at 0 mt 9 l 0 t 0 d 0",
        ),
        (Rstat(b"abc", 2), "Rstat tag 2  stat(3 bytes)"),
        (
            Twstat(1, DONT_TOUCH, 2),
            "Twstat tag 2 fid 1 stat '' '' '' '' q (ffffffffffffffff 4294967295 dalA) "
            "m 037777777777 at 4294967295 mt 4294967295 l -1 t 65535 d -1 ext '' ids -1 -1 -1",
        ),
        (Rwstat(2), "Rwstat tag 2"),
    ],
)
def test_format(message, text):
    assert format_message(message) == text


async def test_a_server_traces_every_message_in_its_order(serve):
    lines = []
    client = serve(traces=[TextTrace(lines.append)])()
    await client.version()
    await client.send(Tattach(0, "glenda", tag=1), Tclunk(9, tag=2), Tflush(1, tag=3))
    for _ in range(3):
        await client.receive()
    assert lines == [
        "<-1- Tversion tag 65535 msize 8192 version '9P2000'",
        "-1-> Rversion tag 65535 msize 8192 version '9P2000'",
        "<-1- Tattach tag 1 fid 0 afid -1 uname glenda aname ",
        "-1-> Rattach tag 1 qid (0000000000000000 0 d)",
        "<-1- Tclunk tag 2 fid 9",
        "-1-> Rerror tag 2 ename fid unknown or out of range",
        "<-1- Tflush tag 3 oldtag 1",
        "-1-> Rflush tag 3",
    ]


async def test_a_frame_that_says_nothing_known_is_traced_by_its_type_and_bytes(serve):
    lines = []
    client = serve(traces=[TextTrace(lines.append)])()
    await client.stream.send_all(bytes.fromhex("0b00000062 0700 01020304"))
    await client.receive()
    assert lines == [
        "<-1- type 98 tag 7 '01020304'",
        "-1-> Rerror tag 7 ename invalid message: unknown message type 98",
    ]


async def test_a_malformed_frame_is_traced_before_it_ends_the_connection(serve):
    lines = []
    client = serve(traces=[TextTrace(lines.append)])()
    await client.stream.send_all(bytes.fromhex("0700000078 0100"))
    assert await client.receive() is None
    assert lines == ["<-1- type 120 tag 1 ''"]
