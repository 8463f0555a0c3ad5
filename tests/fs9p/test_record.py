"""Recordings: what is written, and that it is read back as it was."""

from __future__ import annotations

import errno
import io
import json

import pytest
from py9p.messages import Rversion, Tclunk, Tversion

from fs9p import Peer, Record, Recorder, encode, read_records

MALFORMED = bytes.fromhex("07000000780100")


async def conversation(serve, file, **dialled):
    client = serve(traces=[Recorder(file)])(**dialled)
    await client.version()
    await client.stream.send_all(encode(Tclunk(9, tag=2)))
    await client.receive()
    await client.stream.send_all(MALFORMED)
    assert await client.receive() is None


async def test_every_frame_is_recorded_with_its_direction(serve):
    file = io.BytesIO()
    await conversation(serve, file)
    records = list(read_records(file.getvalue().splitlines()))
    assert [record.event for record in records] == ["begin", "<-", "->", "<-", "->", "<-", "end"]
    assert records[1].frame == encode(Tversion(8192))
    assert records[2].frame == encode(Rversion(8192))
    assert records[5].frame == MALFORMED


async def test_a_line_says_time_type_and_tag_for_those_who_search(serve, autojump_clock):
    file = io.BytesIO()
    await conversation(serve, file)
    line = json.loads(file.getvalue().splitlines()[3])
    assert line["type"] == "Tclunk"
    assert line["tag"] == 2
    assert line["connection"] == 1
    assert line["time"] >= 0


async def test_the_peer_is_recorded_where_it_is_known(serve):
    file = io.BytesIO()
    await conversation(serve, file, peer=Peer(1, 2, 3))
    first = next(read_records(file.getvalue().splitlines()))
    assert first.peer == Peer(1, 2, 3)


class FullDisk(io.BytesIO):
    def flush(self):
        raise OSError(errno.ENOSPC, "No space left on device")


async def test_a_full_disk_ends_the_recording_and_nothing_else(serve, caplog):
    await conversation(serve, FullDisk())
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [
        "the recording ends here: [Errno 28] No space left on device"
    ]


@pytest.mark.parametrize(
    "line", ["", "{}", "[]", '{"time":1,"connection":1,"event":"<-","frame":"x"}']
)
def test_a_line_that_is_no_record_is_refused_with_its_number(line):
    good = '{"time":1.5,"connection":2,"event":"end"}'
    records = read_records([good, line])
    assert next(records) == Record(1.5, 2, "end")
    with pytest.raises(ValueError, match="line 2 is no record"):
        next(records)


class NearlyFullDisk(io.BytesIO):
    def write(self, data):
        return super().write(data[:9])


async def test_half_a_line_ends_the_recording(serve, caplog):
    file = NearlyFullDisk()
    await conversation(serve, file)
    assert len(file.getvalue()) == 9
    assert "the recording ends here" in caplog.text


def test_a_recorder_can_be_made_before_the_event_loop_runs():
    Recorder(io.BytesIO())
