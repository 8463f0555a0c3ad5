"""`llambo pull` as its users have it: what it brings, and how it goes on with what it began."""

import os
import pty
import signal
import subprocess
from hashlib import sha256

from huggingface_hub import try_to_load_from_cache

from benchmarks.bridge import until
from tests.e2e.conftest import DEADLINE, LLAMBO
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


def test_pull_prints_the_path_and_how_to_load_it(pull):
    done = pull(REPO)
    assert done.returncode == 0
    with open(done.stdout.removesuffix("\n"), "rb") as file:
        assert file.read() == CONTENT
    assert done.stderr.startswith(f"{FILE}, 300.0 kB\n")
    assert done.stderr.endswith("load it with: llambo load x-Q4_K_M\n")


def test_a_model_that_no_bridge_finds_is_loaded_by_its_path(pull, hub):
    hub.repos[REPO] = {"a/b/c/d/$x.gguf": gguf(1000)}
    done = pull(REPO)
    assert done.stderr.endswith(f"load it with: llambo load '{done.stdout.strip()}'\n")


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


def test_a_private_repo_is_read_with_a_token_that_only_the_hub_sees(pull, hub):
    hub.token = "secret"
    assert "HF_TOKEN" in failed(pull(REPO))
    hub.tokens.clear()
    assert pull(REPO, HF_TOKEN="secret").returncode == 0
    assert {token for kind, token in hub.tokens if kind != "cdn"} == {"Bearer secret"}
    assert {token for kind, token in hub.tokens if kind == "cdn"} == {None}


def test_two_pulls_of_a_file_do_not_disturb_each_other(pull, hub):
    hub.hold = HALF
    first = pull.start(REPO)
    assert until(lambda: pull.blobs().get(".incomplete") == HALF)
    assert failed(pull(REPO)) == f"another program is downloading {FILE} already"
    first.kill()
    first.communicate()
