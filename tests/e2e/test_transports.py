"""Several listeners, sockets that are inherited, limits and recordings, as options of `serve`."""

import grp
import json
import os
import resource
import select
import socket
import subprocess

import psutil
import pytest
from py9p.client import Client, RemoteError
from py9p.constants import OWRITE
from py9p.messages import CodecError, ProtocolError, Rerror, Tread

from benchmarks.clients import Wire
from ctl.client import Files
from fs9p import read_records
from tests.conftest import started
from tests.e2e.conftest import DEADLINE, LLAMBO, ask
from tests.e2e.lineclient import LineClient, answer
from tests.e2e.test_sockets import ECHO, ended, refused
from tests.fs9p.test_inherited import passing


def test_all_sockets_lead_into_one_bridge(serve, tmp_path):
    more = [str(tmp_path / name) for name in ("second", "third")]
    bridge = serve(*ECHO, "--socket", more[0], "--socket", more[1], "--tcp", "127.0.0.1:0")
    with bridge.files("talk") as files:
        assert ask(files, "said on the first") == "said on the first"
    for path in more:
        with Files(path, "talk") as files:
            assert files.read("output") == b"said on the first"
    with Files(bridge.tcp()) as files:
        assert json.loads(files.read("status"))["bridge"]["sessions"] >= 2


def test_an_end_removes_every_socket(serve, tmp_path):
    second = tmp_path / "second"
    bridge = serve(*ECHO, "--socket", str(second))
    bridge.stop()
    assert not second.exists()
    assert not os.path.exists(bridge.socket)


def test_where_one_socket_cannot_be_served_none_is_left_behind(tmp_path):
    good, bad = tmp_path / "good", tmp_path / "bad"
    bad.write_text("precious")
    assert f"cannot serve {bad}" in refused(tmp_path, "--socket", str(good), "--socket", str(bad))
    assert not good.exists()


@pytest.fixture
def ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no ::1: sysctl net.ipv6.conf.lo.disable_ipv6=0 gives it one")


def test_ipv6_works_from_serve_to_dial(serve, ipv6):
    bridge = serve(*ECHO, "--tcp", "[::1]:0")
    assert bridge.tcp().startswith("tcp!::1!")
    assert bridge.run("ask", bridge.tcp(), "over ipv6").stdout == "over ipv6\n"


def test_localhost_is_served(serve):
    bridge = serve(*ECHO, "--tcp", "localhost:0")
    port = bridge.tcp().rpartition("!")[2]
    assert bridge.run("ask", f"tcp!localhost!{port}", "hello").stdout == "hello\n"


def test_the_mode_of_the_socket_is_an_option(serve):
    assert os.stat(serve(*ECHO, "--socket-mode", "660").socket).st_mode & 0o777 == 0o660


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give it to any group: run as root")
def test_the_group_of_the_socket_is_an_option(serve):
    assert os.stat(serve(*ECHO, "--socket-group", "daemon").socket).st_gid == (
        grp.getgrnam("daemon").gr_gid
    )


def listening(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


@pytest.mark.parametrize("names", [["one"], ["one", "two"]])
def test_the_sockets_that_systemd_passes_are_served_instead_of_the_default_one(tmp_path, names):
    paths = [str(tmp_path / name) for name in names]
    with passing([*map(listening, paths)], LLAMBO, "serve", *ECHO) as bridge:
        for path in paths:
            with Files(path) as files:
                assert ask(files, "hello") == "hello"
        log = ended(bridge)
    assert [line for line in log.splitlines() if "serving" in line] == [
        f"llambo: serving unix!{path}" for path in paths
    ]
    assert all(map(os.path.exists, paths))


def test_a_socket_that_systemd_names_line_speaks_the_line_protocol(tmp_path):
    paths = [str(tmp_path / name) for name in ("files", "lines")]
    socks = [*map(listening, paths)]
    with passing(socks, LLAMBO, "serve", *ECHO, names="files:line") as bridge:
        with Files(paths[0]) as files, LineClient(paths[1]) as client:
            assert ask(files, "hello") == "hello"
            assert client.raw("INFER hello") == answer("hello")
        assert "lines, the line protocol" in ended(bridge)


def test_a_socket_that_systemd_has_opened_may_be_named_by_its_option_too(tmp_path):
    paths = [str(tmp_path / name) for name in ("files", "lines", "more")]
    options = ["--socket", paths[0], "--line-socket", paths[1], "--socket", paths[2]]
    socks = [*map(listening, paths[:2])]
    with passing(socks, LLAMBO, "serve", *ECHO, *options, names="files:line") as bridge:
        for path in (paths[0], paths[2]):
            with Files(path) as files:
                assert ask(files, "hello") == "hello"
        with LineClient(paths[1]) as client:
            assert client.raw("INFER hello") == answer("hello")
        ended(bridge)
    assert [os.path.exists(path) for path in paths] == [True, True, False]


def test_the_line_protocol_is_for_unix_sockets_only():
    socks = [socket.create_server(("127.0.0.1", 0))]
    with passing(socks, LLAMBO, "serve", *ECHO, names="line") as bridge:
        assert bridge.wait(DEADLINE) == 1
        assert "the line protocol is for unix sockets only" in bridge.stderr.read()


@pytest.mark.parametrize("kind", ["a file", "a bridge"])
def test_a_line_socket_that_cannot_be_made_is_named(serve, tmp_path, kind):
    path = tmp_path / "taken"
    if kind == "a file":
        path.write_text("mine")
    else:
        serve(*ECHO, "--line-socket", str(path))
    assert f"cannot serve {path}: " in refused(tmp_path, "--line-socket", str(path))
    assert kind == "a bridge" or path.read_text() == "mine"


def test_what_a_client_says_cannot_forge_a_line_of_the_log(serve, tmp_path):
    bridge = serve(*ECHO, "--line-socket", str(tmp_path / "line"))
    with LineClient(tmp_path / "line") as client:
        assert client.command("LOAD 'evil\x1b[2J\rllambo: forged\u2028caf\u00e9'")["status"] == "ok"
    assert "loading evil\\x1b[2J\\rllambo: forged\\u2028caf\u00e9 from" in bridge.log.read_text()


def test_a_tcp_client_of_inetd_is_nobody_to_the_bridge_and_gets_no_line_of_its_log():
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname(), DEADLINE)
        accepted, _ = server.accept()
    serve = [LLAMBO, "serve", "--stdio", *ECHO]
    with client, started(serve, stdin=accepted, stdout=accepted, stderr=accepted) as bridge:
        accepted.close()
        files = Client(client)
        files.negotiate()
        files.attach(0)
        files.walk(0, 1, "ctl")
        files.open(1, int(OWRITE))
        with pytest.raises(RemoteError, match="permission denied"):
            files.write(1, b"QUIT")
        client.shutdown(socket.SHUT_RDWR)
        assert bridge.wait(DEADLINE) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--msize", "100"], "'100' is not a number of bytes from 256 to 1048600"),
        (["--max-fids", "x"], "'x' is not a whole number above 0"),
        (["--max-fids", "0"], "'0' is not a whole number above 0"),
        (["--version-timeout", "-1"], "'-1' is not a number of seconds above 0"),
        (["--socket-mode", "9"], "'9' is not a mode such as \"660\""),
        (["--socket-group", "nosuch"], '--socket-group: there is no group "nosuch"'),
        (["--socket-group", "99999999999"], '--socket-group: there is no group "99999999999"'),
        (["--socket", "tcp!h!1"], "'tcp!h!1' is not the path of a unix socket (for TCP use --tcp)"),
        (["--tcp", "nowhere"], "argument --tcp: 'nowhere' is not HOST:PORT"),
        (["--tcp", "a..b:0"], "argument --tcp: 'a..b:0' is not HOST:PORT"),
        (["--metrics-http", f"{'a' * 64}:0"], "aaa:0' is not HOST:PORT"),
        (["--tcp", "\udcff:0"], "is not HOST:PORT"),
        (["--tcp", "é_:0"], "cannot serve tcp!é_!0: "),
    ],
)
def test_an_option_out_of_range_is_refused_in_words(options, said, tmp_path):
    assert said in refused(tmp_path, *options)


def placed(bridge):
    """A client, once there is a place: those that were there before leave a little later."""

    def attempt():
        try:
            return bridge.client()
        except RemoteError:
            return None

    return bridge.until(attempt)


def test_fewer_connections_are_an_option(serve):
    bridge = serve(*ECHO, "--max-connections", "1")
    with placed(bridge), pytest.raises(RemoteError, match="connections: the server has 1"):
        bridge.client()


def test_a_client_command_says_that_there_are_too_many_connections(serve):
    bridge = serve(*ECHO, "--max-connections", "1")
    with placed(bridge):
        error = bridge.run("status").stderr
    assert error == f"llambo: {bridge.socket}: temporarily out of connections: the server has 1\n"


def test_fewer_fids_are_an_option(serve):
    client = serve(*ECHO, "--max-fids", "2").client()
    client.walk(0, 1, "status")
    with pytest.raises(RemoteError, match="out of fids: a connection has 2"):
        client.walk(0, 2, "status")


def test_fewer_requests_are_an_option(serve):
    with Wire(serve("--engine", "echo:0.05", "--max-requests", "1").socket) as wire:
        wire.attach("new")
        wire.write(1, "prompt", b"an answer that does not come in time")
        wire.open(2, "output")
        wire.send(Tread(2, 0, 100, 1), Tread(2, 0, 100, 2))
        said = "temporarily out of requests: 1 are waiting, flush some"
        assert wire.receive() == Rerror(said, 2)


def test_a_smaller_msize_is_an_option(serve):
    assert serve(*ECHO, "--msize", "4096").client().msize == 4096


def test_a_client_without_a_tversion_is_hung_up_on_in_time(serve):
    bridge = serve(*ECHO, "--version-timeout", "0.1")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(bridge.socket)
        assert select.select([silent], [], [], DEADLINE)[0]
        assert b"no version was agreed on within 0.1 s" in silent.recv(100)


def test_an_idle_client_makes_room_in_time(serve):
    bridge = serve(*ECHO, "--max-connections", "1", "--idle-timeout", "1e-9")
    idle = placed(bridge)
    with bridge.files() as files:
        assert ask(files, "hello") == "hello"
    with pytest.raises((OSError, EOFError, ProtocolError, CodecError)):
        idle.stat(0)


@pytest.mark.parametrize(("lines", "needed"), [(False, 664), (True, 2464)])
def test_the_descriptors_that_the_connections_need_are_asked_for(
    serve, descriptors, tmp_path, lines, needed
):
    _, hard = descriptors
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    options = ["--line-socket", str(tmp_path / "line")] if lines else []
    bridge = serve(*ECHO, "--max-connections", "600", *options)
    soft, _ = bridge.system.rlimit(psutil.RLIMIT_NOFILE)
    assert soft == needed


def test_status_counts_what_the_clients_hold(echo):
    client = echo.client("new")
    client.walk(0, 1, "status")
    client.open(1)
    counts = json.loads(client.read(1))["bridge"]
    assert (counts["connections"], counts["fids"], counts["requests"]) == (1, 2, 0)
    assert counts["tasks"] > 3


def test_a_recording_has_every_message_and_is_for_its_owner_only(serve, tmp_path):
    path = tmp_path / "trace"
    bridge = serve(*ECHO, "--trace", str(path))
    with bridge.files("new") as files:
        assert ask(files, "hello") == "hello"
    bridge.stop()
    assert path.stat().st_mode & 0o777 == 0o600
    events = [record.event for record in read_records(path.read_text().splitlines())]
    assert events.count("begin") == events.count("end") == 2  # the fixture looks in first
    assert events.count("<-") == events.count("->") > 10


def test_a_recording_is_made_private_where_the_file_was_not(serve, tmp_path):
    path = tmp_path / "trace"
    path.write_text("old\n")
    path.chmod(0o644)
    serve(*ECHO, "--trace", str(path))
    assert path.stat().st_mode & 0o777 == 0o600
    assert "old" not in path.read_text()


def test_a_recording_onto_a_full_disk_ends_and_changes_nothing_else(serve):
    bridge = serve(*ECHO, "--trace", "/dev/full")
    with bridge.files() as files:
        assert ask(files, "hello") == "hello"
    assert bridge.stop() == 0
    assert bridge.log.read_text().count("the recording ends here") == 1


def test_a_second_bridge_at_the_same_socket_leaves_the_recording_of_the_first_alone(
    serve, tmp_path
):
    path = tmp_path / "trace"
    bridge = serve(*ECHO, "--trace", str(path))
    recorded = path.read_bytes()
    assert recorded
    refused(tmp_path, "--socket", bridge.socket, "--trace", str(path))
    assert path.read_bytes().startswith(recorded)


def test_the_end_of_a_client_on_standard_input_ends_no_other(serve, tmp_path):
    path = str(tmp_path / "beside")
    with started(
        [LLAMBO, "serve", "--stdio", "--socket", path, *ECHO],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as bridge:  # fmt: skip
        assert bridge.stderr.readline() == f"llambo: serving unix!{path}\n"
        with Files(path) as files:
            bridge.stdin.close()
            assert bridge.stdout.read() == ""  # its connection has ended
            assert ask(files, "still here") == "still here"
        bridge.terminate()
        assert bridge.wait(DEADLINE) == 0


def test_insecure_serves_tcp_beyond_loopback(serve):
    bridge = serve(*ECHO, "--tcp", "0.0.0.0:0", "--insecure")
    host, _, port = bridge.tcp().rpartition("!")
    assert host == "tcp!0.0.0.0"
    assert bridge.run("ask", f"tcp!127.0.0.1!{port}", "hello").stdout == "hello\n"


def test_what_allows_tcp_beyond_loopback_is_said(tmp_path):
    assert "--insecure allows it" in refused(tmp_path, "--tcp", "0.0.0.0:0")


def test_a_recording_that_cannot_be_written_is_named(tmp_path):
    assert f'--trace: "{tmp_path}" is a directory' in refused(tmp_path, "--trace", str(tmp_path))
