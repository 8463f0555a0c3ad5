"""`params`, `system`, `context`, `status`, `model`, `models/`."""

import json

import pytest

from fs9p import Error
from tests.ctl.conftest import Client

PARAMS = """\
max_tokens 256
temperature 0.8
top_p 0.9
top_k 40
min_p 0.05
seed -1
repeat_penalty 1.0
presence_penalty 0.0
frequency_penalty 0.0
penalty_last_n 64
typical_p 1.0
mirostat 0
mirostat_tau 5.0
mirostat_eta 0.1
logprobs 0
stop
logit_bias
format chat
overflow stop
"""


async def test_params_lists_every_setting_with_its_value(client):
    assert await client.read("params") == PARAMS


async def test_a_line_of_params_changes_that_setting_alone(client):
    await client.write("params", "temperature 0\n")
    assert await client.read("params") == PARAMS.replace("temperature 0.8", "temperature 0.0")


async def test_saved_params_can_be_put_back(client):
    await client.write("params", 'stop "\\n\\n"\nstop "END"\nseed 7\n')
    saved = await client.read("params")
    assert 'stop "\\n\\n"\nstop "END"\n' in saved
    other = Client(client.session.bridge, "new")
    await other.write("params", saved)
    assert await other.read("params") == saved
    await client.write("params", PARAMS)
    assert await client.read("params") == PARAMS


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("temperature 9", "invalid temperature '9': it takes a number from 0 to 5"),
        ("top_k 1.5", "invalid top_k '1.5': it takes a whole number from 0 to 1000000"),
        ("max_tokens 0", "from 1 to"),
        ("temperature nan", "invalid temperature"),
        ("temprature 1", "invalid setting 'temprature'"),
        ("stop END", "it takes a JSON string"),
        ("format xml", "it is chat or raw"),
        ("overflow roll", "it is stop or slide"),
        ("typical_p 2", "invalid typical_p '2': it takes a number from 0 to 1"),
        ("mirostat 3", "invalid mirostat '3': it takes a whole number from 0 to 2"),
        ("mirostat_tau -1", "from 0 to 100"),
        ("mirostat_eta 2", "from 0 to 1"),
        ("logprobs 21", "invalid logprobs '21': it takes a whole number from 0 to 20"),
        ("logit_bias 5", "it takes a token's number and a bias from -100 to 100, or -inf"),
        ("logit_bias 5 101", "from -100 to 100, or -inf"),
        ("logit_bias 5 inf", "from -100 to 100, or -inf"),
        ("logit_bias 5 nan", "from -100 to 100, or -inf"),
        ("logit_bias -5 1", "it takes a token's number"),
        ('logit_bias "yes" 1', "it takes a token's number"),
        ("logit_bias 123456789 1", "it takes a token's number"),
    ],
)
async def test_a_wrong_setting_is_refused_with_what_is_right(client, line, message):
    with pytest.raises(Error) as caught:
        await client.write("params", line)
    assert message in caught.value.ename


async def test_of_biases_the_first_of_an_open_replaces_and_later_ones_add(client):
    await client.write("params", "logit_bias 5 1.5\nlogit_bias 6 -inf\nlogit_bias 5 2\n")
    assert "\nlogit_bias 5 2.0\nlogit_bias 6 -inf\nformat" in await client.read("params")
    await client.write("params", "logit_bias 7:-100\n")
    assert "\nstop\nlogit_bias 7 -100.0\nformat" in await client.read("params")
    await client.write("params", "logit_bias\n")
    assert await client.read("params") == PARAMS


async def test_a_session_has_so_many_biases_at_most(client):
    lines = [f"logit_bias {token} 1\n" for token in range(257)]
    await client.write("params", "".join(lines[:256]))
    with pytest.raises(Error, match="invalid logit_bias: there can be at most 256"):
        await client.write("params", "".join(lines))


async def test_a_write_with_a_wrong_line_changes_nothing(client):
    with pytest.raises(Error):
        await client.write("params", "seed 1\nseed x\n")
    assert await client.read("params") == PARAMS


async def test_settings_reach_the_answer(client):
    await client.write("params", "max_tokens 2")
    assert await client.ask("one two three") == "one two"
    assert (await client.json("usage"))["last"]["finish_reason"] == "length"


async def test_a_stop_string_ends_the_answer(client):
    await client.write("params", 'stop "two"')
    assert await client.ask("one two three") == "one "


async def test_the_system_prompt_is_replaced_by_the_first_write_and_extended_by_later_ones(client):
    await client.write("system", "old")
    system = client.open("system")
    await system.write(b"be ")
    await system.write("français\n".encode()[:5])
    await system.write("français\n".encode()[5:])
    assert await client.read("system") == "be français\n"


async def test_truncating_the_system_prompt_empties_it(client):
    await client.write("system", "be brief")
    client.node("system").truncate()
    assert await client.read("system") == ""


async def test_a_system_prompt_that_is_not_utf8_is_refused(client):
    with pytest.raises(Error, match="not UTF-8"):
        await client.open("system").write(b"caf\xe9!")


async def test_the_conversation_is_one_json_message_a_line(client):
    await client.write("system", "be brief")
    await client.ask("hello")
    assert await client.read("context") == (
        '{"role":"system","content":"be brief"}\n'
        '{"role":"user","content":"hello"}\n'
        '{"role":"assistant","content":"hello"}\n'
    )


async def test_a_saved_conversation_can_be_put_back(client):
    await client.write("system", "be brief")
    await client.ask("hello")
    saved = await client.read("context")
    other = Client(client.session.bridge, "new")
    await other.write("context", saved)
    assert await other.read("context") == saved


async def test_a_conversation_may_come_in_pieces(client):
    lines = [json.dumps({"role": "user", "content": "x" * 3000}) + "\n" for _ in range(3)]
    text = "".join(lines).encode()
    context = client.open("context")
    for at in range(0, len(text), 4096):
        await context.write(text[at : at + 4096], at)
    assert len(client.session.messages) == 3


@pytest.mark.parametrize(
    "line",
    [
        '{"role":"user"}',
        "hello",
        '{"role":"robot","content":"x"}',
        '{"role":"system","content":""}',
    ],
)
async def test_a_bad_line_of_a_conversation_is_refused_with_its_number(client, line):
    with pytest.raises(Error, match="^invalid line 2: "):
        await client.write("context", '{"role":"user","content":"hi"}\n' + line + "\n")
    assert await client.read("context") == ""


async def test_the_conversation_cannot_be_replaced_while_an_answer_runs(slow, autojump_clock):
    await slow.write("prompt", "one two")
    with pytest.raises(Error, match="busy"):
        await slow.write("context", '{"role":"user","content":"hi"}\n')


async def test_the_conversation_reaches_the_model(client):
    await client.write("system", "be brief")
    await client.ask("one two")
    await client.ask("three")
    assert (await client.json("usage"))["last"]["prompt_tokens"] == 2 + 2 + 2 + 1


async def test_a_raw_prompt_goes_without_the_conversation(client):
    await client.ask("one two")
    await client.write("params", "format raw")
    await client.ask("three")
    assert (await client.json("usage"))["last"]["prompt_tokens"] == 1
    assert (await client.json("status"))["session"]["turns"] == 1


async def test_reset_forgets_the_conversation_and_keeps_the_settings(client):
    await client.write("system", "be brief")
    await client.write("params", "seed 3")
    await client.ask("one two")
    await client.write("ctl", "RESET")
    assert await client.read("context") == '{"role":"system","content":"be brief"}\n'
    assert "seed 3" in await client.read("params")


async def test_status_is_json_with_its_keys_in_order(client, mock_clock):
    await client.ask("hello")
    text = await client.read("status")
    assert text.startswith(
        '{"status":"ok","message":"Model loaded: echo","session":{"id":0,"owner":"54321",'
        '"state":"idle","error":null,"turns":1,"dropped":0,"loading":null,"request":1},"model":{"name":"echo","path":"echo",'
        '"state":"ready","progress":1.0,"error":null,"architecture":"echo","parameters":null,'
        '"quantization":null,"file_bytes":null,"memory_bytes":null,"n_ctx":8192,'
        '"n_ctx_train":8192,"chat_template":true,"engine":"echo","note":null,'
        '"generates":true,"embeds":true,"restarts":0,"unused_s":0.0},"bridge":{"version":'
    )
    assert list(json.loads(text)["bridge"]) == [
        "version",
        "uptime",
        "sessions",
        "connections",
        "queued",
        "running",
        "fids",
        "requests",
        "tasks",
        "line_connections",
    ]


async def test_status_shows_a_running_answer(slow, autojump_clock):
    await slow.write("prompt", "one two")
    await slow.open("output").read()
    status = await slow.json("status")
    assert status["session"]["state"] == "generating"
    assert status["bridge"]["running"] == 1


async def test_a_failed_command_is_told_whole_in_status(client):
    with pytest.raises(Error):
        await client.write("ctl", "FROB")
    assert (await client.json("status"))["session"]["error"] == "Unknown command: FROB"


async def test_an_error_is_told_until_a_command_succeeds(client):
    with pytest.raises(Error):
        await client.write("params", "temperature 9")
    await client.write("ctl", "PING")
    assert (await client.json("status"))["session"]["error"] is None


async def test_model_without_one_has_state_none(make_bridge):
    async with make_bridge(model=None) as bridge:
        model = await Client(bridge).json("model")
        assert (model["state"], model["name"], model["engine"]) == ("none", "", "echo")


async def test_models_lists_what_is_loaded(client):
    await client.write("ctl", "LOAD /models/llama.gguf")
    assert client.names("models") == ["echo", "llama"]
    assert (await client.json("models/llama"))["path"] == "/models/llama.gguf"


async def test_a_model_on_a_cluster_has_replicas(cluster_bridge):
    client = Client(cluster_bridge)
    for path in ("model", "models/echo"):
        replicas = (await client.json(path))["replicas"]
        assert [(each["node"], each["state"], each["progress"]) for each in replicas] == [
            ("one", "ready", 1.0), ("two", "copying", 0.25),
        ]  # fmt: skip


async def test_a_model_on_one_machine_has_none(client):
    for path in ("model", "models/echo"):
        assert "replicas" not in await client.json(path)


async def test_status_goes_without_replicas(cluster_bridge):
    model = (await Client(cluster_bridge).json("status"))["model"]
    assert (model["name"], model["state"]) == ("echo", "ready")
    assert "replicas" not in model


async def test_two_files_of_the_same_name_are_two_models(client):
    await client.write("ctl", "LOAD /a/llama.gguf\nLOAD /b/llama.gguf")
    assert client.names("models") == ["echo", "llama", "llama-2"]


@pytest.mark.parametrize("path", ["params", "system", "context", "prompt", "ctl", "embed"])
async def test_a_closed_session_takes_no_write(bridge, path):
    client = Client(bridge, "new")
    file = client.open(path)
    await client.write("ctl", "CLOSE")
    with pytest.raises(Error, match="session is closed"):
        await file.write(b"x")


async def test_a_refused_setting_is_told_whole_in_status(client):
    with pytest.raises(Error):
        await client.write("params", "temperature 9")
    assert "from 0 to 5" in (await client.json("status"))["session"]["error"]


async def test_a_read_of_no_bytes_does_not_wait(slow):
    await slow.write("prompt", "one two")
    assert not slow.open("output").waits(count=0)
