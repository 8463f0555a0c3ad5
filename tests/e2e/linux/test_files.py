"""What a user of the Linux kernel's 9p does with a bridge's files."""

import json

import pytest

LISTING = {
    "clone": "-rw-rw-rw-",
    "context": "-rw-rw-rw-",
    "ctl": "-rw-rw-rw-",
    "embed": "-rw-rw-rw-",
    "model": "-r--r--r--",
    "models": "dr-xr-xr-x",
    "output": "-r--r--r--",
    "params": "-rw-rw-rw-",
    "prompt": "-rw-rw-rw-",
    "status": "-r--r--r--",
    "system": "-rw-rw-rw-",
    "usage": "-r--r--r--",
}


@pytest.fixture(scope="module", params=[[], ["version=9p2000"]], ids=["default", "9p2000"])
def at(request, fast, mount):
    """Where a bridge is mounted, in each dialect that it speaks: the default one is 9P2000.u."""
    return mount(fast, *request.param)


def listing(guest, path):
    """`ls -l`: the mode, owner and group of each name."""
    rows = [line.split() for line in guest.output(f"ls -l {path}").splitlines()[1:]]
    return {row[-1]: (row[0], row[2], row[3]) for row in rows}


def test_ls_shows_the_files_with_their_modes(guest, at):
    shown = {name: mode for name, (mode, _, _) in listing(guest, at).items()}
    assert shown.items() >= LISTING.items()


def test_cat_status_shows_the_state(guest, at):
    status = json.loads(guest.output(f"cat {at}/status"))
    assert status["session"]["state"] == "idle"
    assert status["model"]["name"] == "echo"


def test_a_model_is_loaded_by_echo_to_ctl_which_then_has_the_reply(guest, at):
    reply = guest.output(f"echo LOAD echo > {at}/ctl; cat {at}/ctl")
    assert json.loads(reply) == {"status": "ok", "message": "Model loaded successfully"}


def test_echo_with_one_arrow_changes_the_setting_it_names(guest, at):
    params = guest.output(f"echo top_k 7 > {at}/params; echo seed 5 > {at}/params; cat {at}/params")
    assert {"top_k 7", "seed 5"} <= set(params.splitlines())


def test_echo_with_one_arrow_replaces_the_system_prompt(guest, at):
    text = guest.output(f"echo one two > {at}/system; echo three > {at}/system; cat {at}/system")
    assert text == "three\n"


def test_an_arrow_alone_empties_the_system_prompt(guest, at):
    assert guest.output(f"echo one two > {at}/system; : > {at}/system; cat {at}/system") == ""


def test_echo_with_two_arrows_is_accepted(guest, at):
    assert "seed 11\n" in guest.output(f"echo seed 11 >> {at}/params; cat {at}/params")


def test_touch_succeeds(guest, at):
    assert guest.run(f"touch {at}/prompt {at}/params {at}/ctl").output == ""


def test_a_saved_file_can_be_put_back_with_cp(guest, at):
    saved, back = guest.output(
        f"echo seed 3 > {at}/params; cp {at}/params saved; echo seed 4 > {at}/params;"
        f"cp saved {at}/params; cat saved; echo %%; cat {at}/params"
    ).split("%%\n")
    assert "seed 3\n" in saved
    assert back == saved


def test_a_prompt_is_answered_in_output(guest, at):
    assert guest.output(f"echo a small question > {at}/prompt; cat {at}/output") == (
        "a small question"
    )


def test_a_question_and_its_answer_through_one_open_prompt(guest, at):
    said = guest.output(
        f"exec 3<>{at}/prompt; echo first one >&3; cat <&3; echo; echo and another >&3; cat <&3"
    )
    assert said == "first one\nand another"


def test_cp_sends_a_prompt_of_many_messages(guest, at):
    done = guest.output(
        f"yes 'so many words' | head -1000 > long; cp long {at}/prompt; cat {at}/context | tail -2"
    )
    question, _ = (json.loads(line)["content"] for line in done.splitlines())
    assert question == "\n".join(["so many words"] * 1000)


def test_infer_leaves_the_answer_in_ctl(guest, at):
    reply = json.loads(guest.output(f"echo INFER hello there > {at}/ctl; cat {at}/ctl"))
    assert reply["data"] == "hello there"


def test_two_processes_talk_in_clones_of_their_own(guest, at):
    """Each opens `clone` and holds it while both ask and read."""
    said = guest.output(
        f"""talk() {{
            exec 3<>{at}/clone; read -r number <&3
            touch cloned.$1; until [ -e cloned.one -a -e cloned.two ]; do sleep .02; done
            echo I am number $1 > {at}/$number/prompt
            cat {at}/$number/output; echo; cat {at}/$number/context
        }}
        rm -f cloned.*; talk one > one & talk two > two & wait; cat one two"""
    ).splitlines()
    assert said == [
        line
        for name in ("one", "two")
        for line in (
            f"I am number {name}",
            f'{{"role":"user","content":"I am number {name}"}}',
            f'{{"role":"assistant","content":"I am number {name}"}}',
        )
    ]


def test_a_mount_as_new_has_a_session_of_its_own(guest, mount, fast):
    one, two = mount(fast, "aname=new"), mount(fast, "aname=new")
    said = guest.output(
        f"echo for one > {one}/prompt; echo for two > {two}/prompt; cat {one}/output {two}/output"
    )
    assert said == "for onefor two"
    sessions = [json.loads(guest.output(f"cat {at}/status"))["session"]["id"] for at in (one, two)]
    assert len(set(sessions)) == 2


def test_a_mount_by_name_goes_on_in_the_session_of_that_name(guest, mount, fast):
    one, two = mount(fast, "aname=talk"), mount(fast, "aname=talk")
    assert guest.output(f"echo hello > {one}/prompt; cat {two}/output") == "hello"


def test_umount_ends_the_session_of_a_mount_as_new(guest, mount, fast):
    other, at = mount(fast), mount(fast, "aname=new")
    guest.output(
        f"""sessions() {{ sed 's/.*"sessions":\\([0-9]*\\).*/\\1/' {other}/status; }}
        before=$(sessions); umount {at}; until [ $(sessions) -lt $before ]; do sleep .05; done"""
    )


@pytest.mark.parametrize("cache", ["none", "mmap", "loose"])
def test_no_cache_mode_shows_what_was_before(guest, mount_cached, fast, cache):
    at = mount_cached(fast, cache)
    said = guest.output(
        f"for word in first second; do echo $word > {at}/prompt; cat {at}/output; echo;"
        f"echo $word > {at}/system; cat {at}/system; done; wc -l < {at}/context"
    )
    assert said == "first\nfirst\nsecond\nsecond\n5\n"
