"""The codec: one frame to a message and back, for 9P2000 and 9P2000.u.

No socket and no fid may come in here: bytes in, messages out, so that every odd case is
a two-line test. The layouts are those of intro(5); where py9p's codec (the oracle of our
tests) differs from the manual, the manual wins:

- 64-bit offsets and lengths are unsigned; py9p's are signed.
- NUL is illegal in a string; py9p's C strings end there.
- The entry in an Rstat or Twstat must be a well-formed one; py9p hands out the raw bytes.

How a message is laid out stands in the tables at the end of the file: one line for each
of those that have a fixed size, a pair of functions for each of the others.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable
from typing import Any, TypeAlias

from py9p.constants import MAXWELEM, MessageType
from py9p.messages import (
    Dir,
    Message,
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

from fs9p.fields import (
    Buffer,
    WireError,
    check_end,
    decode_dir,
    encode_dir,
    pack_string,
    unpack_string,
)
from fs9p.messages import NOUID, Dialect, RerrorU, TattachU, TauthU, TcreateU

_HEADER = struct.Struct("<IBH")
_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_QID = struct.Struct("<BIQ")
_PERM_MODE = struct.Struct("<IB")
_FID_OFFSET = struct.Struct("<IQ")
_RREAD = struct.Struct("<IBHI")


class UnknownType(WireError):
    """A sound frame of a message type that does not exist here, and the tag it came under."""

    def __init__(self, kind: int, tag: int) -> None:
        super().__init__(f"unknown message type {kind}")
        self.tag = tag


def decode(frame: Buffer, dialect: Dialect = Dialect.PLAIN) -> Message:
    """The message in one whole frame.

    Under 9P2000 its class is py9p's; under 9P2000.u what the extension changes is of the
    classes in `fs9p.messages`. Raises `UnknownType` for a type byte without a meaning
    and `WireError` for everything else that is wrong.
    """
    if len(frame) < _HEADER.size:
        raise WireError(f"a frame of {len(frame)} bytes is too short for a message")
    size, kind, tag = _HEADER.unpack_from(frame)
    if size != len(frame):
        raise WireError(f"a frame of {len(frame)} bytes says that it has {size}")
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise UnknownType(kind, tag)
    try:
        return decoder(frame, dialect)
    except (struct.error, UnicodeDecodeError, WireError) as error:
        raise WireError(f"malformed {_name(kind)}: {error}") from None


def encode(message: Message, dialect: Dialect = Dialect.PLAIN) -> bytes:
    """The frame of a message. Raises `WireError` where a value does not fit its field."""
    try:
        return _ENCODERS[type(message)](message, dialect)
    except (struct.error, UnicodeEncodeError, WireError) as error:
        raise WireError(f"{_name(message.message_type)} cannot be encoded: {error}") from None


def _name(kind: int) -> str:
    return MessageType(kind).name.capitalize()


def _framed(message: Message, *body: bytes) -> bytes:
    size = _HEADER.size + sum(map(len, body))
    return b"".join((_HEADER.pack(size, message.message_type, message.tag), *body))


# Messages of variable size: a decoder and an encoder each, in the order of their numbers.
# Offsets: 7 is the end of the header.


def _tag(frame: Buffer) -> int:
    return frame[5] | frame[6] << 8


def _decode_version(frame: Buffer, dialect: Dialect) -> Message:
    (msize,) = _U32.unpack_from(frame, 7)
    version, at = unpack_string(frame, 11)
    check_end(frame, at)
    cls = Tversion if frame[4] == MessageType.TVERSION else Rversion
    return cls(msize, version, _tag(frame))


def _encode_version(m: Tversion | Rversion, dialect: Dialect) -> bytes:
    return _framed(m, _U32.pack(m.msize), pack_string(m.version))


def _decode_n_uname(frame: Buffer, at: int) -> int:
    number: int = _U32.unpack_from(frame, at)[0]
    check_end(frame, at + _U32.size)
    return number


def _encode_n_uname(m: Message, dialect: Dialect) -> bytes:
    return _U32.pack(getattr(m, "n_uname", NOUID)) if dialect is Dialect.UNIX else b""


def _decode_tauth(frame: Buffer, dialect: Dialect) -> Message:
    (afid,) = _U32.unpack_from(frame, 7)
    uname, at = unpack_string(frame, 11)
    aname, at = unpack_string(frame, at)
    if dialect is Dialect.UNIX:
        return TauthU(afid, uname, aname, _tag(frame), _decode_n_uname(frame, at))
    check_end(frame, at)
    return Tauth(afid, uname, aname, _tag(frame))


def _encode_tauth(m: Tauth, dialect: Dialect) -> bytes:
    names = pack_string(m.uname), pack_string(m.aname)
    return _framed(m, _U32.pack(m.afid), *names, _encode_n_uname(m, dialect))


def _decode_tattach(frame: Buffer, dialect: Dialect) -> Message:
    (fid,) = _U32.unpack_from(frame, 7)
    (afid,) = _U32.unpack_from(frame, 11)
    uname, at = unpack_string(frame, 15)
    aname, at = unpack_string(frame, at)
    if dialect is Dialect.UNIX:
        return TattachU(fid, uname, afid, aname, _tag(frame), _decode_n_uname(frame, at))
    check_end(frame, at)
    return Tattach(fid, uname, afid, aname, _tag(frame))


def _encode_tattach(m: Tattach, dialect: Dialect) -> bytes:
    names = pack_string(m.uname), pack_string(m.aname)
    return _framed(m, _U32.pack(m.fid), _U32.pack(m.afid), *names, _encode_n_uname(m, dialect))


def _decode_rerror(frame: Buffer, dialect: Dialect) -> Message:
    ename, at = unpack_string(frame, 7)
    if dialect is Dialect.UNIX:
        return RerrorU(ename, _tag(frame), _decode_n_uname(frame, at))
    check_end(frame, at)
    return Rerror(ename, _tag(frame))


def _encode_rerror(m: Rerror, dialect: Dialect) -> bytes:
    number = _U32.pack(getattr(m, "errno", 0)) if dialect is Dialect.UNIX else b""
    return _framed(m, pack_string(m.ename), number)


def _decode_twalk(frame: Buffer, dialect: Dialect) -> Message:
    (fid,) = _U32.unpack_from(frame, 7)
    (newfid,) = _U32.unpack_from(frame, 11)
    (nwname,) = _U16.unpack_from(frame, 15)
    if nwname > MAXWELEM:
        raise WireError(f"{nwname} names are more than {MAXWELEM}")
    wname, at = [], 17
    for _ in range(nwname):
        name, at = unpack_string(frame, at)
        wname.append(name)
    check_end(frame, at)
    return Twalk(fid, newfid, tuple(wname), _tag(frame))


def _encode_twalk(m: Twalk, dialect: Dialect) -> bytes:
    fids = _U32.pack(m.fid), _U32.pack(m.newfid)
    return _framed(m, *fids, _U16.pack(len(m.wname)), *map(pack_string, m.wname))


def _decode_rwalk(frame: Buffer, dialect: Dialect) -> Message:
    (nwqid,) = _U16.unpack_from(frame, 7)
    if nwqid > MAXWELEM:
        raise WireError(f"{nwqid} qids are more than {MAXWELEM}")
    end = 9 + nwqid * _QID.size
    wqid = tuple(Qid(*_QID.unpack_from(frame, at)) for at in range(9, end, _QID.size))
    check_end(frame, end)
    return Rwalk(wqid, _tag(frame))


def _encode_rwalk(m: Rwalk, dialect: Dialect) -> bytes:
    return _framed(
        m, _U16.pack(len(m.wqid)), *(_QID.pack(qid.type, qid.vers, qid.path) for qid in m.wqid)
    )


def _decode_tcreate(frame: Buffer, dialect: Dialect) -> Message:
    (fid,) = _U32.unpack_from(frame, 7)
    name, at = unpack_string(frame, 11)
    perm, mode = _PERM_MODE.unpack_from(frame, at)
    at += _PERM_MODE.size
    if dialect is Dialect.UNIX:
        extension, at = unpack_string(frame, at)
        check_end(frame, at)
        return TcreateU(fid, name, perm, mode, _tag(frame), extension)
    check_end(frame, at)
    return Tcreate(fid, name, perm, mode, _tag(frame))


def _encode_tcreate(m: Tcreate, dialect: Dialect) -> bytes:
    unix = dialect is Dialect.UNIX
    extension = pack_string(getattr(m, "extension", "")) if unix else b""
    mode = _PERM_MODE.pack(m.perm, m.mode)
    return _framed(m, _U32.pack(m.fid), pack_string(m.name), mode, extension)


def _data(frame: Buffer, at: int) -> bytes:
    """The count[4] and data[count] at an offset, which end the frame: copied once."""
    (count,) = _U32.unpack_from(frame, at)
    at += _U32.size
    if count != len(frame) - at:
        raise WireError(f"{len(frame) - at} bytes of data that say they are {count}")
    return bytes(memoryview(frame)[at:])


def _decode_rread(frame: Buffer, dialect: Dialect) -> Message:
    return Rread(_data(frame, 7), _tag(frame))


def _encode_rread(m: Rread, dialect: Dialect) -> bytes:
    return _RREAD.pack(_RREAD.size + len(m.data), 117, m.tag, len(m.data)) + m.data


def _decode_twrite(frame: Buffer, dialect: Dialect) -> Message:
    fid, offset = _FID_OFFSET.unpack_from(frame, 7)
    return Twrite(fid, _data(frame, 19), offset, _tag(frame))


def _encode_twrite(m: Twrite, dialect: Dialect) -> bytes:
    return _framed(m, _FID_OFFSET.pack(m.fid, m.offset), _U32.pack(len(m.data)), m.data)


def _stat(frame: Buffer, at: int, dialect: Dialect) -> Dir:
    (nstat,) = _U16.unpack_from(frame, at)
    at += _U16.size
    if nstat != len(frame) - at:
        raise WireError(f"an entry of {len(frame) - at} bytes that says it is {nstat}")
    return decode_dir(memoryview(frame)[at:], dialect)


def _pack_stat(stat: Dir | bytes, dialect: Dialect) -> bytes:
    raw = stat if isinstance(stat, bytes) else encode_dir(stat, dialect)
    return _U16.pack(len(raw)) + raw


def _decode_rstat(frame: Buffer, dialect: Dialect) -> Message:
    return Rstat(_stat(frame, 7, dialect), _tag(frame))


def _encode_rstat(m: Rstat, dialect: Dialect) -> bytes:
    return _framed(m, _pack_stat(m.stat, dialect))


def _decode_twstat(frame: Buffer, dialect: Dialect) -> Message:
    (fid,) = _U32.unpack_from(frame, 7)
    return Twstat(fid, _stat(frame, 11, dialect), _tag(frame))


def _encode_twstat(m: Twstat, dialect: Dialect) -> bytes:
    return _framed(m, _U32.pack(m.fid), _pack_stat(m.stat, dialect))


Decoder: TypeAlias = Callable[[Buffer, Dialect], Message]
Encoder: TypeAlias = Callable[[Any, Dialect], bytes]


def _fixed(cls: Callable[..., Message], layout: str, *names: str) -> tuple[Decoder, Encoder]:
    """The pair for a message of fixed size, its fields in the order of the wire."""
    whole = struct.Struct(_HEADER.format + layout)
    fields = operator.attrgetter("message_type", "tag", *names)

    def decoder(frame: Buffer, dialect: Dialect) -> Message:
        values = whole.unpack(frame)
        return cls(*values[3:], values[2])

    def encoder(message: Message, dialect: Dialect) -> bytes:
        return whole.pack(whole.size, *fields(message))

    return decoder, encoder


def _with_qid(cls: Callable[..., Message], layout: str, *names: str) -> tuple[Decoder, Encoder]:
    """The pair for a message of fixed size that begins with a qid."""
    whole = struct.Struct(_HEADER.format + "BIQ" + layout)
    fields = operator.attrgetter("message_type", "tag", *names)

    def decoder(frame: Buffer, dialect: Dialect) -> Message:
        values = whole.unpack(frame)
        return cls(Qid(*values[3:6]), *values[6:], values[2])

    def encoder(message: Message, dialect: Dialect) -> bytes:
        kind, tag, qid, *rest = fields(message)
        return whole.pack(whole.size, kind, tag, qid.type, qid.vers, qid.path, *rest)

    return decoder, encoder


_CODECS: dict[type[Message], tuple[Decoder, Encoder]] = {
    Tversion: (_decode_version, _encode_version),
    Rversion: (_decode_version, _encode_version),
    Tauth: (_decode_tauth, _encode_tauth),
    Rauth: _with_qid(Rauth, "", "aqid"),
    Tattach: (_decode_tattach, _encode_tattach),
    Rattach: _with_qid(Rattach, "", "qid"),
    Rerror: (_decode_rerror, _encode_rerror),
    Tflush: _fixed(Tflush, "H", "oldtag"),
    Rflush: _fixed(Rflush, ""),
    Twalk: (_decode_twalk, _encode_twalk),
    Rwalk: (_decode_rwalk, _encode_rwalk),
    Topen: _fixed(Topen, "IB", "fid", "mode"),
    Ropen: _with_qid(Ropen, "I", "qid", "iounit"),
    Tcreate: (_decode_tcreate, _encode_tcreate),
    Rcreate: _with_qid(Rcreate, "I", "qid", "iounit"),
    Tread: _fixed(Tread, "IQI", "fid", "offset", "count"),
    Rread: (_decode_rread, _encode_rread),
    Twrite: (_decode_twrite, _encode_twrite),
    Rwrite: _fixed(Rwrite, "I", "count"),
    Tclunk: _fixed(Tclunk, "I", "fid"),
    Rclunk: _fixed(Rclunk, ""),
    Tremove: _fixed(Tremove, "I", "fid"),
    Rremove: _fixed(Rremove, ""),
    Tstat: _fixed(Tstat, "I", "fid"),
    Rstat: (_decode_rstat, _encode_rstat),
    Twstat: (_decode_twstat, _encode_twstat),
    Rwstat: _fixed(Rwstat, ""),
}
_DECODERS = {int(cls.message_type): decoder for cls, (decoder, _) in _CODECS.items()}
_ENCODERS = {cls: encoder for cls, (_, encoder) in _CODECS.items()}
for _cls in (TauthU, TattachU, RerrorU, TcreateU):
    _ENCODERS[_cls] = _ENCODERS[_cls.__bases__[0]]

REQUESTS = {kind: _name(kind) for kind in _DECODERS if kind % 2 == 0}
"""The requests there are: ``Tversion`` and so on, by the number of their type."""
