"""The page for Prometheus, over a stream in memory: what is answered, and what nobody can do."""

import pytest
import trio
from trio.testing import memory_stream_pair

from ctl.metricshttp import CONNECTIONS, MAX_REQUEST, PATIENCE, Page


@pytest.fixture
def page(bridge):
    return Page(bridge.metrics)


@pytest.fixture
def client(page, nursery):
    """A function that connects; the client's end."""

    async def connect():
        ours, theirs = memory_stream_pair()
        nursery.start_soon(lambda: page.serve(theirs, peer=None))
        await trio.testing.wait_all_tasks_blocked()
        return ours

    return connect


async def answer(stream, request):
    await stream.send_all(request)
    data = b""
    while piece := await stream.receive_some():
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    return head.decode().split("\r\n"), body


@pytest.mark.parametrize("path", [b"/metrics", b"/", b"/metrics?name[]=x"])
async def test_the_figures_are_given_as_text(client, path):
    head, body = await answer(await client(), b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert head[0] == "HTTP/1.1 200 OK"
    assert "content-type: text/plain; version=0.0.4; charset=utf-8" in [h.lower() for h in head]
    assert b"llambo_build_info" in body


async def test_a_head_has_no_body(client):
    head, body = await answer(await client(), b"HEAD /metrics HTTP/1.0\r\n\r\n")
    assert (head[0], body) == ("HTTP/1.1 200 OK", b"")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /else HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", "405"),
        (b"nonsense\r\n\r\n", "400"),
        (b"GET /" + b"x" * MAX_REQUEST, "431"),
    ],
)
async def test_what_is_no_request_for_them_is_refused(client, request_, status):
    head, _ = await answer(await client(), request_)
    assert head[0].split()[1] == status


async def test_who_hangs_up_or_says_nothing_is_forgotten(client, page, autojump_clock):
    gone, silent = await client(), await client()
    await gone.aclose()
    began = trio.current_time()
    assert await silent.receive_some() == b""
    assert trio.current_time() - began == pytest.approx(PATIENCE)
    assert page._connections == 0


async def test_there_is_room_for_a_few_only(client, page):
    for _ in range(CONNECTIONS):
        assert page.make_room()
        await client()
    assert not page.make_room()
    assert page.farewell.startswith(b"HTTP/1.1 503 ")
