"""Sessions: who shares them, who sees them, and when they end."""

import pytest
import trio

from fs9p import Error
from tests.ctl.conftest import Client


async def test_the_main_session_is_shared_by_all_attaches_of_a_user(bridge):
    await Client(bridge).write("prompt", "hello there")
    assert await Client(bridge).read("output") == "hello there"


async def test_new_is_a_fresh_session_each_time(bridge):
    one, two = Client(bridge, "new"), Client(bridge, "new")
    await one.write("prompt", "one")
    await two.write("prompt", "two")
    assert [await one.read("output"), await two.read("output")] == ["one", "two"]


async def test_ten_new_sessions_at_once_never_see_each_others_answers(slow_bridge, autojump_clock):
    answers = {}

    async def work(name):
        answers[name] = await Client(slow_bridge, "new").ask(f"{name} and {name} again")

    async with trio.open_nursery() as nursery:
        for i in range(10):
            nursery.start_soon(work, f"worker{i}")
    assert answers == {f"worker{i}": f"worker{i} and worker{i} again" for i in range(10)}


async def test_new_ends_with_its_attach(bridge):
    client = Client(bridge, "new")
    client.detach()
    assert client.session.closed
    with pytest.raises(Error, match="file not found"):
        client.open("prompt")


async def test_a_session_that_ends_cancels_its_answer(slow_bridge, autojump_clock):
    client = Client(slow_bridge, "new")
    await client.write("prompt", "one two three")
    turn = client.session.turn
    client.detach()
    await trio.testing.wait_all_tasks_blocked()
    assert turn.finished


async def test_a_named_session_is_found_again_by_its_name(bridge):
    first = Client(bridge, "research")
    await first.write("system", "be brief")
    first.detach()
    assert await Client(bridge, "research").read("system") == "be brief\n"


async def test_a_number_attaches_to_that_session(bridge):
    client = Client(bridge)
    clone = client.open("clone")
    number = (await clone.read()).decode()
    await client.write(f"{number}/prompt", "hello")
    assert await Client(bridge, number).read("output") == "hello"


async def test_a_number_of_nobody_is_file_not_found(bridge):
    with pytest.raises(Error, match="^file not found$"):
        Client(bridge, "99")


async def test_other_users_sessions_are_invisible(bridge):
    mine = Client(bridge)
    number = (await mine.open("clone").read()).decode()
    other = Client(bridge, uid=2000)
    assert number in mine.names()
    assert number not in other.names()
    with pytest.raises(Error, match="^file not found$"):
        other.node(number)
    with pytest.raises(Error, match="^file not found$"):
        Client(bridge, number, uid=2000)


async def test_two_users_have_main_sessions_of_their_own(bridge):
    await Client(bridge).write("prompt", "secret")
    with pytest.raises(Error, match="no prompt yet"):
        await Client(bridge, uid=2000).read("output")


async def test_root_may_say_who_its_user_is(bridge):
    await Client(bridge, uid=2000).write("prompt", "mine")
    assert await Client(bridge, uid=0, n_uname=2000).read("output") == "mine"


async def test_nobody_else_may_say_who_he_is(bridge):
    await Client(bridge, uid=2000).write("prompt", "mine")
    with pytest.raises(Error, match="no prompt yet"):
        await Client(bridge, uid=3000, n_uname=2000).read("output")


async def test_without_a_user_the_main_session_is_the_connections_own(bridge):
    one, two = Client(bridge, uid=None), Client(bridge, uid=None)
    await one.write("prompt", "hello")
    with pytest.raises(Error, match="no prompt yet"):
        await two.read("output")


async def test_without_a_user_two_attaches_of_a_connection_share_the_main_session(bridge):
    one = Client(bridge, uid=None)
    await one.write("prompt", "hello")
    two = Client(bridge, uid=None, connection=one.connection)
    assert await two.read("output") == "hello"


async def test_without_a_user_sessions_end_with_the_connection(bridge):
    client = Client(bridge, uid=None)
    number = int(await client.open("clone").read())
    client.fs.disconnected(client.connection)
    assert client.session.closed
    assert number not in {each.number for each in bridge.sessions}


async def test_without_a_user_a_name_is_the_key(bridge):
    one = Client(bridge, "shared-secret", uid=None)
    await one.write("system", "hi")
    one.fs.disconnected(one.connection)
    assert await Client(bridge, "shared-secret", uid=None).read("system") == "hi\n"


async def test_a_clone_reads_as_its_number_until_it_is_written_to(client):
    clone = client.open("clone")
    number = (await clone.read()).decode()
    assert number == "1"
    assert await clone.read() == b""
    await clone.write(b"PING")
    assert b"pong" in await clone.read(offset=0)


async def test_a_clone_whose_number_was_never_read_ends_at_the_clunk(client):
    clone = client.open("clone")
    await clone.write(b"PING")
    clone.close()
    assert "1" not in client.names()


async def test_a_clone_whose_number_was_read_lives_on(client):
    clone = client.open("clone")
    await clone.read()
    clone.close()
    assert client.names("1") == [
        "ctl",
        "model",
        "prompt",
        "output",
        "status",
        "params",
        "system",
        "context",
        "embed",
        "usage",
        "grammar",
        "logprobs",
        "clone",
    ]


async def test_close_ends_a_cloned_session(client):
    clone = client.open("clone")
    await clone.read()
    await clone.write(b"CLOSE")
    assert "1" not in client.names()
    with pytest.raises(Error, match="session is closed"):
        await clone.write(b"PING")


async def test_the_main_session_cannot_be_closed(client):
    with pytest.raises(Error, match="invalid: this session was not cloned"):
        await client.write("ctl", "CLOSE")


async def test_a_clone_in_a_session_begins_with_its_conversation(client):
    await client.open("clone").read()
    await client.write("1/system", "be brief")
    await client.write("1/prompt", "hello")
    await client.read("1/output")
    await client.write("1/params", "temperature 0")
    number = (await client.open("1/clone").read()).decode()
    assert await client.read(f"{number}/context") == await client.read("1/context")
    assert "temperature 0.0" in await client.read(f"{number}/params")


async def test_a_clone_at_the_root_begins_empty(client):
    await client.ask("hello")
    await client.open("clone").read()
    assert await client.read("1/context") == ""


async def test_numbers_are_not_used_again(client):
    client.open("clone").close()
    assert await client.open("clone").read() == b"2"


async def test_too_many_sessions_is_an_error_of_the_open(make_bridge):
    async with make_bridge(max_sessions=2) as bridge:
        client = Client(bridge)
        client.open("clone")
        client.open("clone")
        with pytest.raises(Error, match="^too many sessions$"):
            client.open("clone")


async def test_sessions_that_nobody_used_make_room(make_bridge):
    async with make_bridge(max_sessions=2) as bridge:
        client = Client(bridge)
        for _ in range(2):
            await client.read("clone")
        await client.write("2/prompt", "used")
        assert await client.read("clone") == "3"
        assert {"2", "3"} <= set(client.names())
        assert "1" not in client.names()


async def test_a_life_of_no_time_does_not_keep_a_processor_busy(make_bridge):
    async with make_bridge(session_ttl=1e-300):
        with trio.fail_after(5):
            await trio.testing.wait_all_tasks_blocked()


async def test_an_idle_session_ends_after_its_time(make_bridge, autojump_clock):
    async with make_bridge(session_ttl=10) as bridge:
        client = Client(bridge)
        clone = client.open("clone")
        await clone.read()
        clone.close()
        await trio.sleep(9)
        assert "1" in client.names()
        await trio.sleep(2.5)
        assert "1" not in client.names()


async def test_a_session_with_an_open_file_never_ends_by_itself(make_bridge, autojump_clock):
    async with make_bridge(session_ttl=10) as bridge:
        client = Client(bridge)
        await client.open("clone").read()
        await trio.sleep(100)
        assert "1" in client.names()


async def test_a_session_with_an_attach_never_ends_by_itself(make_bridge, autojump_clock):
    async with make_bridge(session_ttl=10) as bridge:
        client = Client(bridge, "worker")
        await trio.sleep(100)
        assert await client.ask("still here") == "still here"


async def test_an_attach_name_has_a_limit(bridge):
    with pytest.raises(Error, match="invalid attach name"):
        Client(bridge, "x" * 65)


async def test_qid_paths_are_unique_and_the_same_for_the_same_file(bridge):
    client = Client(bridge)
    await client.open("clone").read()
    nodes = [
        *client.node("").entries(),
        *client.node("1").entries(),
        *client.node("models").entries(),
    ]
    paths = [node.path for node in nodes]
    assert len(paths) == len(set(paths))
    assert Client(bridge).node("1/prompt").path == client.node("1/prompt").path
    assert Client(bridge, "1").node("prompt").path == client.node("1/prompt").path


async def test_a_draining_bridge_takes_no_attach(bridge):
    bridge.draining = True
    with pytest.raises(Error, match="busy: the bridge is shutting down"):
        Client(bridge)


async def test_draining_waits_for_running_answers(slow_bridge, autojump_clock):
    client = Client(slow_bridge)
    await client.write("prompt", "one two three")
    began = trio.current_time()
    await slow_bridge.drain(5, 0)
    assert client.session.turn.finished
    assert trio.current_time() - began == pytest.approx(1.5)


async def test_draining_waits_no_longer_than_allowed(slow_bridge, autojump_clock):
    client = Client(slow_bridge)
    await client.write("prompt", "word " * 100)
    began = trio.current_time()
    await slow_bridge.drain(5, 0)
    assert trio.current_time() - began == pytest.approx(5)
