"""`limbot`: a conversation in the terminal."""

import signal

import pytest

from tests.e2e.inferno import mount


def test_limbot_answers_the_question_of_its_command_line(emu, echo):
    mount(emu, echo)
    assert emu.run("limbot What is a file server?") == ("What is a file server?\n", "")


def test_limbot_dials_a_bridge_that_is_not_mounted(emu, echo):
    assert emu.run(f"limbot -a unix!{echo.socket} hello") == ("hello\n", "")


def test_limbot_works_in_a_session_of_its_own_and_ends_it(emu, echo):
    mount(emu, echo)
    emu.run("limbot hello")
    assert echo.status()["session"]["turns"] == 0
    assert echo.status()["bridge"]["sessions"] == 1


def test_limbot_leaves_nothing_of_its_own_running(emu, echo):
    before = len(emu.relays())
    emu.run(f"limbot -a unix!{echo.socket} hello")
    echo.until(lambda: len(emu.relays()) == before)
    assert "Limbot" not in emu.run("ps")[0]


def test_limbot_keeps_a_conversation(told, echo, emu):
    mount(emu, echo)
    said, status = told("limbot", "one", "two", "/status")
    assert status == ""
    assert said.startswith("one\ntwo\nbridge ")
    assert "questions: 2" in said


def test_limbot_answers_all_that_its_input_asks_before_the_exit(told, slow, emu):
    mount(emu, slow)
    assert told("limbot", "one two three", "four", "/exit", "five") == ("one two three\nfour\n", "")


def test_limbot_takes_a_question_of_several_lines(told, echo, emu):
    mount(emu, echo)
    assert told("limbot", "one\\", "two") == ("one\ntwo\n", "")


def test_limbot_saves_a_conversation_and_goes_on_with_it(told, echo, emu):
    mount(emu, echo)
    told("limbot -s 'be brief'", "one", "/save /n/chat")
    said, _ = told("limbot", "/load /n/chat", "/system", "/status")
    assert said.startswith("be brief\n")
    assert "questions: 1" in said


def test_limbot_forgets_at_reset(told, echo, emu):
    mount(emu, echo)
    assert "questions: 0" in told("limbot", "one", "/reset", "/status")[0]


def test_limbot_changes_model_system_prompt_and_settings(told, echo, emu):
    mount(emu, echo)
    said, _ = told(
        "limbot", "/model other", "/system be brief", "/system", "/set temperature 0.25", "/set",
        "/status",
    )  # fmt: skip
    assert said.startswith("be brief\n")
    assert "temperature 0.25\n" in said
    assert "model    other, ready" in said


def test_limbot_says_what_it_does_not_know(told, echo, emu):
    mount(emu, echo)
    said, status = told("limbot", "/frob", "/set temperature 9", "/load /n/no", "/stop", "hello")
    assert said == (
        "limbot: /frob: no such command; /help lists them\n"
        "limbot: invalid temperature '9': it takes a number from 0 to 5\n"
        "limbot: can't open /n/no: '/n/no' file does not exist\n"
        "limbot: nothing to stop\n"
        "hello\n"
    )
    assert status == ""


def test_limbot_helps(told, echo, emu):
    mount(emu, echo)
    said, _ = told("limbot", "/help")
    for command in ("help", "status", "reset", "system", "save", "load", "model", "stop", "exit"):
        assert f"\n/{command} " in f"\n{said}"


def test_limbot_prints_an_answer_as_it_comes_and_stops_it_when_told(emu, slow):
    emu.send(f"limbot -a unix!{slow.socket}")
    emu.until("> $")
    emu.send("one two three four five " + "six " * 80)
    emu.until("six six \none two three")
    assert slow.status()["bridge"]["running"] == 1
    emu.send("/stop")
    emu.until("\n> $")
    assert slow.status()["bridge"]["running"] == 0
    emu.send("again")
    emu.until("again\nagain\n> $")
    emu.send("/exit")
    assert emu.run("echo here") == ("here\n", "")


def test_limbot_answers_what_is_typed_meanwhile_afterwards(emu, slow):
    emu.send(f"limbot -a unix!{slow.socket}")
    emu.until("> $")
    emu.send("one two three four five")
    emu.until("five\none")
    emu.send("then this")
    emu.until("(?s)five.*\nthen this\n> $")


def test_limbot_goes_on_with_a_bridge_that_was_started_again(emu, serve, tmp_path):
    socket = tmp_path / "the-socket"
    first = serve("--engine", "echo", "--socket", str(socket))
    emu.send(f"limbot -a unix!{socket}")
    emu.until("> $")
    emu.send("one")
    emu.until("one\none\n> $")
    first.process.kill()
    first.process.wait()
    emu.send("two")
    emu.until("limbot: .*tries to reach the bridge again.\n> $")
    serve("--engine", "echo", "--socket", str(socket))
    emu.send("three")
    emu.until("three\nthree\n> $")
    emu.send("/status")
    assert emu.until(r"questions: (\d)")[1] == b"2"


def test_limbot_has_its_model_settings_and_prompts_again_after_a_restart(emu, serve, tmp_path):
    options = ("--engine", "echo", "--socket", str(tmp_path / "the-socket"))
    first = serve(*options)
    emu.send(f"limbot -a unix!{tmp_path}/the-socket -m other -p top_k 1 -p top_k 2 -s one")
    emu.until("> $")
    for line in ("/set temperature 0.5", "/set temperature 0.25", "hello", "/system two"):
        emu.send(line)
        emu.until("> $")
    first.process.kill()
    first.process.wait()
    emu.send("lost")
    emu.until("again.\n> $")
    serve(*options)
    emu.send("/set")
    assert b"temperature 0.25\n" in emu.until(r"(?s)temperature.*top_k 2\n.*> $")[0]
    emu.send("/system")
    emu.until("/system\ntwo\n> $")
    emu.send("/status")
    emu.until("(?s)model    other.*questions: 1")


@pytest.mark.parametrize("typed", [("/stop", "/exit"), ("are you there?", "/stop", "/exit")])
def test_limbot_leaves_a_bridge_that_stopped(emu, slow, typed):
    emu.send(f"limbot -a unix!{slow.socket}")
    emu.until("> $")
    emu.send("word word word word word word")
    emu.until("\nword word")
    slow.process.send_signal(signal.SIGSTOP)
    try:
        for line in typed:
            emu.send(line)
        assert emu.run("echo here") == ("here\n", "")
    finally:
        slow.process.send_signal(signal.SIGCONT)


def test_limbot_says_when_an_answer_was_cut(emu, echo):
    mount(emu, echo)
    assert emu.run("limbot -p max_tokens 2 one two three") == (
        "one two\nlimbot: cut after 2 tokens (the setting max_tokens)\n", "",
    )  # fmt: skip


def test_limbot_saves_what_there_was_when_its_mount_is_dead(emu, echo):
    mount(emu, echo)
    emu.send("limbot")
    emu.until("> $")
    emu.send("one")
    emu.until("one\none\n> $")
    echo.process.kill()
    echo.process.wait()
    emu.send("two")
    emu.until("then leave, and mountllm again.\n> $")
    emu.send("/save /n/chat")
    emu.until("> $")
    emu.send("/exit")
    assert emu.run("cat /n/chat")[0].count("one") == 2


def test_limbot_clears_a_setting_and_the_system_prompt(told, echo, emu):
    mount(emu, echo)
    said, _ = told(
        "limbot -s brief", '/set stop "x"', "/set", "/set stop", "/set", "/system ''", "/system"
    )
    assert said.count('stop "x"') == 1
    assert "brief" not in said


def test_limbot_saves_although_nobody_noticed_yet_that_the_bridge_is_gone(emu, echo):
    emu.send(f"limbot -a unix!{echo.socket}")
    emu.until("> $")
    emu.send("one")
    emu.until("one\none\n> $")
    echo.process.kill()
    echo.process.wait()
    emu.send("/save /n/chat")
    emu.until("/n/chat\n> $")
    emu.send("/exit")
    assert emu.run("cat /n/chat")[0].count("one") == 2
