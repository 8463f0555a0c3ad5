"""`ctl`: commands, their replies word for word, and how writes become commands."""

import json
import os
from contextlib import suppress

import pytest
import trio

from ctl import loadoptions
from engine import EngineError, LoadOptions, Placement
from fs9p import Error
from tests.ctl.conftest import Client


async def run(client, line):
    """What `echo line > ctl; cat ctl` prints, a failing echo or not."""
    with suppress(Error):
        await client.write("ctl", line + "\n")
    return await client.read("ctl")


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("PING", '{"status":"ok","message":"pong","data":"pong"}\n'),
        ("ping", '{"status":"ok","message":"pong","data":"pong"}\n'),
        ("STATUS", '{"status":"ok","message":"Model loaded: echo"}\n'),
        (
            "LOAD /models/llama-7b-q4.gguf",
            '{"status":"ok","message":"Model loaded successfully"}\n',
        ),
        ("LOAD", '{"status":"error","message":"No model path provided"}\n'),
        ("INFER hi there", '{"status":"ok","message":"Inference completed","data":"hi there"}\n'),
        ("INFER", '{"status":"error","message":"No prompt provided"}\n'),
        ("INFER_STREAM hi", '{"status":"ok","message":"Starting token generation"}\n'),
        (
            "INFER_MULTI one||two three",
            '{"status":"ok","message":"Multi-inference completed","data":["one","two three"]}\n',
        ),
        ("INFER_MULTI one||", '{"status":"error","message":"No prompt provided"}\n'),
        ("FREE", '{"status":"ok","message":"Resources freed"}\n'),
        ("FROB x", '{"status":"error","message":"Unknown command: FROB"}\n'),
        ("CANCEL", '{"status":"ok","message":"Nothing to cancel"}\n'),
        ("RESET", '{"status":"ok","message":"Conversation reset"}\n'),
        ("USE echo", '{"status":"ok","message":"Using echo"}\n'),
    ],
)
async def test_the_reply_of_a_command_is_word_for_word(client, line, reply):
    assert await run(client, line) == reply


async def test_before_any_command_ctl_reads_as_the_reply_to_status(client):
    assert await client.read("ctl") == '{"status":"ok","message":"Model loaded: echo"}\n'


async def test_a_failing_command_fails_the_write_with_the_message_of_its_reply(client):
    with pytest.raises(Error) as caught:
        await client.write("ctl", "FROB")
    assert caught.value.ename == "Unknown command: FROB"


async def test_a_failing_command_stops_those_behind_it(client):
    with pytest.raises(Error):
        await client.write("ctl", "USE echo\nFROB\nLOAD other\n")
    assert await client.read("ctl") == '{"status":"error","message":"Unknown command: FROB"}\n'
    assert (await client.json("model"))["name"] == "echo"


async def test_infer_is_accepted_at_once_and_its_reply_waited_for(slow, autojump_clock):
    ctl = slow.open("ctl")
    began = trio.current_time()
    await ctl.write(b"INFER one two\n")
    assert trio.current_time() == began
    assert json.loads(await ctl.read())["data"] == "one two"
    assert trio.current_time() == pytest.approx(began + 1.0)


async def test_infers_through_one_open_are_carried_out_one_after_the_other(slow, autojump_clock):
    ctl = slow.open("ctl")
    await ctl.write(b"INFER one\nINFER two\nINFER three\n")
    assert json.loads(await ctl.read())["data"] == "three"
    assert (await slow.json("usage"))["total"]["requests"] == 3


async def test_infer_while_an_answer_of_the_session_runs_is_busy(slow, autojump_clock):
    await slow.write("prompt", "one two three")
    with pytest.raises(Error, match="busy"):
        await slow.write("ctl", "INFER hello")


async def test_infer_stays_outside_the_conversation(client):
    await client.write("ctl", "INFER hello")
    await client.read("ctl")
    assert await client.read("context") == ""
    with pytest.raises(Error, match="no prompt yet"):
        await client.read("output")


async def test_infer_stream_is_read_from_output(client):
    await client.write("ctl", "INFER_STREAM hello there")
    assert await client.read("output") == "hello there"
    assert await client.read("context") == ""


async def test_infer_takes_settings_in_front_for_itself_alone(client):
    reply = json.loads(await run(client, "INFER max_tokens=2 temperature=0 one two three"))
    assert reply["data"] == "one two"
    assert "max_tokens 256" in await client.read("params")


async def test_an_unknown_key_in_front_belongs_to_the_prompt(client):
    assert json.loads(await run(client, "INFER x=hello"))["data"] == "x=hello"


async def test_a_setting_out_of_range_names_the_range(client):
    reply = json.loads(await run(client, "INFER top_p=2 hello"))
    assert reply["message"] == "invalid top_p '2': it takes a number from 0 to 1"


async def test_a_command_split_by_the_client_is_one_command(client):
    line = b"INFER " + b"x" * 5000 + b"\n"
    ctl = client.open("ctl")
    await ctl.write(line[:4096], 0)
    await ctl.write(line[4096:], 4096)
    assert json.loads(await ctl.read())["data"] == "x" * 5000


async def test_a_command_without_an_end_is_carried_out_at_the_close(client):
    ctl = client.open("ctl")
    await ctl.write(b"INFER " + b"x" * 4090)
    assert client.session.command is None
    ctl.close()
    await trio.testing.wait_all_tasks_blocked()
    assert json.loads(await client.read("ctl"))["data"] == "x" * 4090


async def test_two_commands_in_one_write_are_both_carried_out(client):
    await client.write("ctl", "LOAD a\nLOAD b\n")
    assert (await client.json("model"))["name"] == "b"
    assert {"a", "b"} <= set(client.names("models"))


async def test_a_command_that_is_not_utf8_is_refused(client):
    ctl = client.open("ctl")
    with pytest.raises(Error, match="invalid command: it is not UTF-8"):
        await ctl.write(b"LOAD caf\xe9")


async def test_a_path_may_be_quoted_as_in_rc(client):
    await client.write("ctl", "LOAD '/my models/it''s.gguf' n_ctx=512")
    model = await client.json("model")
    assert (model["path"], model["n_ctx"]) == ("/my models/it's.gguf", 512)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("m n_cxt=1", "invalid option 'n_cxt=1': those of LOAD are n_ctx"),
        ("m n_seq=0", "invalid n_seq '0': it takes a whole number from 1 to 256"),
        ("m n_ctx=many", "invalid n_ctx 'many': it takes a whole number from 0"),
        ("m kv_type=q9", "invalid kv_type 'q9': it is one of f32 f16 q8_0"),
        ("m flash_attn=1", "invalid flash_attn '1': it is one of auto on off"),
        ("m share=2", "invalid share '2': it takes a whole number from 0 to 1"),
        ("m lora=", "invalid lora: it takes PATH or PATH:SCALE"),
        ("m lora=a" + " lora=a" * 8, "invalid lora: it takes PATH or PATH:SCALE, 8 times at most"),
        ("'m", "a quote ' is not closed"),
    ],
)
async def test_a_wrong_argument_of_load_is_named(client, argument, message):
    assert message in json.loads(await run(client, f"LOAD {argument}"))["message"]


async def test_options_of_a_load_reach_the_engine(client, monkeypatch):
    seen = []

    async def load(name, path, options, progress=None):
        seen.append(options)
        raise EngineError("no")

    monkeypatch.setattr(client.session.bridge.engine, "load", load)
    await run(
        client,
        "LOAD m n_cells=99 kv_type=q8_0 flash_attn=on cache_ram=7 share=0 use_mmap=0 "
        "lora=/a.gguf:0.5 lora='/b c:d.gguf'",
    )
    assert seen == [
        LoadOptions(
            n_cells=99,
            kv_type="q8_0",
            flash_attn="on",
            cache_ram=7,
            share=False,
            use_mmap=False,
            lora=(("/a.gguf", 0.5), ("/b c:d.gguf", 1.0)),
        )
    ]


@pytest.mark.parametrize("option", ["max_replicas=4", "num_cpus=2", "look_back_period_s=x"])
async def test_an_option_of_a_cluster_is_refused_on_one_machine(client, option):
    name = option.partition("=")[0]
    reply = json.loads(await run(client, f"LOAD m {option}"))
    assert reply["message"] == f"invalid option '{name}': it needs --engine ray"


async def test_options_of_a_cluster_reach_it(cluster_bridge):
    await run(
        Client(cluster_bridge),
        "LOAD m n_seq=8 num_cpus=4 num_gpus=0.5 min_replicas=2 max_replicas=6 "
        "target_ongoing_requests=3 upscale_delay_s=0 downscale_delay_s=60.5 look_back_period_s=1",
    )
    placement = Placement(4.0, 0.5, 2, 6, 3.0, 0.0, 60.5, 1.0)
    assert cluster_bridge.engine.options == [LoadOptions(n_seq=8, placement=placement)]


async def test_without_options_of_a_cluster_it_gets_the_usual_ones(cluster_bridge):
    await run(Client(cluster_bridge), "LOAD m n_seq=8")
    assert cluster_bridge.engine.options == [LoadOptions(n_seq=8, placement=Placement())]


async def test_more_replicas_at_least_are_more_at_most(cluster_bridge):
    await run(Client(cluster_bridge), "LOAD m min_replicas=3")
    [options] = cluster_bridge.engine.options
    assert (options.placement.min_replicas, options.placement.max_replicas) == (3, 3)


async def test_a_replica_may_have_more_threads_than_this_machine(client, cluster_bridge):
    threads = (os.cpu_count() or 1) + 1
    assert json.loads(await run(client, f"LOAD m n_threads={threads}"))["status"] == "error"
    await run(Client(cluster_bridge), f"LOAD m n_threads={threads}")
    assert [options.n_threads for options in cluster_bridge.engine.options] == [threads]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("num_cpus=-1", "invalid num_cpus '-1': it takes a number from 0 to 1024"),
        ("num_cpus=nan", "invalid num_cpus 'nan': it takes a number from 0 to 1024"),
        ("num_gpus=1.5", "invalid num_gpus '1.5': it takes a part of one, or a whole number"),
        ("max_replicas=2.5", "invalid max_replicas '2.5': it takes a whole number from 1 to"),
        ("min_replicas=3 max_replicas=2",
         "invalid max_replicas '2': it is less than min_replicas, 3"),
        ("look_back_period_s=0", "invalid look_back_period_s '0': it takes a number from 0.1"),
        ("max_replica=2", "invalid option 'max_replica=2': those of LOAD are n_ctx"),
    ],
)  # fmt: skip
async def test_a_wrong_option_of_a_cluster_is_named(cluster_bridge, argument, message):
    reply = json.loads(await run(Client(cluster_bridge), f"LOAD m {argument}"))
    assert message in reply["message"]
    assert cluster_bridge.engine.options == []


async def test_the_options_of_a_cluster_are_told_where_there_is_one(client, cluster_bridge):
    elsewhere = Client(cluster_bridge)
    for name in loadoptions.CLUSTER:
        assert f"{name}=N" in await elsewhere.read("help")
        assert name not in await client.read("help")
    message = json.loads(await run(elsewhere, "LOAD m max_replica=2"))["message"]
    assert message.endswith(" ".join(loadoptions.CLUSTER))


async def test_a_load_makes_the_model_the_default_of_the_bridge(bridge):
    one, two = Client(bridge, "new"), Client(bridge, "new")
    await one.write("ctl", "LOAD big")
    assert (await two.json("model"))["name"] == "big"


async def test_a_load_without_options_takes_a_loaded_model_as_it_is(client):
    await client.write("ctl", "LOAD big n_ctx=512\nLOAD big")
    assert (await client.json("model"))["n_ctx"] == 512
    await client.write("ctl", "LOAD big n_ctx=1024")
    assert (await client.json("model"))["n_ctx"] == 1024


async def test_a_load_that_fails_leaves_the_model_in_use_alone(client, monkeypatch):
    async def refuse(*args):
        raise EngineError("no such file: /absent.gguf")

    with monkeypatch.context() as patch:
        patch.setattr(client.session.bridge.engine, "load", refuse)
        reply = json.loads(await run(client, "LOAD /absent.gguf"))
        assert reply == {"status": "error", "message": "i/o error: no such file: /absent.gguf"}
        await run(client, "LOAD echo n_ctx=512")
    assert await client.ask("still here") == "still here"
    await client.write("ctl", "LOAD echo")
    assert (await client.json("model"))["n_ctx"] == 8192


async def test_use_changes_this_session_only(bridge):
    one, two = Client(bridge, "new"), Client(bridge, "new")
    await one.write("ctl", "LOAD big\nLOAD small\nUSE big")
    assert (await one.json("model"))["name"] == "big"
    assert (await two.json("model"))["name"] == "small"


async def test_free_without_a_model_is_no_error(make_bridge):
    async with make_bridge(model=None) as bridge:
        reply = await run(Client(bridge), "FREE")
        assert json.loads(reply)["message"] == "Resources freed"


async def test_free_of_an_unknown_model_says_so(client):
    assert "no model 'x' is loaded" in json.loads(await run(client, "FREE x"))["message"]


async def test_a_cancelled_infer_says_so_and_keeps_what_there_is(slow, autojump_clock):
    ctl = slow.open("ctl")
    await ctl.write(b"INFER one two three\n")
    async with trio.open_nursery() as nursery:
        replies = []

        async def read():
            replies.append(json.loads(await ctl.read()))

        nursery.start_soon(read)
        with trio.move_on_after(0.6):
            await trio.sleep_forever()
        await slow.write("ctl", "CANCEL")
    assert replies == [{"status": "error", "message": "Inference cancelled", "data": "one"}]


async def test_an_interrupted_load_is_told_as_such(
    make_bridge, monkeypatch, autojump_clock, caplog
):
    async with make_bridge() as bridge:

        async def forever(*args):
            await trio.sleep_forever()

        monkeypatch.setattr(bridge.engine, "load", forever)
        client = Client(bridge)
        with trio.move_on_after(1):
            await client.write("ctl", "LOAD big")
        assert json.loads(await client.read("ctl"))["message"] == "interrupted"
        assert caplog.messages[-1] == "loading big failed: interrupted"


async def test_quit_is_for_the_owner_of_the_bridge(bridge):
    with pytest.raises(Error, match="permission denied"):
        await Client(bridge, uid=os.getuid() + 12345).write("ctl", "QUIT")
    assert not bridge.quit.is_set()
    assert await run(Client(bridge, uid=os.getuid()), "QUIT") == (
        '{"status":"ok","message":"Goodbye"}\n'
    )
    assert bridge.quit.is_set()


async def test_help_names_every_command_and_file(client):
    text = await client.read("help")
    for word in ["PING", "INFER_MULTI", "QUIT", "prompt", "clone", "models/"]:
        assert word in text


async def test_writes_through_one_open_are_carried_out_in_order(slow, autojump_clock):
    ctl = slow.open("ctl")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ctl.write, b"INFER one\nINFER two\n")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ctl.write, b"USE echo\n")
    assert json.loads(await ctl.read(offset=0))["message"] == "Using echo"


async def test_three_infers_in_three_writes_are_all_carried_out(slow, autojump_clock):
    ctl = slow.open("ctl")
    async with trio.open_nursery() as nursery:
        for line in (b"INFER one\n", b"INFER two\n", b"INFER three\n"):
            nursery.start_soon(ctl.write, line)
            await trio.testing.wait_all_tasks_blocked()
    await ctl.read(offset=0)
    assert (await slow.json("usage"))["total"]["requests"] == 3


async def test_an_interrupted_command_behind_another_gets_a_reply(slow, autojump_clock):
    ctl = slow.open("ctl")
    await ctl.write(b"INFER one two three\n")
    with trio.move_on_after(0.1):
        await ctl.write(b"INFER four\n")
    assert json.loads(await ctl.read(offset=0))["message"] == "interrupted"


async def test_the_first_read_after_a_write_is_the_whole_reply(client):
    ctl = client.open("ctl")
    await ctl.write(b"PING\n", 0)
    assert b"pong" in await ctl.read(offset=5)
    assert await ctl.read(offset=5 + len(await ctl.read(offset=5))) == b""


async def test_a_command_without_an_end_is_the_last_command_from_the_close_on(slow, autojump_clock):
    await run(slow, "PING")
    ctl = slow.open("ctl")
    await ctl.write(b"INFER " + b"x" * 4090)
    ctl.close()
    assert json.loads(await slow.read("ctl"))["data"] == "x" * 4090
