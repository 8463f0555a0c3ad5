"""`embed`: a text in, its vector out. The echo engine makes vectors up, of words."""

import json
import math

import msgspec
import pytest
import trio

from ctl.session import SUBMIT_AFTER
from fs9p import Error
from tests.ctl.conftest import Client


async def embed(client, text):
    await client.write("embed", text)
    return await client.json("embed")


async def test_a_text_is_read_back_as_one_line_of_json(client):
    await client.write("embed", "a king and a horse\n")
    line = await client.read("embed")
    assert line.startswith('{"model":"echo","tokens":5,"embedding":[')
    assert line.count("\n") == line.endswith("\n") == 1
    vector = json.loads(line)["embedding"]
    assert math.hypot(*vector) == pytest.approx(1.0)


async def test_the_same_text_gives_the_same_vector_and_another_another(client):
    first, second, other = [await embed(client, text) for text in ("king", "king", "queen")]
    assert first == second != other


async def test_through_one_open_texts_and_vectors_alternate(client):
    file = client.open("embed")
    for text in (b"king", b"queen of the sea"):
        await file.write(text, 0)
        line = await file.read_all()
        assert json.loads(line)["tokens"] == len(text.split())


async def test_the_first_read_after_a_text_is_byte_0_whatever_its_offset(client):
    file = client.open("embed")
    await file.write(b"king")
    line = await file.read(offset=4)
    assert line.startswith(b'{"model"')
    assert await file.read(offset=14) == line[10:]
    assert await file.read(offset=4 + len(line)) == b""


async def test_a_text_may_come_in_pieces_and_characters_in_halves(client):
    await client.write("embed", "a café")
    whole = await client.read("embed")
    file = client.open("embed")
    for piece in (b"a ", b"caf\xc3", b"\xa9"):
        await file.write(piece)
    assert (await file.read_all()).decode() == whole


async def test_a_reader_waits_for_the_vector(slow, autojump_clock):
    await slow.write("embed", "king")
    began = trio.current_time()
    assert (await slow.json("embed"))["tokens"] == 1
    assert trio.current_time() - began == pytest.approx(0.5)


async def test_a_reader_waits_for_a_text_that_is_being_written(client, autojump_clock):
    """Clients that clunk late are still writing when the reader comes."""
    file = client.open("embed")
    await file.write(b"king and ")
    lines = []

    async def read():
        lines.append(await client.json("embed"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        await file.write(b"queen")
        file.close()
    assert lines[0]["tokens"] == 3


async def test_a_waiting_reader_submits_the_text_a_second_after_its_last_write(
    client, autojump_clock
):
    file = client.open("embed")
    await file.write(b"king")
    began = trio.current_time()
    assert (await client.json("embed"))["tokens"] == 1
    assert trio.current_time() - began == pytest.approx(SUBMIT_AFTER)
    with pytest.raises(Error, match="submitted already; open embed again"):
        await file.write(b" queen")


async def test_opens_do_not_disturb_one_another(slow, autojump_clock):
    files = [slow.open("embed") for _ in range(3)]
    for words, file in enumerate(files, 1):
        await file.write(b"king " * words)
    assert [json.loads(await file.read())["tokens"] for file in files] == [1, 2, 3]


async def test_a_text_is_embedded_beside_a_running_answer(slow, autojump_clock):
    await slow.write("prompt", "one two three four")
    assert (await embed(slow, "king"))["tokens"] == 1
    assert await slow.read("output") == "one two three four"


async def test_it_is_no_part_of_the_conversation(client):
    await embed(client, "king")
    assert await client.read("context") == ""
    assert (await client.json("usage"))["total"]["requests"] == 0


async def test_before_any_text_it_reads_as_empty(client):
    """`9p rdwr` reads before it writes."""
    file = client.open("embed")
    assert await file.read() == b""
    await file.write(b"king")
    assert (await file.read()).startswith(b'{"model"')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"caf\xe9", "invalid text: it is not UTF-8 .at byte 3."),
        (b"\n", "invalid text: it is empty"),
        (b"w " * 9000, "invalid text: 9000 tokens; the model takes 8192 at most"),
    ],
)
async def test_what_is_wrong_with_a_text_is_told_by_every_read(client, text, message):
    file = client.open("embed")
    await file.write(text)
    for offset in (0, 0):
        with pytest.raises(Error, match=f"^{message}$"):
            await file.read(offset=offset)
    with pytest.raises(Error, match=message):
        await client.read("embed")
    assert message[:12] in (await client.json("status"))["session"]["error"]


async def test_a_text_longer_than_allowed_fails_the_write(make_bridge):
    async with make_bridge(max_prompt=10) as bridge:
        client = Client(bridge)
        file = client.open("embed")
        await file.write(b"0123456789")
        with pytest.raises(Error, match="^invalid text: it is longer than 10 bytes$"):
            await file.write(b"0")
        with pytest.raises(Error, match="longer than 10 bytes"):
            await client.read("embed")


async def test_without_a_model_the_write_fails(make_bridge):
    async with make_bridge(model=None) as bridge:
        with pytest.raises(Error, match="no model loaded"):
            await Client(bridge).write("embed", "king")


async def test_a_lost_connection_discards_what_was_not_submitted(client):
    file = client.open("embed")
    await file.write(b"half a te")
    file.hangup()
    with pytest.raises(Error, match="i/o error: the text .* was dropped"):
        await client.read("embed")


async def test_texts_count_as_waiting_requests(make_bridge, autojump_clock):
    async with make_bridge("echo:2", max_answers=2) as bridge:
        client = Client(bridge)
        await client.write("embed", "one")
        await client.write("embed", "two")
        with pytest.raises(Error, match="busy: 2 requests waiting"):
            await embed(client, "three")
        await trio.sleep(1)
        assert not bridge.texts
        assert (await embed(client, "three"))["tokens"] == 1


async def test_free_ends_a_text_that_waits(slow, autojump_clock):
    file = slow.open("embed")
    await file.write(b"king")
    errors = []

    async def read():
        with pytest.raises(Error) as caught:
            await file.read()
        errors.append(caught.value.ename)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        await slow.write("ctl", "FREE")
    assert errors == ["i/o error: model echo was freed"]


async def test_the_end_of_a_session_ends_its_texts(slow_bridge, autojump_clock):
    client = Client(slow_bridge, "new")
    await client.write("embed", "king")
    client.detach()
    await trio.testing.wait_all_tasks_blocked()
    assert not slow_bridge.texts


async def test_the_model_says_what_it_can_do(client):
    model = await client.json("model")
    assert (model["generates"], model["embeds"]) == (True, True)


async def test_a_model_that_only_embeds_does_not_become_everybodys(bridge, monkeypatch):
    load = bridge.engine.load

    async def load_one_that_embeds(*words):
        return msgspec.structs.replace(await load(*words), generates=False)

    monkeypatch.setattr(bridge.engine, "load", load_one_that_embeds)
    one, other = Client(bridge), Client(bridge, "new")
    await one.write("ctl", "LOAD /models/bert.gguf")
    assert (await one.json("model"))["name"] == "bert"
    assert (await other.json("model"))["name"] == "echo"


async def test_help_lists_it(client):
    assert "  embed    text in, its vector out as JSON\n" in await client.read("help")
