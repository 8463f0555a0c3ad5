"""`llambo`: workers that ask at once."""

import re

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
    assert first < 0.5


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


def test_workers_are_spread_over_bridges(emu, serve):
    bridges = [serve("--engine", "echo:10") for _ in range(2)]
    addresses = " ".join(f"-a unix!{bridge.socket}" for bridge in bridges)
    emu.send(f"llambo -n 6 {addresses} {'word ' * 20}")
    for bridge in bridges:
        bridge.until(lambda bridge=bridge: bridge.status()["bridge"]["running"] == 3)
    assert emu.until("6 workers: 120 tokens")


def test_workers_go_on_when_one_of_their_bridges_is_killed(emu, serve):
    bridges = [serve("--engine", "echo:10") for _ in range(2)]
    addresses = " ".join(f"-a unix!{bridge.socket}" for bridge in bridges)
    emu.send(f"llambo -n 6 {addresses} {'word ' * 20}")
    for bridge in bridges:
        bridge.until(lambda bridge=bridge: bridge.status()["bridge"]["running"] == 3)
    bridges[0].process.kill()
    assert emu.until("6 workers: 120 tokens")


def test_workers_that_fail_say_why_and_give_a_status(emu, echo):
    mount(emu, echo)
    said, status = emu.run("llambo -n 2 -p temperature 9 hello")
    assert said.count("invalid temperature '9': it takes a number from 0 to 5\n") == 2
    assert status == "2 of 2 workers failed"
