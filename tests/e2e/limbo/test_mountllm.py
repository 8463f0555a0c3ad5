"""`mountllm`: the script that mounts a bridge."""

from tests.e2e.inferno import mount


def test_mountllm_makes_the_mount_point_and_mounts_the_main_session_there(emu, echo):
    mount(emu, echo)
    assert emu.run("echo hello > /n/llm/prompt; cat /n/llm/output") == ("hello", "")
    assert echo.status()["session"]["turns"] == 1


def test_mountllm_takes_a_path_an_attach_name_and_a_mount_point(emu, echo):
    assert emu.do(f"mountllm -a new {echo.socket} /n/other") == ("", "")
    assert emu.run("echo hello > /n/other/prompt; cat /n/other/output") == ("hello", "")
    assert echo.status()["session"]["turns"] == 0


def test_mountllm_mounts_over_tcp(emu, serve):
    bridge = serve("--engine", "echo", "--tcp", "127.0.0.1:0")
    assert emu.do(f"mountllm {bridge.tcp()}") == ("", "")
    assert emu.run("limbot hello") == ("hello\n", "")


def test_mountllm_mounts_where_no_directory_can_be_made(emu, echo):
    assert emu.do("mkdir /n/empty; bind /n/empty /n; mkdir /n/llm")[1] == "error"
    mount(emu, echo)
    assert emu.run("limbot hello") == ("hello\n", "")


def test_mountllm_with_no_bridge_there_says_so_and_fails(emu):
    said, status = emu.do("mountllm unix!/nowhere")
    assert said.startswith("llambo: no bridge answers at /nowhere: llambo serve starts one\n")
    assert status == "mount failed"


def test_mountllm_with_wrong_arguments_tells_its_usage(emu):
    for wrong in ("-a", "-x", "one two three"):
        assert emu.do(f"mountllm {wrong}") == (
            "usage: mountllm [-a aname] [addr [mountpoint]]\n", "usage",
        )  # fmt: skip
