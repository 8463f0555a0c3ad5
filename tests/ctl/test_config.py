"""The configuration file of `llambo serve`: its keys, what it is put together from, its errors."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctl import toml
from ctl.bridge import Options
from ctl.config import Invalid, keys, printed, source_of
from ctl.options import bridge_options, client_limits
from fs9p import Limits


@pytest.fixture
def read(tmp_path):
    """A function that reads a file of this text, below these words of a command line."""

    def read(text, *words):
        path = tmp_path / "llambo.toml"
        path.write_text(text)
        return source_of(["--config", str(path), *words]).read()

    return read


@pytest.fixture
def errors(read, tmp_path):
    """A function for what is wrong with a file of this text, the folder left out."""

    def errors(text, *words):
        with pytest.raises(Invalid) as caught:
            read(text, *words)
        return [error.replace(f"{tmp_path}/", "") for error in caught.value.errors]

    return errors


# What it is put together from


def test_without_a_file_everything_is_as_it_was():
    args = source_of([]).read().args
    assert bridge_options(args) == Options()
    assert client_limits(args) == Limits()


def test_a_file_comes_before_the_defaults_and_the_command_line_before_the_file(read):
    args = read("max-sessions = 7\nmax-answers = 8\n", "--max-answers", "9").args
    assert (args.max_sessions, args.max_answers, args.max_fids) == (7, 9, Limits().fids)


def test_the_default_on_the_command_line_comes_before_the_file_too(read):
    assert read("max-sessions = 7", "--max-sessions", "256").args.max_sessions == 256


def test_a_list_on_the_command_line_takes_the_place_of_that_of_the_file(read):
    text = "socket = ['/a', '/b']\ntcp = ['127.0.0.1:1']"
    args = read(text, "--socket", "/c", "--socket", "/d").args
    assert args.socket == ["/c", "/d"]
    assert args.tcp == ["127.0.0.1:1"]


def test_what_may_be_repeated_may_be_one_string(read):
    assert read("tcp = '127.0.0.1:1'").args.tcp == ["127.0.0.1:1"]


def test_a_number_of_seconds_may_be_whole(read):
    assert read("session-ttl = 60").args.session_ttl == 60.0


def test_a_mode_is_octal_digits_in_quotes(read):
    assert read("socket-mode = '660'").args.socket_mode == 0o660


def test_relative_paths_of_a_file_begin_at_the_file(read, tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "a.gguf").touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    text = "models = 'models'\nsocket = ['s', 'unix!t']\ntrace = 'log'\nmodel = 'a.gguf'\n"
    args = read(text, "--line-socket", "line").args
    assert args.models == [f"{tmp_path}/models"]
    assert args.socket == [f"{tmp_path}/s", f"{tmp_path}/t"]
    assert args.trace == f"{tmp_path}/log"
    assert args.model == f"{tmp_path}/a.gguf"
    assert args.line_socket == [f"{elsewhere}/line"]


def test_a_tilde_in_a_file_is_the_home_directory(read, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read("socket = '~/run/s'").args.socket == [f"{tmp_path}/run/s"]


def test_a_model_that_is_no_file_is_a_name(read):
    assert read("model = 'SmolLM2'").args.model == "SmolLM2"


# What is printed


def test_what_is_printed_has_every_key_and_reads_back_the_same(read):
    usual = source_of([]).read()
    text = printed(usual)
    assert read(text).values == usual.values
    # Those that have no value are there as comments.
    lines = [line.removeprefix("# ") for line in text.splitlines() if " = " in line]
    assert [line.split(" = ")[0] for line in lines] == list(keys())


def test_every_option_reads_back_the_same_when_it_is_set(read, tmp_path):
    words = []
    for key, option in keys().items():
        if option.nargs == 0:
            words.append(f"--{key}")
        elif option.choices:
            words += [f"--{key}", list(option.choices)[-1]]
        elif isinstance(option.default, int | float):
            words += [f"--{key}", "640"]
        elif key == "engine":
            words += ["--engine", "echo:2.5"]
        elif key == "socket-group":
            words += ["--socket-group", "0"]
        elif option.metavar == "HOST:PORT":
            words += [f"--{key}", "127.0.0.1:5640"]
        elif option.metavar == "DIR":
            words += [f"--{key}", str(tmp_path), f"--{key}", "/"]
        else:
            words += [f"--{key}", str(tmp_path / f'{key} "é\x7f\\')]
    done = source_of(words).read()
    assert [key for key, option in keys().items() if done.values[key] == option.default] == []
    assert read(printed(done)).values == done.values


def test_what_is_printed_says_where_it_comes_from_if_that_is_no_default(read):
    lines = printed(read("max-sessions = 7\n", "-v")).splitlines()
    [sessions] = [line for line in lines if line.startswith("max-sessions = 7  # ")]
    assert sessions.endswith("llambo.toml")
    assert "verbose = true  # the command line" in lines
    assert "max-answers = 256" in lines


def test_a_path_that_no_file_can_have_is_an_error_of_printing():
    with pytest.raises(Invalid, match="^--socket: a file cannot have it, as it is not UTF-8$"):
        printed(source_of(["--socket", "/\udcff"]).read())


scalars = st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@given(scalars | st.lists(st.text()))
def test_a_value_is_written_as_python_reads_it(value):
    assert tomllib.loads(f"a = {toml.value(value)}") == {"a": value}


@given(st.text())
def test_a_value_is_written_without_control_characters(value):
    assert toml.value(value).isprintable()


# Its errors


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("max-sessions = 'many'", 'max-sessions: "many" is not a whole number above 0'),
        ("max-sessions = 0", "max-sessions: 0 is not a whole number above 0"),
        ("max-sessions = 1.5", "max-sessions: 1.5 is not a whole number above 0"),
        ("max-sessions = true", "max-sessions: true is not a whole number above 0"),
        ("max-sessions = [1]", "max-sessions: [1] is not a whole number above 0"),
        ("max-sessions = {}", "max-sessions: a table is not a whole number above 0"),
        ("max-sessions = 1979-05-27", "max-sessions: 1979-05-27 is not a whole number above 0"),
        ("session-ttl = inf", "session-ttl: inf is not a number of seconds above 0"),
        ("session-ttl = nan", "session-ttl: nan is not a number of seconds above 0"),
        ("msize = 100", "msize: 100 is not a number of bytes from 256 to 1048600"),
        ("verbose = 'yes'", 'verbose: "yes" is not true or false'),
        ("socket-mode = 660", 'socket-mode: 660 is not a mode such as "660"'),
        ("socket-mode = '9'", 'socket-mode: "9" is not a mode such as "660"'),
        ("log-format = 'xml'", 'log-format: "xml" is not one of text, json'),
        ("tcp = ['nowhere']", 'tcp: "nowhere" is not HOST:PORT'),
        ("tcp = 'a..b:1'", 'tcp: "a..b:1" is not HOST:PORT'),
        ("tcp = 5640", "tcp: 5640 is not HOST:PORT"),
        (
            "tcp = ['0.0.0.0:1']",
            'tcp: "0.0.0.0:1" is not a loopback address: anybody could connect; '
            "--insecure allows it",
        ),
        ("engine = 1", "engine: 1 is not a string"),
        ("engine = ['echo']", 'engine: ["echo"] is not a string'),
        ("trace = []", "trace: [] is not a path"),
        ("models = ['/absent']", 'models: "/absent" is not a directory'),
        ("model = '/absent'", 'model: "/absent" is not a file'),
        ("trace = '/absent/t'", 'trace: "/absent" is not a directory'),
        ("trace = ''", 'trace: "" is not a path'),
        (r'trace = "a\u0000b"', r'trace: "a\u0000b" is not a path'),
        ("socket-group = 'nosuch'", 'socket-group: there is no group "nosuch"'),
        ("socket = '/s'\nline-socket = '/s'", 'line-socket: "/s" is there twice'),
        ("max-session = 1", "max-session: unknown key; did you mean max-sessions?"),
        ("max_sessions = 1", "max_sessions: unknown key; did you mean max-sessions?"),
        ("colour = 1", "colour: unknown key; llambo serve --print-config has them all"),
        (r'"\u001b[2J" = 1', r'"\u001b[2J": unknown key; llambo serve --print-config has them all'),
        ("config = 'x'", "config: this is for the command line only"),
        (
            "[limits]\nmax-sessions = 1",
            "limits: there are no tables: all keys are at the top of the file, before any [ ]",
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(errors, text, error):
    assert errors(text) == [f"llambo.toml: {error}"]


def test_a_wrong_engine_is_named_with_those_there_are(errors):
    [error] = errors("engine = 'ecko'")
    assert error.startswith("llambo.toml: engine: no engine 'ecko': there are llama, echo")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("max-sessions = \n", "llambo.toml: Invalid value (at line 1, column 16)"),
        ("a" * 10, "llambo.toml: Expected '=' after a key"),
        ("max-fids = 1\nmax-fids = 2", "llambo.toml: Cannot overwrite a value"),
        ("max-fids = " + "1" * 5000, "llambo.toml: a number in it has too many digits"),
        ("a = " + "[" * 100_000, "llambo.toml: it is nested too deeply"),
    ],
    ids=["value", "key", "twice", "digits", "deep"],
)
def test_what_is_no_toml_is_one_error(errors, text, error):
    [found] = errors(text)
    assert found.startswith(error)


def test_a_file_that_is_not_utf8_is_one_error(tmp_path):
    path = tmp_path / "llambo.toml"
    path.write_bytes(b"trace = '\xff'")
    with pytest.raises(Invalid, match=r"llambo.toml: it is not UTF-8 \(at byte 9\)$"):
        source_of(["--config", str(path)]).read()


@pytest.mark.parametrize(("name", "why"), [("x", "No such file"), ("", "Is a directory")])
def test_a_file_that_cannot_be_read_is_one_error(tmp_path, name, why):
    with pytest.raises(Invalid, match=f"^{tmp_path}/{name}: {why}"):
        source_of(["--config", f"{tmp_path}/{name}"]).read()


@pytest.mark.parametrize("key", keys())
def test_an_array_of_numbers_is_wrong_for_every_key(errors, key):
    [error] = errors(f"{key} = [1]")
    assert error.startswith(f"llambo.toml: {key}: ")


def test_all_errors_are_said_at_once(errors):
    text = "max-sessions = 'many'\nmodels = ['/absent', 5, '/gone']\nxyz = 1\n"
    assert errors(text, "--socket-group", "nosuch") == [
        'llambo.toml: max-sessions: "many" is not a whole number above 0',
        "llambo.toml: models: 5 is not a path",
        "llambo.toml: xyz: unknown key; llambo serve --print-config has them all",
        '--socket-group: there is no group "nosuch"',
        'llambo.toml: models: "/absent" is not a directory',
        'llambo.toml: models: "/gone" is not a directory',
    ]


def test_a_value_of_the_file_that_the_command_line_replaces_has_to_be_right_too(errors):
    assert errors("max-sessions = 0", "--max-sessions", "5") == [
        "llambo.toml: max-sessions: 0 is not a whole number above 0"
    ]


def test_a_long_value_is_cut(errors):
    [error] = errors(f"tcp = '{'x' * 10_000}'")
    assert len(error) < 120


def test_a_socket_path_that_is_too_long_says_how_long_it_may_be(errors):
    [error] = errors(f"socket = '/{'x' * 107}'")
    assert error.endswith("x\" has 108 bytes, a socket's path 107 at most")
    source_of(["--socket", f"/{'x' * 106}"]).read()
