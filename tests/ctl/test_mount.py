"""What `llambo mount` decides: which program mounts, with which command, and what it refuses."""

import os

import pytest

from ctl.address import CommandError
from ctl.mount import Choice, Machine, Request, check_directory, choose, command_of
from ctl.mounted import mounted_at, read_table, resolve

ALL = {
    "linux": True, "root": True, "kernel_9p": True, "pfuse": "9pfuse", "fusermount": True,
    "dev_fuse": True,
}  # fmt: skip
KERNEL, PFUSE = Choice("kernel", "mount"), Choice("9pfuse", "9pfuse")


def machine(**lacking):
    return Machine(**{**ALL, **lacking})


def request(address="unix!/run/s", directory="mnt", **options):
    return Request(address, directory, **options)


def refusal(function, *args, **options):
    with pytest.raises(CommandError) as info:
        function(*args, **options)
    return str(info.value)


# Which


def test_root_mounts_with_the_kernel():
    assert choose(request(), machine()) == KERNEL


def test_others_mount_with_9pfuse_and_are_told_why():
    choice = choose(request(), machine(root=False))
    assert choice.mounter == "9pfuse"
    assert choice.because.startswith("the kernel's 9p needs root")


def test_a_kernel_without_9p_leaves_9pfuse():
    choice = choose(request(), machine(kernel_9p=False))
    assert choice == Choice("9pfuse", "9pfuse", "this kernel has no 9p")


def test_9pfuse_is_called_by_the_path_where_it_was_found():
    choice = choose(request(), machine(kernel_9p=False, pfuse="/plan9/bin/9pfuse"))
    assert command_of(request(), choice, "/mnt")[0] == "/plan9/bin/9pfuse"


def test_with_takes_9pfuse_though_the_kernel_could():
    assert choose(request(mounter="9pfuse"), machine()) == PFUSE


def test_with_kernel_takes_nothing_else():
    wanted = request(mounter="kernel")
    assert refusal(choose, wanted, machine(kernel_9p=False)) == "this kernel has no 9p"


def test_who_is_not_root_is_given_the_command_for_sudo_with_the_address():
    wanted = request("unix!/run/a b", "mnt", mounter="kernel")
    said = refusal(choose, wanted, machine(root=False))
    assert said == "the kernel's 9p needs root: sudo llambo mount 'unix!/run/a b' mnt"


def test_where_there_is_nothing_it_says_what_to_install():
    said = refusal(choose, request(), machine(kernel_9p=False, pfuse=None))
    assert said.startswith("this kernel has no 9p; 9pfuse is neither on the PATH nor in $PLAN9/bin")
    assert "install plan9port (https://" in said


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        ({"fusermount": False}, "9pfuse needs fusermount: apt-get install fuse3"),
        ({"dev_fuse": False}, "9pfuse needs /dev/fuse, readable and writable: modprobe fuse"),
    ],
)
def test_what_9pfuse_needs_is_named(lacking, said):
    assert said in refusal(choose, request(), machine(kernel_9p=False, **lacking))


def test_a_dry_run_prints_a_named_mounter_whatever_this_machine_has():
    nothing = machine(root=False, kernel_9p=False, pfuse=None)
    assert choose(request(mounter="kernel"), nothing, dry=True) == KERNEL
    assert choose(request(mounter="9pfuse"), nothing, dry=True) == PFUSE


def test_elsewhere_than_on_linux_it_gives_the_9pfuse_command():
    said = refusal(choose, request(), machine(linux=False))
    assert said.startswith("llambo mount is for Linux; ")
    assert said.endswith(": 9pfuse 'unix!/run/s' DIR")


# The commands


@pytest.mark.parametrize(
    ("wanted", "options", "source"),
    [
        (request(), "trans=unix,uname=glenda", "/run/s"),
        (request("/run/a,b c"), "trans=unix,uname=glenda", "/run/a,b c"),
        (request(aname="new"), "trans=unix,uname=glenda,aname=new", "/run/s"),
        (request("tcp!localhost!5640"), "trans=tcp,port=5640,uname=glenda", "127.0.0.1"),
    ],
)
def test_the_kernels_command(wanted, options, source, monkeypatch):
    monkeypatch.setenv("LOGNAME", "glenda")
    assert command_of(wanted, KERNEL, "/mnt") == [
        "mount", "-t", "9p", "-o", options, source, "/mnt"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (request(), ["unix!/run/s"]),
        (request("/run/a,b c"), ["unix!/run/a,b c"]),
        (request(aname="new"), ["-a", "new", "unix!/run/s"]),
        (request("tcp!::1!5640"), ["tcp!::1!5640"]),
    ],
)
def test_9pfuses_command(wanted, words):
    assert command_of(wanted, PFUSE, "/mnt") == ["9pfuse", *words, "/mnt"]


def test_a_relative_socket_is_given_with_its_whole_path(monkeypatch):
    monkeypatch.chdir("/usr")
    assert command_of(request("./s"), PFUSE, "/mnt")[1] == "unix!/usr/s"


@pytest.mark.parametrize("choice", [KERNEL, PFUSE])
def test_a_socket_path_that_no_program_can_connect_to_is_refused(choice):
    path = "/" + 107 * "x"
    said = refusal(command_of, request(path), choice, "/mnt")
    assert said == f"{path}: a socket's path has at most 107 bytes"


def test_9pfuse_reads_an_exclamation_mark_as_the_end_of_the_path():
    said = refusal(command_of, request("/run/a!b"), PFUSE, "/mnt")
    assert said == "/run/a!b: 9pfuse takes no '!' in a socket's path"


def test_the_kernel_reads_a_comma_as_the_end_of_an_option():
    assert "a,b" in refusal(command_of, request(aname="a,b"), KERNEL, "/mnt")


def test_the_kernel_has_no_ipv6():
    said = refusal(command_of, request("tcp!::1!5640"), KERNEL, "/mnt")
    assert said.startswith("::1: the kernel's 9p needs an IPv4 address")


# Where


def test_a_directory_that_is_not_there_is_refused_with_the_command_that_makes_it(tmp_path):
    path = f"{tmp_path}/a b"
    assert refusal(check_directory, path) == f"{path} does not exist: mkdir '{path}'"


def test_a_file_is_no_place_for_a_mount(tmp_path):
    (tmp_path / "file").touch()
    assert refusal(check_directory, f"{tmp_path}/file") == f"{tmp_path}/file: Not a directory"


def test_a_directory_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "file").touch()
    assert refusal(check_directory, str(tmp_path)).startswith(f"{tmp_path} is not empty")


def test_a_mount_point_is_refused():
    assert refusal(check_directory, "/proc") == "/proc is a mount point already"


def test_a_link_leads_to_its_directory(tmp_path):
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to("dir")
    assert resolve(f"{tmp_path}/link") == os.path.realpath(tmp_path / "dir")


# What is mounted

TABLE = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
33 32 0:30 / /n/llm rw,relatime shared:1 - 9p /run/a\040b rw,uname=root,access=user,trans=unix
34 32 0:31 / /mnt/c rw - 9p drvfs rw,trans=fd,rfd=8,wfd=8
35 32 0:32 / /host ro - 9p host ro,trans=virtio
42 27 0:39 / /home/a\040b\134c rw,nosuid - fuse /dev/fuse rw,user_id=0,group_id=0
43 27 0:40 / /home/ssh rw,nosuid - fuse.sshfs me@there: rw,user_id=0,group_id=0
"""


def test_the_table_tells_the_mounts_of_bridges_from_others():
    found = {each.path: (each.by_kernel, each.by_9pfuse) for each in read_table(TABLE)}
    assert found == {
        "/proc": (False, False),
        "/n/llm": (True, False),
        "/mnt/c": (False, False),
        "/host": (False, False),
        "/home/a b\\c": (False, True),
        "/home/ssh": (False, False),
    }


def test_nothing_is_found_where_nothing_is_mounted():
    assert mounted_at("/nowhere") is None
