"""Which errno a program on a 9pfuse mount gets for each error of the bridge.

9pfuse looks for words in the text, and takes ERANGE where it knows none of them: to choose a text
is to choose an errno. That the text was the expected one, the bridge's log tells.
"""

import errno
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from tests.e2e.conftest import Bridge
from tests.e2e.plan9 import Mount, find_plan9port

PIECE = b"x" * 4096
"""A write that ends no line."""

OPTIONS = (
    "--engine", "echo:20", "--max-answers", "2", "--max-prompt", f"{3 * len(PIECE)}",
    "--max-buffered", f"{3 * len(PIECE)}", "--max-conversation", "100",
)  # fmt: skip


class Mounted:
    """A bridge, its mount, and a session there. root, dir: the directories of both."""

    def __init__(self, bridge, mount):
        self.bridge = bridge
        self.mount = mount
        self.root = self.dir = mount.path

    def log(self):
        return self.bridge.log.read_text()

    def write(self, name, *pieces):
        with self.open(name, os.O_WRONLY) as fd:
            for piece in pieces:
                os.write(fd, piece)

    def read(self, name):
        with self.open(name, os.O_RDONLY) as fd:
            while os.read(fd, 4096):
                pass

    @contextmanager
    def open(self, name, flags):
        fd = os.open(self.dir / name, flags)
        try:
            yield fd
        finally:
            os.close(fd)

    def generate(self):
        """Have an answer run."""
        self.write("prompt", b"word " * 400)
        self.bridge.until(lambda: b'"generating"' in (self.dir / "status").read_bytes())


@contextmanager
def running(folder, *options):
    """A bridge and its mount, over TCP where it serves that."""
    plan9 = find_plan9port(folder / "ns")
    bridge = Bridge(folder, "-D", *options)
    try:
        address = bridge.tcp() if "--tcp" in options else f"unix!{bridge.socket}"
        mount = Mount(plan9, address, folder / "mnt")
        try:
            yield Mounted(bridge, mount)
        finally:
            mount.unmount()
    finally:
        bridge.stop()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with running(tmp_path_factory.mktemp("world"), *OPTIONS) as mounted:
        yield mounted


@pytest.fixture
def s(world):
    """A session of the test's own."""
    with world.open("clone", os.O_RDWR) as clone:
        world.dir = world.root / os.read(clone, 20).decode()
        try:
            yield world
        finally:
            world.dir = world.root
            with suppress(OSError):  # closed by the test
                os.write(clone, b"CLOSE\n")


def check(mounted, text, number, provoke):
    before = len(mounted.log())
    with pytest.raises(OSError) as caught:  # noqa: PT011
        provoke(mounted)
    assert errno.errorcode[caught.value.errno] == number
    sent = mounted.bridge.until(
        lambda: re.findall("Rerror tag [0-9]+ ename (.*)", mounted.log()[before:])
    )
    assert any(error.startswith(text) for error in sent), sent


def writes(name, *pieces):
    return lambda s: s.write(name, *pieces)


FIXED = [
    ("file not found", "ENOENT", lambda s: s.read("nosuch")),
    ("permission denied", "EACCES", writes("status", b"x")),
    ("permission denied", "EACCES", lambda s: os.truncate(s.dir / "status", 0)),
    ("permission denied", "EACCES", lambda s: os.open(s.dir / "new", os.O_CREAT | os.O_WRONLY)),
    ("permission denied", "EACCES", lambda s: os.mkdir(s.dir / "new")),
    ("permission denied", "EACCES", lambda s: os.unlink(s.dir / "status")),
    ("permission denied", "EACCES", lambda s: os.rmdir(s.root / "models")),
    ("wstat prohibited", "ERANGE", lambda s: os.chmod(s.dir / "params", 0o600)),
    ("wstat prohibited", "ERANGE", lambda s: os.rename(s.dir / "params", s.dir / "new")),
    ("wstat prohibited", "ERANGE", lambda s: os.truncate(s.dir / "params", 5)),
]

COMMANDS = [
    ("Unknown command: FROB", "ERANGE", b"FROB"),
    ("No model path provided", "ERANGE", b"LOAD"),
    ("No model name provided", "ERANGE", b"USE"),
    ("No prompt provided", "ERANGE", b"INFER"),
    ("file not found: no model 'other' is loaded; LOAD loads one", "ENOENT", b"USE other"),
    ("file not found: no model 'other' is loaded", "ENOENT", b"FREE other"),
    ("invalid option 'n_x=1': those of LOAD are ", "EINVAL", b"LOAD echo n_x=1"),
    ("invalid n_ctx 'x': it takes a whole number from ", "EINVAL", b"LOAD echo n_ctx=x"),
    ("invalid command: a quote ' is not closed", "EINVAL", b"LOAD 'echo"),
    ("invalid command: it is not UTF-8", "EINVAL", b"LOAD \xff"),
    ("invalid: seed is given twice", "EINVAL", b"INFER seed=1 seed=2 x"),
    ("invalid: 3 prompts at once are more than 2", "EINVAL", b"INFER_MULTI a||b||c"),
]

SETTINGS = [
    ("invalid setting 'frob': ", "EINVAL", "params", b"frob 1"),
    ("invalid temperature '9': ", "EINVAL", "params", b"temperature 9"),
    ("invalid format 'x': ", "EINVAL", "params", b"format x"),
    ("invalid stop 'x': ", "EINVAL", "params", b"stop x"),
    ("invalid params: it is not UTF-8", "EINVAL", "params", b"\xff"),
    ("invalid system prompt: it is not UTF-8", "EINVAL", "system", b"\xff\n"),
    ("invalid line 1: ", "EINVAL", "context", b"no JSON"),
    ("invalid conversation: it is longer than 100 characters", "EINVAL", "context",
     b'{"role":"user","content":"%s"}' % (b"x" * 101)),
]  # fmt: skip


def a_prompt_that_is_written_elsewhere(s):
    with s.open("prompt", os.O_WRONLY) as fd:
        os.write(fd, b"half a question")
        s.write("prompt", b"x")


def a_prompt_that_was_dropped(s):
    with s.open("prompt", os.O_WRONLY) as fd:
        os.write(fd, b"half a question")
        s.write("ctl", b"CANCEL")
        os.write(fd, b", the other half")


def output_of_a_prompt_that_is_dropped(s):
    def read_comes():
        os.write(fd, b" and more")  # so that the reader does not submit it
        return "Tread" in s.log()[before:]

    before = len(s.log())
    with s.open("prompt", os.O_WRONLY) as fd, ThreadPoolExecutor(1) as pool:
        os.write(fd, b"half a question")
        reading = pool.submit(s.read, "output")
        s.bridge.until(read_comes)
        s.write("ctl", b"CANCEL")
        reading.result()


def a_prompt_that_a_reader_has_submitted(s):
    with s.open("prompt", os.O_WRONLY) as fd:
        os.write(fd, b"half")
        s.read("output")
        os.write(fd, b"the other half")


def output_of(prompt):
    def provoke(s):
        s.write("prompt", prompt)
        s.read("output")

    return provoke


def while_generating(name, text):
    def provoke(s):
        s.generate()
        s.write(name, text)

    return provoke


def more_answers_than_there_may_be(s):
    s.write("ctl", b"INFER_MULTI " + b"word " * 400 + b"||" + b"word " * 400)
    s.write("prompt", b"x")


def output_of_a_model_that_is_freed(s):
    s.generate()
    try:
        with s.open("output", os.O_RDONLY) as fd:
            assert os.read(fd, 4).startswith(b"word")
            s.write("ctl", b"FREE")
            while os.read(fd, 4096):
                pass
    finally:
        s.write("ctl", b"LOAD echo")


def a_closed_session(s):
    with s.open("params", os.O_WRONLY) as fd:
        s.write("ctl", b"CLOSE")
        os.write(fd, b"seed 7")


def a_file_of_a_closed_session(s):
    s.write("ctl", b"CLOSE")
    s.read("usage")


def unfinished_lines_everywhere(s):
    with s.open("ctl", os.O_WRONLY) as fd:
        for _ in range(3):
            os.write(fd, PIECE)
        s.write("params", PIECE)


CONVERSATION = [
    ("no prompt yet", "ERANGE", lambda s: s.read("output")),
    ("busy: an answer runs here; CANCEL it", "EBUSY", while_generating("prompt", b"x")),
    ("busy: cannot reset while an answer runs", "EBUSY", while_generating("ctl", b"RESET")),
    ("busy: cannot change the conversation while an answer runs", "EBUSY",
     while_generating("context", b'{"role":"user","content":"x"}')),
    ("busy: answers run on echo as it is; FREE it first", "EBUSY",
     while_generating("ctl", b"LOAD echo n_ctx=99")),
    ("busy: 2 requests waiting, at most 2", "EBUSY", more_answers_than_there_may_be),
    ("busy: another prompt is being written here", "EBUSY", a_prompt_that_is_written_elsewhere),
    ("invalid: this prompt was dropped", "EINVAL", a_prompt_that_was_dropped),
    ("invalid: this prompt is submitted already", "EINVAL", a_prompt_that_a_reader_has_submitted),
    ("invalid prompt: it is longer than 12288 bytes", "EINVAL", writes("prompt", *[PIECE] * 4)),
    ("invalid prompt: it is not UTF-8", "EINVAL", output_of(b"\xff")),
    ("invalid prompt: it is empty", "EINVAL", output_of(b"\n")),
    ("invalid: the line is longer than 12288 bytes", "EINVAL", writes("ctl", *[PIECE] * 4)),
    ("invalid command: its arguments are longer than 8192 characters", "EINVAL",
     writes("ctl", b"LOAD " + PIECE[5:], PIECE, b"xxxxxx")),
    ("invalid: this session was not cloned", "EINVAL",
     lambda s: (s.root / "ctl").write_bytes(b"CLOSE")),
    ("i/o error: the prompt that was being written here was dropped", "EIO",
     output_of_a_prompt_that_is_dropped),
    ("i/o error: model echo was freed", "EIO", output_of_a_model_that_is_freed),
    ("i/o error: this session is closed", "EIO", a_closed_session),
    ("file not found", "ENOENT", a_file_of_a_closed_session),
    ("temporarily out of room: unfinished lines take 12288 bytes", "EAGAIN",
     unfinished_lines_everywhere),
]  # fmt: skip


@pytest.mark.parametrize(("text", "number", "provoke"), FIXED)
def test_a_fixed_text_of_9p_has_this_errno(s, text, number, provoke):
    check(s, text, number, provoke)


@pytest.mark.parametrize(("text", "number", "command"), COMMANDS)
def test_a_command_that_is_refused_has_this_errno(s, text, number, command):
    check(s, text, number, writes("ctl", command))


@pytest.mark.parametrize(("text", "number", "name", "line"), SETTINGS)
def test_a_setting_that_is_refused_has_this_errno(s, text, number, name, line):
    check(s, text, number, writes(name, line))


@pytest.mark.parametrize(("text", "number", "provoke"), CONVERSATION)
def test_what_goes_wrong_in_a_conversation_has_this_errno(s, text, number, provoke):
    check(s, text, number, provoke)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """A bridge without a model, mounted over TCP by nobody in particular."""
    folder = tmp_path_factory.mktemp("stranger")
    (folder / "models").mkdir()
    (folder / "models" / "notes.gguf").write_text("no model")
    options = "--model", "none", "--models", str(folder / "models"), "--tcp", "127.0.0.1:0"
    with running(folder, *options) as mounted:
        yield mounted


@pytest.mark.parametrize(
    ("text", "number", "name", "pieces"),
    [
        ("no model loaded: write LOAD path to ctl", "ERANGE", "prompt", [b"hello"]),
        ("permission denied", "EACCES", "ctl", [b"QUIT"]),
        ("permission denied: only models under --models", "EACCES", "ctl", [b"LOAD /etc/passwd"]),
        ("permission denied: '..' leads out of ", "EACCES", "ctl", [b"LOAD ../../etc/passwd"]),
        ("file not found: no model called 'nosuch'", "ENOENT", "ctl", [b"LOAD nosuch"]),
        ("invalid path: it is longer than ", "EINVAL", "ctl", [b"LOAD " + PIECE[5:], b"xxxxxx"]),
        ("i/o error: ", "EIO", "ctl", [b"LOAD notes"]),
    ],
)
def test_a_stranger_over_tcp_gets_this_errno(stranger, text, number, name, pieces):
    check(stranger, text, number, writes(name, *pieces))


def test_too_many_sessions_has_this_errno(tmp_path):
    limit = "--max-sessions", "1"
    with running(tmp_path, "--engine", "echo", *limit) as one, one.open("clone", os.O_RDWR):
        check(one, "too many sessions", "ERANGE", lambda s: s.read("clone"))


def test_too_many_reads_that_wait_have_this_errno(tmp_path):
    with running(tmp_path, "--engine", "echo:0.05", "--max-requests", "3") as few:
        few.write("prompt", b"hello")
        readers = [few.mount.start("cat", "output") for _ in range(3)]
        few.bridge.until(lambda: few.log().count("Tread tag") - few.log().count("Rread tag") == 3)
        check(few, "temporarily out of requests: ", "EAGAIN", lambda s: s.read("output"))
        few.bridge.process.kill()
        for reader in readers:
            reader.communicate()


def test_too_many_open_files_have_this_errno(tmp_path):
    def provoke(s):
        for _ in range(20):
            fds.append(os.open(s.dir / "usage", os.O_RDONLY))

    fds = []
    with running(tmp_path, "--engine", "echo", "--max-fids", "20") as few:
        check(few, "temporarily out of fids: ", "EAGAIN", provoke)
        for fd in fds:
            os.close(fd)


def test_a_bridge_that_shuts_down_has_this_errno(tmp_path):
    def provoke(s):
        s.bridge.process.send_signal(signal.SIGTERM)
        while s.bridge.process.poll() is None:
            s.write("ctl", b"LOAD echo")

    with running(tmp_path, "--engine", "echo:20") as ending:
        ending.generate()
        check(ending, "busy: the bridge is shutting down", "EBUSY", provoke)


@pytest.mark.parametrize(
    ("number", "provoke"),
    [
        ("EISDIR", lambda s: os.open(s.root / "models", os.O_WRONLY)),
        ("ENOTDIR", lambda s: os.open(s.root / "status" / "x", os.O_RDONLY)),
        ("EPERM", lambda s: os.chown(s.root / "params", 1, 1)),
        ("EPERM", lambda s: os.link(s.root / "params", s.root / "new")),
        ("ENOSYS", lambda s: os.symlink("params", s.root / "new")),
        ("EXDEV", lambda s: os.rename(s.root / "params", s.dir / "params")),
    ],
)
def test_the_kernel_or_9pfuse_refuses_this_by_itself(s, number, provoke):
    with pytest.raises(OSError) as caught:  # noqa: PT011
        provoke(s)
    assert errno.errorcode[caught.value.errno] == number
