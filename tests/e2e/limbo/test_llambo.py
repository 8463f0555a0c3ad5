"""`llambo`: workers that ask at once."""

import re
import signal

import pytest

from tests.e2e.inferno import mount


def workers(said):
    """Of what `llambo` says about itself."""
    found = re.search(
        r"(\d+) workers: (\d+) tokens in [\d.]+ s, [\d.]+ tokens/s; "
        r"first token after ([\d.]+) s \([\d.]+ to [\d.]+\)\n$",
        said,
    )
    assert found, said
    return int(found[1]), int(found[2]), float(found[3])


def test_ten_workers_answer_at_once(emu, slow):
    mount(emu, slow)
    said, status = emu.run("llambo -n 10 one two three")
    assert status == ""
    number, tokens, first = workers(said)
    assert (number, tokens) == (10, 30)
    assert first < 1.0


def test_workers_print_their_answers_when_asked_to(emu, echo):
    mount(emu, echo)
    said, _ = emu.run("llambo -v -n 2 one two")
    assert len(re.findall(r"worker [12]: 2 tokens in .* s:\none two\n\n", said)) == 2


def test_workers_have_settings_and_a_system_prompt(emu, echo):
    mount(emu, echo)
    said, _ = emu.run("llambo -n 2 -s 'be brief' -p max_tokens 1 one two three")
    assert workers(said)[1] == 2


def test_workers_leave_no_session_behind(emu, echo):
    mount(emu, echo)
    emu.run("llambo -n 5 hello")
    assert echo.status()["bridge"]["sessions"] == 1
    assert echo.status()["session"]["turns"] == 0


@pytest.fixture
def spread(emu, serve):
    """Two bridges, at each of which three of six workers wait for their answers."""
    bridges = [serve("--engine", "echo:10") for _ in range(2)]
    addresses = " ".join(f"-a unix!{bridge.socket}" for bridge in bridges)
    emu.send(f"llambo -n 6 {addresses} {'word ' * 20}")
    for bridge in bridges:
        bridge.until(lambda bridge=bridge: bridge.status()["bridge"]["running"] == 3)
    return bridges


def test_workers_are_spread_over_bridges(emu, spread):
    assert emu.until("6 workers: 120 tokens")


def test_workers_go_on_when_one_of_their_bridges_is_killed(emu, spread):
    spread[0].process.kill()
    emu.until(r"worker \d: unix!.*: .*: asking again")
    assert emu.until("6 workers: 120 tokens")


def test_workers_that_fail_say_why_and_give_a_status(emu, echo):
    mount(emu, echo)
    said, status = emu.run("llambo -n 2 -p temperature 9 hello")
    assert said == ("llambo: 2 workers: invalid temperature '9': it takes a number from 0 to 5\n")
    assert status == "2 of 2 workers failed"


def test_a_model_is_loaded_for_the_workers_alone(emu, serve):
    bridge = serve("--engine", "echo", "--model", "first")
    mount(emu, bridge)
    with bridge.files() as files:
        files.write("ctl", b"LOAD second\nLOAD first\n")
    assert emu.run("llambo -n 2 -m second hello")[1] == ""
    assert bridge.status()["model"]["name"] == "first"


def test_a_bridge_that_stopped_is_left_out_and_keeps_no_process(emu, serve):
    stopped, other = serve("--engine", "echo"), serve("--engine", "echo")
    stopped.process.send_signal(signal.SIGSTOP)
    try:
        said, status = emu.run(f"llambo -a unix!{stopped.socket} -a unix!{other.socket} one two")
        assert status == ""
        assert " 2 tokens in " in said
        assert "Workers" not in emu.run("ps")[0]
    finally:
        stopped.process.send_signal(signal.SIGCONT)


def test_killed_workers_leave_no_process_when_their_answers_have_ended(emu, slow):
    mount(emu, slow)
    emu.send("llambo -n 4 one two three four five &")
    slow.until(lambda: slow.status()["bridge"]["running"] == 4)
    emu.send("kill $apid")
    slow.until(lambda: slow.status()["bridge"]["running"] == 0)
    slow.until(lambda: "Workers" not in emu.run("ps")[0])


def test_a_bridge_that_is_not_there_is_named(emu, echo):
    said, status = emu.run(f"llambo -a unix!/nowhere -a unix!{echo.socket} hello")
    assert said.startswith("llambo: unix!/nowhere: no bridge answers at /nowhere")
    assert status == ""


def test_a_bridge_that_stops_meanwhile_does_not_keep_llambo(emu, echo, slow):
    emu.send(f"llambo -a unix!{slow.socket} -a unix!{echo.socket} -n 2 {'word ' * 15} &")
    slow.until(lambda: slow.status()["bridge"]["running"] == 1)
    echo.process.send_signal(signal.SIGSTOP)
    try:
        emu.until("2 workers: ")
        slow.until(lambda: "Workers" not in emu.run("ps")[0])
    finally:
        echo.process.send_signal(signal.SIGCONT)
