"""`llambo pull` as its users have it, against a stand-in of the Hugging Face hub."""

import os
import pty
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
from hashlib import sha256
from types import SimpleNamespace

import pytest
from huggingface_hub import try_to_load_from_cache

from benchmarks.bridge import until
from tests.e2e import hub as stand_in
from tests.e2e.conftest import DEADLINE, LLAMBO

REPO = "org/x-GGUF"
FILE = "x-Q4_K_M.gguf"
UNTIDY = ("HF_", "HUGGING", "XDG_", "TRANSFORMERS", "no_proxy", "http", "HTTP", "all_proxy", "ALL")
"""Beginnings of the variables of a developer that could lead elsewhere."""

OF_ITS_OWN = ["unshare", "--mount", "--map-root-user"]
"""What runs a command with mounts of its own."""

ANOTHER_PROGRAM = (
    sys.executable, "-c",
    "import huggingface_hub, sys; huggingface_hub.hf_hub_download(*sys.argv[1:])",
)  # fmt: skip


def gguf(size, seed=1):
    """A file of ``size`` bytes with a header."""
    header = struct.pack("<4sIQQ", b"GGUF", 3, 0, 0)
    return header + random.Random(seed).randbytes(size - len(header))


CONTENT = gguf(300_000)
HALF = len(CONTENT) // 2


@pytest.fixture
def hub():
    with stand_in.serving({REPO: {"README.md": b"# x", FILE: CONTENT}}) as hub:
        yield hub


class Puller:
    """The command, with a cache of its own."""

    def __init__(self, folder, hub):
        self.cache = folder / "hub"
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith(UNTIDY)},
            "HOME": str(folder),
            "HF_HOME": str(folder),
            "HF_ENDPOINT": hub.address,
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def __call__(self, *args, before=(), command=(LLAMBO, "pull"), **env):
        return subprocess.run(
            [*before, *command, *args], capture_output=True, text=True, timeout=DEADLINE,
            check=False, env=self.env | env,
        )  # fmt: skip

    def start(self, *args):
        return subprocess.Popen(
            [LLAMBO, "pull", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=self.env,
        )  # fmt: skip

    def blobs(self):
        """What lies in the cache: sizes by suffix."""
        return {path.suffix: path.stat().st_size for path in self.cache.glob("models--*/blobs/*")}

    def named(self):
        """What has a final name."""
        return [path for path in self.cache.glob("models--*/snapshots/*/**/*") if path.is_file()]


@pytest.fixture
def pull(tmp_path, hub):
    return Puller(tmp_path, hub)


def failed(done):
    """What it said, which has to be one line."""
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("llambo: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("llambo: ").removesuffix("\n")


def test_pull_prints_the_path_and_how_to_load_it(pull):
    done = pull(REPO)
    assert done.returncode == 0
    with open(done.stdout.removesuffix("\n"), "rb") as file:
        assert file.read() == CONTENT
    assert done.stderr.startswith(f"{FILE}, 300.0 kB\n")
    assert done.stderr.endswith("load it with: llambo load x-Q4_K_M\n")


def test_other_programs_find_it_in_the_cache(pull):
    done = pull(REPO)
    assert try_to_load_from_cache(REPO, FILE, cache_dir=pull.cache) == done.stdout[:-1]


def test_what_is_there_is_not_downloaded_again(pull, hub):
    first = pull(REPO)
    second = pull(REPO)
    assert (second.returncode, second.stdout) == (0, first.stdout)
    assert second.stderr.startswith(f"{FILE} is here already\n")
    assert hub.requested == [""]


def test_what_another_program_brought_is_not_downloaded_again(pull, hub):
    pull(REPO, FILE, command=ANOTHER_PROGRAM)
    assert "is here already" in pull(REPO).stderr
    assert hub.requested == [""]


def test_elsewhere_than_on_a_terminal_progress_is_a_line_every_tenth(pull):
    lines = pull(REPO).stderr.splitlines()
    assert len([line for line in lines if "%" in line]) <= 10
    assert any(line.startswith("100%  300.0 kB of 300.0 kB, ") for line in lines)


def test_on_a_terminal_progress_is_a_bar(pull):
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [LLAMBO, "pull", REPO], stdout=subprocess.PIPE, stderr=theirs, env=pull.env
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while data := os.read(ours, 4096):
                shown += data
        except OSError:  # the other end is closed
            os.close(ours)
    assert process.returncode == 0
    assert "━━━".encode() in shown
    assert b"300.0/300.0 kB" in shown


def interrupted(pull, hub):
    """A download that got ^C when half of the file was there; what it said."""
    hub.hold = HALF
    process = pull.start(REPO)
    assert until(lambda: pull.blobs().get(".incomplete") == HALF)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out) == (130, "")
    hub.hold = None
    return err


def test_an_interrupted_pull_says_that_another_goes_on(pull, hub):
    assert interrupted(pull, hub).splitlines()[-1] == (
        f"llambo: interrupted: 150.0 kB of {FILE} is kept, and the same command goes on from there"
    )
    assert pull.named() == []


def test_a_pull_that_is_interrupted_before_anything_came_says_so(pull, hub):
    hub.hold = 0
    process = pull.start(REPO)
    assert until(lambda: hub.requested)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=DEADLINE)[1].splitlines()[-1] == (
        "llambo: interrupted before anything came"
    )
    assert process.returncode == 130


def test_a_pull_goes_on_where_an_interrupted_one_ended(pull, hub):
    interrupted(pull, hub)
    done = pull(REPO)
    assert done.returncode == 0
    assert "150.0 kB are here already; going on from there\n" in done.stderr
    assert hub.requested == ["", f"bytes={HALF}-"]
    assert hub.sent == len(CONTENT)
    assert pull.blobs() == {"": len(CONTENT)}


def test_a_killed_pull_is_gone_on_with_too(pull, hub):
    hub.hold = HALF
    process = pull.start(REPO)
    assert until(lambda: pull.blobs().get(".incomplete") == HALF)
    process.kill()
    process.communicate()
    hub.hold = None
    assert pull(REPO).returncode == 0
    assert hub.requested == ["", f"bytes={HALF}-"]


def test_a_pull_that_was_interrupted_at_the_end_asks_for_nothing(pull, hub):
    blob = pull.cache / "models--org--x-GGUF/blobs" / f"{sha256(CONTENT).hexdigest()}.incomplete"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(CONTENT)
    assert pull(REPO).returncode == 0
    assert (hub.requested, pull.blobs()) == ([], {"": len(CONTENT)})


def test_a_hub_that_sends_half_a_file_is_gone_on_with_by_the_next_pull(pull, hub):
    hub.cut = HALF
    done = pull(REPO, "--retries", "0")
    assert (done.returncode, done.stdout) == (1, "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"llambo: the connection was lost after 150.0 kB of {FILE} (")
    assert last.endswith("; the same command goes on from there")
    assert pull.named() == []
    assert pull.blobs() == {".incomplete": HALF}
    hub.cut = None
    assert pull(REPO).returncode == 0
    assert hub.requested == ["", f"bytes={HALF}-"]


def test_a_lost_connection_is_gone_on_with_by_itself(pull, hub):
    hub.cut = HALF
    done = pull(REPO)
    assert done.returncode == 0
    assert "; going on in 1 s\n" in done.stderr
    assert hub.requested == ["", f"bytes={HALF}-"]
    assert hub.sent == len(CONTENT)


def test_a_hub_without_ranges_is_taken_from_the_beginning(pull, hub):
    interrupted(pull, hub)
    hub.ranges = False
    done = pull(REPO)
    assert done.returncode == 0
    assert "the hub gives the file from its beginning only\n" in done.stderr
    assert pull.blobs() == {"": len(CONTENT)}


def test_a_hub_that_tells_no_sizes_will_do(pull, hub):
    hub.sizes = False
    assert pull(REPO).returncode == 0
    assert pull.blobs() == {"": len(CONTENT)}


def test_all_parts_of_a_split_model_are_brought(pull, hub):
    parts = {f"y-0000{n}-of-00002.gguf": gguf(1000, n) for n in (1, 2)}
    hub.repos["org/y"] = parts
    done = pull("org/y")
    assert done.stdout.endswith("/y-00001-of-00002.gguf\n")
    assert done.stderr.endswith("load it with: llambo load y\n")
    assert {path.name: path.read_bytes() for path in pull.named()} == parts


def test_of_a_split_model_only_what_is_missing_is_brought(pull, hub):
    hub.repos["org/y"] = {f"y-0000{n}-of-00002.gguf": gguf(1000, n) for n in (1, 2)}
    hub.claimed["y-00002-of-00002.gguf"] = 2000
    assert pull("org/y", "--retries", "0").returncode == 1
    hub.claimed.clear()
    hub.requested.clear()
    assert pull("org/y").returncode == 0
    assert hub.requested == []


def test_a_quantisation_is_taken_by_its_name(pull, hub):
    hub.repos[REPO]["sub/x-Q8_0.gguf"] = gguf(1000, 8)
    assert pull(f"hf.co/{REPO}:q8_0").stdout.endswith("/sub/x-Q8_0.gguf\n")


def test_which_model_is_not_clear_says_which_there_are(pull, hub):
    hub.repos[REPO] = {"x-Q8_0.gguf": gguf(2000), "x-Q2_K.gguf": gguf(1000)}
    done = pull(REPO)
    assert (done.returncode, done.stderr) == (
        1,
        f"llambo: {REPO} has 2 models; name one, as in llambo pull {REPO}:x-Q2_K.gguf\n"
        "  x-Q2_K.gguf  1.0 kB\n"
        "  x-Q8_0.gguf  2.0 kB\n",
    )


def test_a_repo_that_is_not_there(pull, hub):
    assert failed(pull("org/none")) == (
        f"{hub.address} has no repo org/none, or it is private: then set HF_TOKEN to a token "
        "that may read it (or run hf auth login)"
    )


def test_a_file_that_the_hub_lists_and_does_not_have(pull, hub):
    hub.status["resolve"] = (404, "EntryNotFound")
    assert failed(pull(REPO)).startswith(f"the hub has no such file: {hub.address}/{REPO}/")


@pytest.mark.parametrize("kind", ["api", "resolve"])
def test_a_hub_that_answers_500(pull, hub, kind):
    hub.status[kind] = (500, "")
    assert failed(pull(REPO)) == (
        f"{hub.address} answers 500 Internal Server Error; try again later"
    )
    assert pull.blobs() == {}


def test_a_download_that_answers_500_leaves_what_came_before(pull, hub):
    interrupted(pull, hub)
    hub.status["cdn"] = (500, "")
    done = pull(REPO)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"llambo: {hub.address} answers 500 Internal Server Error; try again later"
    )
    assert pull.blobs() == {".incomplete": HALF}


def test_a_gated_repo_says_what_to_do(pull, hub):
    hub.status["resolve"] = (403, "GatedRepo")
    text = failed(pull(REPO))
    assert text.startswith(f"{REPO} is gated: accept its terms at {hub.address}/{REPO}, and set")
    assert "HF_TOKEN" in text


def test_a_repo_that_the_token_may_not_read(pull, hub):
    hub.status["api"] = (403, "")
    text = failed(pull(REPO))
    assert text.startswith(f"{hub.address} does not give {REPO} to us (403 Forbidden): ")
    assert "HF_TOKEN" in text


def test_a_private_repo_is_read_with_a_token_that_only_the_hub_sees(pull, hub):
    hub.token = "secret"
    assert "HF_TOKEN" in failed(pull(REPO))
    hub.tokens.clear()
    assert pull(REPO, HF_TOKEN="secret").returncode == 0
    assert {token for kind, token in hub.tokens if kind != "cdn"} == {"Bearer secret"}
    assert {token for kind, token in hub.tokens if kind == "cdn"} == {None}


def test_a_file_that_is_no_gguf_is_removed(pull, hub):
    hub.repos[REPO] = {FILE: b"<html>" * 100}
    done = pull(REPO)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"llambo: {FILE} is no model: not a GGUF file; it was removed"
    )
    assert (pull.blobs(), pull.named()) == ({}, [])


def test_what_another_program_brought_that_is_no_gguf_is_left_alone(pull, hub):
    hub.repos[REPO] = {FILE: b"<html>"}
    pull(REPO, FILE, command=ANOTHER_PROGRAM)
    done = pull(REPO)
    assert (done.returncode, done.stdout) == (1, "")
    assert "llambo: what is in the cache is no model: not a GGUF file: /" in done.stderr
    assert pull.blobs() == {"": 6}


def test_a_file_that_is_not_what_the_hub_says_is_removed(pull, hub):
    hub.sha256 = "0" * 64
    done = pull(REPO)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"llambo: {FILE} is no model: what came does not have the SHA-256 that the hub names; "
        "it was removed"
    )
    assert (pull.blobs(), pull.named()) == ({}, [])


def test_a_file_longer_than_the_hub_says_is_removed(pull, hub):
    hub.claimed[FILE] = len(CONTENT) - 1
    assert "it was removed" in pull(REPO).stderr
    assert (pull.blobs(), pull.named()) == ({}, [])


def test_a_file_too_long_for_http_says_how_it_can_be_had(pull, hub):
    hub.claimed[FILE] = 60_000_000_000
    assert failed(pull(REPO)) == (
        f"{FILE} has 60.0 GB, more than the hub gives over HTTP: "
        f"hf download {REPO} {FILE} gets it into the same cache"
    )


@pytest.fixture
def small_disk(pull):
    """A disk of 1 MB at the cache: a function that pulls with it, and lists what is left."""
    if subprocess.run([*OF_ITS_OWN, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace is to be had here: run as root")
    pull.cache.mkdir()

    def run():
        script = (
            f'mount -t tmpfs -o size=1m tmpfs "{pull.cache}" && {LLAMBO} pull {REPO}; echo $?; '
            f'cd "{pull.cache}" && find . -name "*.gguf"'
        )
        done = pull(before=[*OF_ITS_OWN, "sh", "-c", script], command=())
        status, *left = done.stdout.split()
        return SimpleNamespace(status=int(status), left=left, said=done.stderr.splitlines()[-1])

    return run


def test_a_disk_without_room_is_seen_before_the_download(pull, hub, small_disk):
    hub.repos[REPO][FILE] = gguf(2_000_000)
    done = small_disk()
    assert (done.status, done.left) == (1, [])
    assert done.said.startswith(f"llambo: the disk of {pull.cache} has no room: 2.0 MB are to come")
    assert hub.requested == []


def test_a_disk_that_gets_full_ends_the_download(pull, hub, small_disk):
    hub.repos[REPO][FILE] = gguf(2_000_000)
    hub.sizes = False
    done = small_disk()
    assert (done.status, done.left) == (1, [])
    assert done.said == (
        f"llambo: the disk of {pull.cache} is full: make room there, and pull again"
    )
    assert hub.requested == [""]


def test_a_cache_that_may_not_be_written_to(pull):
    pull.cache.mkdir()
    pull.cache.chmod(0o500)
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.getuid() == 0 else []
    if powerless and not shutil.which("setpriv"):
        pytest.skip("root may write everywhere, and setpriv is missing: install util-linux")
    text = failed(pull(REPO, before=powerless))
    assert text.startswith(f"{pull.cache}/")
    assert text.endswith(": Permission denied")


def test_a_cache_that_is_no_folder(pull):
    pull.cache.write_text("")
    assert failed(pull(REPO)).startswith(f"{pull.cache}")


def test_a_hub_that_nobody_serves(pull):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    text = failed(pull(REPO, HF_ENDPOINT=address))
    assert text == f"{address} cannot be reached: Connection refused"


def test_a_host_that_nobody_knows(pull):
    text = failed(pull(REPO, HF_ENDPOINT="http://hub.invalid"))
    assert text.startswith("http://hub.invalid cannot be reached: ")


@pytest.mark.parametrize("address", ["hub.example", "ftp://hub", "http://hub:port", "http://"])
def test_an_endpoint_that_is_no_address(pull, address):
    text = failed(pull(REPO, HF_ENDPOINT=address))
    assert text == f"HF_ENDPOINT is no address of a hub: {address}"


@pytest.mark.parametrize("answer", [b"<html>please log in</html>", b"[]", b"{}", b'"x"'])
def test_what_answers_is_no_hub(pull, hub, answer):
    hub.garbage = answer
    assert failed(pull(REPO)) == f"what answers at {hub.address} is no hub"


def test_a_proxy_that_is_no_address(pull):
    assert "Unknown scheme for proxy" in failed(pull(REPO, http_proxy="x://proxy"))


def test_a_file_of_the_hub_does_not_leave_the_cache(pull, hub):
    hub.repos[REPO] = {"../../x.gguf": CONTENT}
    failed(pull(REPO))
    assert pull.blobs() == {}


def test_offline_mode_is_told(pull):
    assert failed(pull(REPO, HF_HUB_OFFLINE="1")) == (
        "HF_HUB_OFFLINE is set, so the hub is not asked"
    )


def test_two_pulls_of_a_file_do_not_disturb_each_other(pull, hub):
    hub.hold = HALF
    first = pull.start(REPO)
    assert until(lambda: pull.blobs().get(".incomplete") == HALF)
    assert failed(pull(REPO)) == f"another program is downloading {FILE} already"
    first.kill()
    first.communicate()


def test_without_huggingface_hub_pull_says_what_to_install(pull):
    code = (
        "import sys; sys.modules['huggingface_hub'] = None; "
        "from ctl.cli import main; sys.argv = ['llambo', 'pull', 'org/x']; main()"
    )
    assert failed(pull(command=(sys.executable, "-c", code))) == (
        "pull needs the Python package huggingface_hub: pip install 'llambo[hub]'"
    )


def test_a_word_that_names_no_repo(pull):
    assert failed(pull("x")).startswith("x names no repo: that is OWNER/NAME, ")
