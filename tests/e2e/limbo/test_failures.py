"""What users of the programs in Inferno may meet."""

import re

from tests.e2e.inferno import mount


def test_no_bridge_is_a_sentence_and_a_status(emu):
    for command in ("limbot", "llambo"):
        said, status = emu.run(f"{command} -a unix!/nowhere hello")
        assert "no bridge answers at /nowhere: llambo serve starts one\n" in said
        assert status == "connect"
    assert emu.do("mkdir /n/llm") == ("", "")
    assert emu.run("limbot hello") == (
        "limbot: no bridge is mounted at /n/llm: mountllm mounts one\n",
        "connect",
    )


def test_a_path_of_a_socket_is_told_from_a_directory(emu, echo):
    said, status = emu.run(f"limbot -a {echo.socket} hello")
    assert "(a socket is unix!PATH)" in said
    assert status


def test_a_program_llambo_that_is_not_there_is_said(emu):
    assert emu.do("llambo=/no/such/llambo") == ("", "")
    said, status = emu.run("limbot -a unix!/nowhere hello")
    assert "can't run /no/such/llambo on the host" in said
    assert status


def test_a_model_that_is_not_there_is_said(emu, smol):
    mount(emu, smol)
    for command in ("limbot", "llambo"):
        said, status = emu.run(f"{command} -m /no/such/model.gguf hello")
        assert "no such file: /no/such/model.gguf" in said
        assert status
    said, status = emu.run("dish -c 'load nosuch'")
    assert "file not found: no model called 'nosuch'" in said
    assert status


def test_a_bridge_killed_in_mid_stream_shows_the_text_and_the_error(emu, slow):
    emu.send(f"limbot -a unix!{slow.socket} {'word ' * 60}; echo status is $status")
    emu.until("(?s)status is.*\nword word")
    slow.process.kill()
    found = emu.until(r"\n(limbot: [^\n]*)\nstatus is (.*)\n")
    assert re.search(rb"mount rpc error|hungup|[Bb]roken pipe", found[1])
    assert found[2] == b"answer"


def test_without_the_device_of_commands_the_programs_dial_all_the_same(emu, echo):
    assert "does not exist" in emu.run("ls /cmd")[0]
    assert emu.run(f"limbot -a unix!{echo.socket} hello") == ("hello\n", "")


def test_where_the_device_of_commands_is_forbidden_the_error_names_it(emu, echo):
    said, status = emu.run(f"load std; pctl nodevs; limbot -a unix!{echo.socket} hello")
    assert "#C" in said
    assert status


def test_two_programs_at_once_do_not_disturb_each_other(emu, slow):
    mount(emu, slow)
    for name in ("one", "two"):
        emu.send(f"limbot {f'{name} ' * 10} > /n/{name} &")
    slow.until(lambda: slow.status()["bridge"]["running"] == 2)
    slow.until(lambda: slow.status()["bridge"]["running"] == 0)
    for name in ("one", "two"):
        assert emu.run(f"cat /n/{name}") == ((f"{name} " * 10).strip() + "\n", "")


def test_two_questions_through_one_open_prompt(emu, echo):
    mount(emu, echo)
    asking = "{echo one >[1=0]; read; echo two three >[1=0]; cat} <> /n/llm/prompt"
    assert emu.run(asking) == ("onetwo three", "")


def test_a_prompt_longer_than_a_message_is_whole(emu, echo, tmp_path):
    mount(emu, echo)
    text = " ".join(f"word{number}" for number in range(3000))
    (tmp_path / "long").write_text(text)
    asking = f"limbot -p max_tokens 5000 \"{{cat '#U*{tmp_path}/long'}}"
    assert emu.run(asking) == (f"{text}\n", "")


def test_a_program_killed_in_mid_wait_leaves_the_mount_in_step(emu, serve):
    bridge = serve("--engine", "echo:1")
    mount(emu, bridge)
    for _ in range(3):
        emu.send("limbot one two three four &")
        bridge.until(lambda: bridge.status()["bridge"]["running"] >= 1)
        emu.send("kill $apid; cat /n/llm/params; cat /n/llm/model")
        emu.until(r'(?s)format chat\n.*"engine":"echo"')
    assert len(emu.relays()) == 1
    assert emu.run("cat /n/llm/status")[0].startswith('{"status":"ok"')


def test_a_program_killed_in_mid_wait_takes_its_relay_with_it(emu, slow):
    emu.send(f"limbot -a unix!{slow.socket} {'word ' * 60} &")
    slow.until(lambda: slow.status()["bridge"]["running"] == 1)
    assert len(emu.relays()) == 1
    emu.send("load std; killgrp=$apid; kill -g $apid")
    slow.until(lambda: len(emu.relays()) == 0)


def test_a_dead_mount_where_a_program_would_mount_is_passed_over(emu, serve):
    dead, other = serve("--engine", "echo"), serve("--engine", "echo")
    assert emu.do(f"mountllm unix!{dead.socket} /n/llm0") == ("", "")
    dead.process.kill()
    dead.process.wait()
    assert emu.run(f"limbot -a unix!{other.socket} hello") == ("hello\n", "")
