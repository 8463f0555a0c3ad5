"""What `llambo pull` says when something is wrong, and that it leaves nothing half done."""

import os
import re
import shutil
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.e2e.conftest import LLAMBO
from tests.e2e.pull.conftest import (
    ANOTHER_PROGRAM,
    CONTENT,
    FILE,
    HALF,
    REPO,
    failed,
    gguf,
    interrupted,
)

OF_ITS_OWN = ["unshare", "--mount", "--map-root-user"]
"""What runs a command with mounts of its own."""


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


def test_a_file_much_longer_than_the_hub_says_is_not_read_to_its_end(pull, hub):
    hub.repos[REPO][FILE] = gguf(1000) + bytes(64 << 20)
    hub.claimed[FILE] = 1000
    came = re.search(r"no model: (\d+) bytes came where the hub has 1000", pull(REPO).stderr)
    assert int(came[1]) < 1 << 20
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


def test_without_huggingface_hub_pull_says_what_to_install(pull):
    code = (
        "import sys; sys.modules['huggingface_hub'] = None; "
        "from ctl.cli import main; sys.argv = ['llambo', 'pull', 'org/x']; main()"
    )
    assert failed(pull(command=(sys.executable, "-c", code))) == (
        "pull needs the Python package huggingface_hub: "
        f"{sys.executable} -m pip install huggingface_hub filelock"
    )


def test_a_word_that_names_no_repo(pull):
    assert failed(pull("x")).startswith("x names no repo: that is OWNER/NAME, ")
