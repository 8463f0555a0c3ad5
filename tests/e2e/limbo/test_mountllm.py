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
    assert said.endswith("llambo: no bridge answers at /nowhere: llambo serve starts one\n")
    assert status == "mount failed"


def test_mountllm_with_wrong_arguments_tells_its_usage(emu):
    for wrong in ("-a", "-x", "one two three"):
        assert emu.do(f"mountllm {wrong}") == (
            "usage: mountllm [-a aname] [addr [mountpoint]]\n", "usage",
        )  # fmt: skip


def test_mountllm_with_no_program_llambo_says_so_and_fails(emu):
    assert emu.do("llambo=/no/such/llambo") == ("", "")
    said, status = emu.do("mountllm")
    assert "mountllm: cannot run /no/such/llambo: its whole path can be in $llambo\n" in said
    assert status == "no llambo"


def test_the_relay_of_mountllm_ends_with_the_mount(emu, echo):
    mount(emu, echo)
    assert len(emu.relays()) == 1
    assert emu.do("unmount /n/llm") == ("", "")
    echo.until(lambda: emu.relays() == [])


def test_mountllm_takes_a_socket_whose_path_has_a_blank(emu, serve, tmp_path):
    (tmp_path / "with a blank").mkdir()
    socket = tmp_path / "with a blank/9p"
    serve("--engine", "echo", "--socket", str(socket))
    assert emu.do(f"mountllm '{socket}'") == ("", "")
    assert emu.run("limbot hello") == ("hello\n", "")


def test_mountllm_replaces_the_mount_of_a_bridge_that_ended_and_leaves_nothing_else(emu, serve):
    first, second = serve("--engine", "echo"), serve("--engine", "echo")
    mount(emu, first)
    first.process.kill()
    first.process.wait()
    assert emu.do(f"mountllm unix!{first.socket}")[1] == "mount failed"
    mount(emu, second)
    assert emu.run("limbot hello") == ("hello\n", "")
    assert "Mntgen" not in emu.run("ps")[0]


def test_a_pipe_from_mountllm_ends(emu, echo):
    assert emu.run(f"{{mountllm unix!{echo.socket}; limbot hello}} | cat") == ("hello\n", "")


def test_mountllm_refuses_what_is_no_address(emu):
    said, status = emu.do("mountllm nonsense")
    assert said.startswith("mountllm: nonsense: an address is ")
    assert status == "usage"


def test_mountllm_finds_the_default_socket_by_itself(echo, monkeypatch, request):
    monkeypatch.setenv("LLAMBO_SOCKET", echo.socket)
    emu = request.getfixturevalue("emu")
    assert emu.do("mountllm") == ("", "")
    assert emu.run("limbot hello") == ("hello\n", "")
    assert emu.run("limbot -a unix! hello") == ("hello\n", "")


def test_mountllm_does_not_mind_another_directory_cmd(emu, echo):
    assert emu.do("mkdir /n/mine /n/mine/cmd; bind -b /n/mine /") == ("", "")
    mount(emu, echo)
    assert emu.run("limbot hello") == ("hello\n", "")
