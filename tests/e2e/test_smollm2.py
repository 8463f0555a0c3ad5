"""The whole way on a real model: SmolLM2 behind a bridge in a process of its own."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from gguf import PoolingType
from py9p.client import RemoteError

from tests.e2e.conftest import ask, rdwr
from tests.engine import tiny_bert

LONG = "Count from one to three hundred in words, one number a line."


def test_the_example_session_comes_out_word_for_word(smol, model):
    with smol.files() as files:

        def run(line):
            files.write("ctl", f"{line}\n".encode())
            return files.read("ctl").decode()

        assert run("FREE") == '{"status":"ok","message":"Resources freed"}\n'
        assert run("PING") == '{"status":"ok","message":"pong","data":"pong"}\n'
        assert run(f"LOAD {model}") == '{"status":"ok","message":"Model loaded successfully"}\n'
        assert run("STATUS") == f'{{"status":"ok","message":"Model loaded: {model}"}}\n'
        reply = run("INFER max_tokens=20 What is artificial intelligence?")
        assert reply.startswith('{"status":"ok","message":"Inference completed","data":"')
        assert json.loads(reply)["data"].strip()
        assert run("FREE") == '{"status":"ok","message":"Resources freed"}\n'
        assert run("STATUS") == '{"status":"ok","message":"No model loaded"}\n'


def test_ten_new_attaches_at_once_never_see_each_others_answers(shared):
    def work(number):
        with shared.files("new") as files:
            files.write("params", b"temperature 0\nmax_tokens 24\n")
            question = f"My favourite number is {number}. What is my favourite number?"
            answer = ask(files, question)
            context = [json.loads(line) for line in files.read("context").splitlines()]
            return question, answer, context

    with ThreadPoolExecutor(10) as pool:
        results = list(pool.map(work, range(70, 80)))
    for question, answer, context in results:
        assert answer.strip()
        assert context == [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    said = [{n for n in range(70, 80) if str(n) in answer} for _, answer, _ in results]
    assert all(numbers <= {70 + i} for i, numbers in enumerate(said))


def test_a_schema_in_grammar_makes_json_and_an_empty_file_prose_again(shared):
    schema = {"type": "object", "properties": {"legs": {"type": "integer"}}, "required": ["legs"]}
    with shared.files("new") as files:
        files.write("params", b"temperature 0\nmax_tokens 30\n")
        files.write("grammar", json.dumps(schema).encode())
        assert isinstance(json.loads(ask(files, "How many legs has a llama?"))["legs"], int)
        files.write("ctl", b"INFER How many legs has a bird?\n")
        data = json.loads(files.read("ctl"))["data"]
        assert list(json.loads(data)) == ["legs"]
        files.write("grammar", b"\n")
        # What it has said before is an example to it.
        files.write("ctl", b"RESET\n")
        assert not ask(files, "How many legs has a llama?").startswith("{")


def test_a_bad_grammar_fails_the_question_in_words_and_nobody_elses(shared):
    with shared.files("new") as files, shared.files("new") as other:
        for bad in (b"root ::= nothing", b'{"type":"strange"}', b"root ::= (" * 9):
            files.write("grammar", bad)
            files.write("prompt", b"Hello")
            with pytest.raises(RemoteError, match="invalid grammar: "):
                files.read("output")
        other.write("params", b"max_tokens 4")
        assert ask(other, "Hello")
        files.write("grammar", b"\n")
        files.write("params", b"max_tokens 4")
        assert ask(files, "Hello")


def test_logprobs_say_how_likely_each_token_was(shared):
    with shared.files("new") as files:
        files.write("params", b"temperature 0\nmax_tokens 6\nlogprobs 3\n")
        answer = ask(files, "Say hello.")
        lines = [json.loads(line) for line in files.read("logprobs").splitlines()]
        assert "".join(line["token"] for line in lines) == answer
        assert all(line["top"][0]["id"] == line["id"] for line in lines)
        # What is banned by its number does not come again.
        files.write("params", f"logit_bias {lines[0]['id']} -inf\n".encode())
        files.write("ctl", b"RESET\n")
        ask(files, "Say hello.")
        assert json.loads(files.read("logprobs").splitlines()[0])["id"] != lines[0]["id"]


def test_the_main_session_is_seen_from_two_connections(smol):
    with smol.files() as one, smol.files() as two:
        one.write("params", b"max_tokens 12")
        one.write("prompt", b"Say hello.")
        assert two.read("output") == one.read("output") != b""


def test_a_prompt_may_be_longer_than_a_message(shared):
    client = shared.client("new", msize=512)
    client.walk(0, 3, "params")
    client.open(3, 1)
    client.write(3, b"max_tokens 8\n")
    text = ("The sky is blue. " * 100 + "What colour is the sky?").encode()
    fid = rdwr(client, "prompt")
    for at in range(0, len(text), 400):
        client.write(fid, text[at : at + 400], at)
    answer = client.read(fid, offset=len(text))
    client.walk(0, 2, "usage")
    client.open(2)
    usage = json.loads(client.read(2) + client.read(2, offset=512 - 24))
    assert usage["last"]["prompt_tokens"] > 400
    assert answer
    client.close()


def test_two_questions_through_one_open_prompt(shared):
    client = shared.client("new")
    fid = rdwr(client, "prompt")
    client.write(fid, b"My name is Rob.")
    first = client.read(fid)
    client.write(fid, b"What is my name?", len(first))
    second = client.read(fid, offset=len(first))
    client.walk(0, 2, "context")
    client.open(2)
    context = [json.loads(line) for line in client.read(2).splitlines()]
    assert [message["content"].encode() for message in context] == [
        b"My name is Rob.",
        first,
        b"What is my name?",
        second,
    ]
    client.close()


def test_an_answer_arrives_in_many_pieces(shared):
    with shared.files("new") as files:
        files.write("params", b"max_tokens 40")
        files.write("prompt", LONG.encode())
        pieces = list(files.pieces("output"))
        tokens = json.loads(files.read("usage"))["last"]["completion_tokens"]
    assert len(pieces) >= tokens / 2


def test_a_long_prompt_shows_as_prefill_while_it_is_computed(shared):
    with shared.files("new") as files:
        files.write("params", b"max_tokens 1")
        files.write("prompt", b"The sky is blue. " * 150)
        shared.until(lambda: json.loads(files.read("status"))["session"]["state"] == "prefill")
        files.read("output")
        assert json.loads(files.read("usage"))["last"]["prefill_s"] > 0.1


def test_the_same_seed_gives_the_same_answer(shared):
    def once():
        with shared.files("new") as files:
            files.write("params", b"seed 7\ntemperature 1\nmax_tokens 24\n")
            return ask(files, "Tell me a story.")

    assert once() == once()


def until_error(pieces):
    """What can be read before the error that ends it."""
    text = b""
    try:
        for piece in pieces:
            text += piece
    except RemoteError:
        return text
    raise AssertionError("it ended without an error")


def test_a_worker_killed_in_mid_answer_fails_that_answer_only(smol):
    with smol.files("new") as files:
        files.write("params", b"max_tokens 2000")
        files.write("prompt", LONG.encode())
        pieces = files.pieces("output")
        text = next(pieces)
        (worker,) = smol.workers()
        worker.send_signal(signal.SIGKILL)
        with pytest.raises(RemoteError, match="SIGKILL"):
            list(pieces)
        assert until_error(files.pieces("output")).startswith(text)
        files.write("params", b"max_tokens 8")
        assert ask(files, "Say hello.")


def test_a_client_that_disconnects_frees_its_sequence(smol):
    files = smol.files("new")
    files.write("params", b"max_tokens 4000")
    files.write("prompt", LONG.encode())
    next(files.pieces("output"))
    assert smol.status()["bridge"]["running"] == 1
    files.__exit__(None, None, None)
    smol.until(lambda: smol.status()["bridge"]["running"] == 0)
    with smol.files("new") as other:
        assert ask(other, "Say hello.")


def test_a_bridge_killed_in_mid_answer_leaves_no_worker(smol):
    with smol.files("new") as files:
        files.write("params", b"max_tokens 4000")
        files.write("prompt", LONG.encode())
        next(files.pieces("output"))
        (worker,) = smol.workers()
        smol.process.kill()
        smol.process.wait()
        worker.wait(30)


def test_free_gives_the_memory_back(smol):
    assert len(smol.workers()) == 1
    with smol.files() as files:
        files.write("ctl", b"FREE")
    assert smol.workers() == []


def test_a_prompt_longer_than_the_context_says_both_numbers(shared):
    with shared.files("new") as files:
        limit = json.loads(files.read("model"))["n_ctx"]
        with pytest.raises(RemoteError, match=rf"invalid prompt: \d+ tokens.* {limit}"):
            ask(files, "word " * (limit + 100))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder, model: folder / "absent.gguf", "no such file"),
        (lambda folder, model: folder, "directory"),
        (lambda folder, model: written(folder, b""), "empty"),
        (lambda folder, model: written(folder, b"Once upon a time\n" * 100), "GGUF"),
        (lambda folder, model: written(folder, model.read_bytes()[: 8 << 20]), "truncated"),
        (lambda folder, model: written(folder, model.read_bytes()[:4096], 1 << 40), "too large"),
    ],
    ids=["absent", "directory", "empty", "text", "truncated", "larger than memory"],
)
def test_a_bad_file_is_refused_with_its_cause_and_nothing_else_suffers(
    shared, model, tmp_path, make, message
):
    path = make(tmp_path, model)
    with shared.files("new") as files, shared.files("new") as other:
        with pytest.raises(RemoteError):
            files.write("ctl", f"LOAD '{path}'\n".encode())
        reply = json.loads(files.read("ctl"))
        assert reply["status"] == "error"
        assert message.lower() in reply["message"].lower()
        other.write("params", b"max_tokens 4")
        assert ask(other, "Say hello.")


def written(folder, data, size=None):
    path = folder / "bad.gguf"
    path.write_bytes(data)
    if size is not None:
        os.truncate(path, size)
    return path


def test_a_conversation_goes_on_when_the_context_is_full(serve, model):
    bridge = serve("--model", "none")
    with bridge.files() as files:
        files.write("ctl", f"LOAD {model} n_ctx=256\n".encode())
        files.write("params", b"temperature 0\nmax_tokens 16\n")

        def ask_until_full():
            while True:
                ask(files, "Tell me one more thing about the sea, in a few words.")

        with pytest.raises(RemoteError, match="RESET, overflow slide or less text help"):
            ask_until_full()
        files.write("params", b"overflow slide\n")
        assert ask(files, "And about the moon?").strip()
        status = json.loads(files.read("status"))["session"]
        lines = files.read("context").splitlines()
        assert 0 < status["dropped"] < len(lines) == 2 * status["turns"]
        assert ask(files, "And about the sun?").strip()
        usage = json.loads(files.read("usage"))["last"]
        assert usage["cached_tokens"] > usage["prompt_tokens"] / 2


def test_a_text_is_embedded_beside_a_conversation(shared, tmp_path):
    path = tmp_path / "bert.gguf"
    tiny_bert.write(str(path), PoolingType.MEAN)
    with shared.files() as chat, shared.files("new") as texts:
        texts.write("ctl", f"LOAD {path}\n".encode())
        texts.write("embed", b"the king and his horse\n")
        reply = json.loads(texts.read("embed"))
        assert (reply["model"], reply["tokens"]) == ("bert", 7)
        assert len(reply["embedding"]) == tiny_bert.N_EMBD
        with pytest.raises(RemoteError, match="bert generates no text; use embed"):
            ask(texts, "Hello")
        chat.write("params", b"max_tokens 4\n")
        assert ask(chat, "Hello")
        chat.write("embed", b"king")
        with pytest.raises(RemoteError, match="has no embeddings; it takes a model"):
            chat.read("embed")
        texts.write("ctl", b"FREE bert\n")
