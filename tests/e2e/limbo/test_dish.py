"""`dish`: a shell over several bridges."""

import re

from tests.e2e.inferno import mount


def test_dish_shows_its_nodes_and_asks_one_and_all(emu, serve, told):
    bridges = [serve("--engine", "echo") for _ in range(2)]
    nodes = " ".join(
        f"-n {name} unix!{bridge.socket}" for name, bridge in zip("ab", bridges, strict=True)
    )
    said, status = told(f"dish {nodes}", "nodes", "ask a one", "ask all two", "infer three")
    assert status == ""
    assert re.search(r"^NAME +STATE .*\na +ready +echo .*\nb +ready +echo ", said)
    assert "\none\n" in said
    assert "a:\ntwo\n" in said
    assert "b:\ntwo\n" in said
    assert said.endswith("\nthree\n")


def test_dish_goes_on_without_a_bridge_that_is_gone(emu, serve, told):
    bridge = serve("--engine", "echo")
    said, _ = told(
        f"dish -n a unix!/nowhere -n b unix!{bridge.socket}", "ask a one", "infer two", "nodes"
    )
    assert "no bridge answers at /nowhere" in said
    assert "\ntwo\n" in said
    assert re.search(r"\na +gone ", said)


def test_dish_loads_and_frees_on_a_node(emu, echo, told):
    mount(emu, echo)
    said, status = told("dish", "load other", "status", "free llm other", "models")
    assert status == ""
    assert "other, engine echo" in said
    assert said.endswith("llm  echo\n")


def test_dish_carries_out_one_command_with_its_status(emu, echo):
    mount(emu, echo)
    assert emu.run("dish -c 'ask llm hello there'") == ("hello there\n", "")
    said, status = emu.run("dish -c 'frob'")
    assert said == "dish: unknown command: frob (help lists them)\n"
    assert status


def test_dish_carries_out_several_commands(emu, echo):
    mount(emu, echo)
    assert emu.run("dish -c 'ask llm one' -c 'ask llm two'") == ("one\ntwo\n", "")


def test_dish_keeps_a_conversation_with_each_node_and_resets_it(emu, echo, told):
    mount(emu, echo)
    said, _ = told("dish", "ask llm one", "ask llm two", "status", "reset llm", "status")
    assert re.findall(r"session +\d+, idle, (\d) question", said) == ["2", "0"]
    assert echo.status()["session"]["turns"] == 0
