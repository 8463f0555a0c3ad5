"""The number of a request, in `status` and in the log, and what the log says of it."""

import logging

import pytest
import trio

from ctl.requests import LATER
from fs9p import Error
from tests.ctl.conftest import Client


@pytest.fixture
def told(bridge, caplog):
    """A function that gives the lines of requests, and their fields."""
    caplog.set_level(logging.DEBUG)

    def lines():
        bridge.requests.tell()
        records = [record for record in caplog.records if record.name == "llambo.request"]
        return [(record.getMessage(), record.fields) for record in records]

    return lines


async def number(client):
    return (await client.json("status"))["session"]["request"]


async def test_before_the_first_request_there_is_no_number(client):
    assert await number(client) is None


async def test_requests_are_numbered_through_all_sessions(client, bridge):
    await client.ask("one")
    other = Client(bridge, "new")
    await other.ask("two")
    assert (await number(client), await number(other)) == (1, 2)


async def test_the_log_has_the_number_that_status_shows(client, told):
    await client.ask("one two three")
    ((text, fields),) = told()
    assert fields["request"] == await number(client) == 1
    assert text.startswith("request 1 of session 0 (")
    assert "to echo: 3 prompt tokens (0 reused), 3 generated, stop, " in text
    assert (fields["outcome"], fields["completion_tokens"]) == ("stop", 3)


async def test_a_failed_request_is_a_warning_with_its_error(client, told, caplog):
    await client.write("params", "format raw")
    await client.write("prompt", "word " * 9000)
    with pytest.raises(Exception, match="context"):
        await client.read("output")
    assert "context" in told()[0][1]["error"]
    assert caplog.records[-1].levelname == "WARNING"


async def test_a_text_to_embed_is_a_request(client, told):
    await client.write("embed", "a king")
    await client.read("embed")
    assert told()[0][0].startswith("request 1 of session 0 (")
    assert told()[0][1]["outcome"] == "ok"


async def test_no_line_of_the_log_has_what_was_asked_or_answered(client, told, caplog):
    caplog.set_level(logging.DEBUG)
    await client.ask("geheim")
    await client.write("system", "geheim")
    await client.write("embed", "geheim")
    await client.read("embed")
    for command in ("INFER geheim", "INFER_MULTI geheim||geheim"):
        await client.write("ctl", command)
        await client.read("ctl")
    file = client.open("ctl")
    with pytest.raises(Error, match="Unknown command: geheim"):
        await file.write(b"geheim\n")
    file.close()
    assert len(told()) == 5
    assert "geheim" not in caplog.text
    assert "geheim" not in str([vars(record) for record in caplog.records])


async def test_a_line_is_written_a_moment_after_the_reply(client, caplog, autojump_clock):
    caplog.set_level(logging.INFO)
    await client.ask("one")
    assert "request 1 " not in caplog.text
    await trio.sleep(2 * LATER)
    assert caplog.text.count("request 1 ") == 1


async def test_the_end_of_the_bridge_leaves_no_line_untold(make_bridge, caplog):
    caplog.set_level(logging.INFO)
    async with make_bridge("echo:1") as bridge:
        await Client(bridge).write("prompt", "one two")
    assert "request 1 of session 0" in caplog.text
