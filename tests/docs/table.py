"""Who runs which example of the documentation: an entry for every block, by its first line.

A page that is missing here, a block without an entry, an entry without its block, or one that
names a test that there is not: each fails `tests.docs.test_table`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Typed:
    """Typed into a shell by `tests.docs.test_typed`, and what it prints compared with the page.

    engine: of the bridge that is there, none where the block starts its own. mounted: in a folder
    where it is mounted at `mnt`, or `.`. needs: programs that are skipped for, where missing.
    words: what a model said.
    """

    engine: str | None = "echo"
    mounted: str = ""
    needs: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Emu:
    """Typed into Inferno's shell by `tests.docs.test_typed`."""

    engine: str = "echo"


@dataclass(frozen=True)
class By:
    """Another test does what the block shows: its file and its name."""

    test: str


@dataclass(frozen=True)
class NotRun:
    """Nothing that could be run here, and why."""

    why: str


Entry = Typed | Emu | By | NotRun

PLAN9 = ("plan9port",)
SMOL = "llama"
TEN_LINES = "tests/fs9p/test_example.py::test_the_ten_line_server_serves_its_two_files"
DEPLOY = "tests/e2e/test_deploy.py"
CONFIG = "tests/e2e/test_config.py"
LINUX = "tests/e2e/linux"
MOUNT = "tests/e2e/test_mount.py"
LIMBO = "tests/e2e/limbo"
CI = NotRun("what .ci/run does")
LONG = NotRun("it takes minutes; tests/benchmarks and tests/fs9p run the parts of it")
MACHINES = NotRun("it takes three machines; tests/cluster has three nodes on one")
KUBERNETES = NotRun("it takes a Kubernetes; the manifest fits the schema of KubeRay 1.7.0")

TABLE: dict[str, dict[str, Entry]] = {
    "README.md": {
        "$ echo 'What is a file server?' > mnt/prompt; cat mnt/output": Typed(
            SMOL, mounted="mnt", needs=PLAN9, words=("",)
        ),
        "make run        # sets up .venv, gets a small model (SmolLM2-135M, 94 MB), serves it": By(
            "tests/docs/test_table.py::test_make_runs_what_the_readme_says"
        ),
        "$ PATH=$PWD/.venv/bin:$PATH": Typed(
            SMOL,
            words=(
                "A file server, also known as a file storage device, is a type of hardware or "
                "software that …",
            ),
        ),
        "; bind -a '#C' /": Emu(SMOL),
        "% echo 'What is Plan 9?' | 9p -a 'unix!/tmp/llambo-0/9p' write prompt": Typed(
            SMOL, needs=PLAN9
        ),
        "$ mkdir mnt; llambo mount mnt": Typed(SMOL, needs=PLAN9),
        "$ llambo serve --line-socket /tmp/llambo-0/line &": Typed(None, needs=("nc",)),
        "fs9p/     a 9P2000 server library for trio: bytes ⇄ messages ⇄ fids ⇄ nodes. "
        "Knows no model.": NotRun("the rooms"),
    },
    "docs/clients.md": {
        "% 9p -a 'unix!SOCKET' ls -l /": By(
            "tests/e2e/test_plan9port.py::test_9p_rdwr_sends_a_line_and_prints_the_whole_answer"
        ),
        "% echo FROB | 9p write llm/ctl": By(
            "tests/e2e/test_plan9port.py::test_9p_prints_the_error_as_the_bridge_says_it"
        ),
        "% 9pserve -c 'unix!SOCKET' 'unix!/tmp/llm'     # or: srv 'unix!SOCKET' posted": By(
            "tests/e2e/test_plan9port.py::test_behind_9pserve_every_client_is_of_one_connection"
        ),
        "$ 9pfuse 'unix!SOCKET' mnt                     # -a new: a session of its own": By(
            "tests/e2e/test_9pfuse.py::test_exec_3_prompt_is_a_question_and_its_whole_answer"
        ),
        "# mount -t 9p -o trans=unix,uname=$USER SOCKET mnt": By(
            f"{LINUX}/test_users.py::test_a_mount_of_the_socket_speaks_9p2000u"
        ),
        "default      0.41 0.61 0.80 1.00 1.20 1.40 1.60": By(
            f"{LINUX}/test_streaming.py::test_an_answer_arrives_in_pieces"
        ),
        "; bind -a '#C' /": Emu(),
        "; cat /n/remote/output &": By(
            "tests/e2e/test_inferno.py"
            "::test_a_killed_reader_leaves_the_answer_alone_and_the_mount_in_step"
        ),
        "; mountllm /tmp/llambo-0/9p": By(
            f"{LIMBO}/test_limbot.py::test_limbot_answers_the_question_of_its_command_line"
        ),
        "; limbot -a unix!/nowhere hello": By(
            f"{LIMBO}/test_failures.py::test_no_bridge_is_a_sentence_and_a_status"
        ),
        "from py9p import Client": By(
            "tests/docs/test_typed.py::test_a_program_of_a_page_asks_a_bridge"
        ),
    },
    "docs/cluster.md": {
        ".venv/bin/python -m benchmarks.cluster.simulate": LONG,
        "$ ~/llambo/bin/pip install -c constraints.txt '.[cluster]'   # docs/install.md": MACHINES,
        "$ umask 077; ray get-auth-token --generate >/dev/null   # ~/.ray/auth_token": MACHINES,
        "$ ray start --address=10.0.0.1:6379 --disable-usage-stats": MACHINES,
        "$ llambo serve --engine ray &": MACHINES,
        '{"name":"10.0.0.2","address":"10.0.0.2",': NotRun("a file"),
        "$ llambo load -o max_replicas=8 -o num_cpus=16 -o target_ongoing_requests=8 qwen2.5": By(
            "tests/cluster/test_scaling.py"
            "::test_replicas_come_with_the_questions_and_go_without_ending_one"
        ),
        "FROM python:3.11-slim": KUBERNETES,
        "apiVersion: v1": KUBERNETES,
        "$ pod=$(kubectl get pod -l ray.io/cluster=llambo,ray.io/group=bridge -o name)": KUBERNETES,
    },
    "docs/command.md": {},
    "docs/configuration.md": {
        "$ llambo serve --print-config > llambo.toml     # every option with its default, and what "
        "it does": By(f"{CONFIG}::test_the_first_commands_of_the_page_work"),
        "# /etc/llambo/llambo.toml": By(
            f"{CONFIG}::test_the_file_of_the_page_is_right_but_for_its_folders"
        ),
        "$ llambo serve --config /etc/llambo/llambo.toml --max-sessions 5 --print-config | grep "
        "'  # '": By(
            "tests/ctl/test_config.py"
            "::test_what_is_printed_says_where_it_comes_from_if_that_is_no_default"
        ),
        "$ llambo serve --config llambo.toml": By(
            f"{CONFIG}::test_the_errors_of_the_page_are_what_is_said"
        ),
        "llambo: llambo.toml read again: max-sessions 256 → 1000; needs a restart: tcp": By(
            f"{CONFIG}::test_sighup_takes_over_what_can_be_changed"
        ),
    },
    "docs/deploy.md": {
        "useradd --system llambo": NotRun("it changes the users of the machine"),
        "OPTIONS=--config /etc/llambo/llambo.toml": By(
            f"{DEPLOY}::test_the_configuration_of_a_service_is_read_again_at_reload"
        ),
        "cp examples/systemd/llambo.service /etc/systemd/system": By(
            f"{DEPLOY}::test_the_real_model_answers_in_the_sandbox"
        ),
        "mkdir -p ~/.config/systemd/user": By(f"{DEPLOY}::test_a_user_runs_a_bridge_of_his_own"),
        "cp examples/systemd/llambo@.service /etc/systemd/system": By(
            f"{DEPLOY}::test_systemd_runs_a_pool_of_bridges_from_the_template"
        ),
        "cp examples/systemd/llambo*.socket /etc/systemd/system": By(
            f"{DEPLOY}::test_the_first_client_of_a_socket_starts_the_service"
        ),
        "# a GPU (NVIDIA; others have /dev/dri)": By(
            f"{DEPLOY}::test_the_other_drop_ins_are_sound"
        ),
        "# TCP on loopback: --tcp, --metrics-http": By(
            f"{DEPLOY}::test_the_drop_in_for_tcp_lets_prometheus_in"
        ),
        "# models somewhere else, in a home of somebody too": By(
            f"{DEPLOY}::test_the_other_drop_ins_are_sound"
        ),
        '{"time": "2026-11-23T17:20:26.627+00:00", "level": "info",': NotRun("a line of the log"),
        "# prometheus.yml": By(
            "tests/e2e/test_metrics.py::test_prometheus_scrapes_a_bridge_and_answers_the_dashboard"
        ),
        "[Service]": NotRun("settings of systemd alone"),
        "# ask COMMAND: the reply of a bridge of the pool": By(
            f"{DEPLOY}::test_the_shell_function_finds_a_bridge_that_answers"
        ),
        "# idlest: the address of the bridge of the pool with the fewest answers running and "
        "waiting": By(f"{DEPLOY}::test_the_shell_function_finds_the_bridge_with_least_to_do"),
        "load std": By(
            "tests/e2e/test_inferno.py::test_a_mount_with_new_is_a_session_that_ends_with_it"
        ),
    },
    "docs/design.md": {
        "Inferno   plan9port   Linux v9fs   py9p": NotRun("the rooms"),
        "bridge ══ socket pair ══ gateway ──── Ray Serve's controller, Ray's GCS     (the head)": (
            NotRun("the processes")
        ),
    },
    "docs/engine.md": {
        "$ .venv/bin/pip install --no-deps ./examples/engine": By(
            "tests/e2e/test_engine_plugin.py"
            "::test_an_engine_that_pip_installed_answers_through_the_files"
        ),
        '[project.entry-points."llambo.engines"]': By(
            "tests/docs/test_table.py::test_the_page_of_engines_shows_the_example_as_it_is"
        ),
        "def make(argument: str, *, max_models: int, worker_timeout: float) -> Engine:": By(
            "tests/docs/test_table.py::test_the_page_of_engines_shows_the_example_as_it_is"
        ),
        "queued → prefill → generating → done": NotRun("states"),
        "$ LLAMBO_ENGINES=upside:1000 .venv/bin/pytest -q tests/engine/test_contract.py": By(
            "tests/engine/test_contract.py"
            "::test_an_answer_comes_in_pieces_and_then_its_usage_is_known"
        ),
    },
    "docs/fs9p.md": {
        "import time": By(TEN_LINES),
        "$ 9p -a 'unix!/tmp/hello/socket' ls -l /": By(TEN_LINES),
        "def read(self, offset, count):": NotRun("a piece of a class"),
    },
    "docs/install.md": {
        "python3 -m venv ~/llambo": By(
            "tests/e2e/test_wheel.py::test_the_commands_of_the_page_leave_one_that_answers"
        ),
        "$ llambo --version": By(
            "tests/e2e/test_start.py::test_the_page_on_installing_shows_what_version_prints"
        ),
    },
    "docs/line.md": {
        "$ llambo serve --line-socket /tmp/llambo-0/line": By(
            "tests/e2e/test_line_protocol.py"
            "::test_the_session_of_the_older_bridge_comes_out_exactly"
        ),
    },
    "docs/namespace.md": {
        "/": By("tests/ctl/test_man.py::test_llambo_4_names_every_file"),
        "% echo 'What is a file server?' > prompt; cat output": Typed(
            mounted=".", needs=PLAN9, words=("",)
        ),
        "max_tokens 256          1 to 1000000": NotRun("a file"),
        "% echo 'What is a file server?' > embed; cat embed": By(
            "tests/e2e/test_9pfuse.py::test_a_text_is_echoed_into_embed_and_its_vector_read_back"
        ),
        """% echo 'root ::= ("yes" | "no")' > grammar""": By(
            "tests/ctl/test_grammar.py::test_what_was_written_is_read_back_and_is_what_answers_follow"
        ),
        '{"token":" llama","id":9,"logprob":-0.12,"top":[{"token":" llama","id":9,"logprob":-0.12}'
        ",…]}": NotRun("a file"),
        '{"status":"ok","message":"Model loaded: PATH",': NotRun("a file"),
        '{"name":"ip-10-0-0-7","address":"10.0.0.7","id":"…","alive":true,"head":false,': By(
            "tests/ctl/test_nodes.py::test_the_page_shows_a_node_with_all_its_keys"
        ),
    },
    "docs/performance.md": {
        "python -m benchmarks.start": LONG,
        "make bench": LONG,
        "make bench-peer": LONG,
        ".venv/bin/python -m benchmarks.peer --rounds 2 --cases 10,shared": LONG,
        "make bench-overhead": LONG,
    },
    "docs/models.md": {
        "$ llambo models": By(
            "tests/e2e/test_models.py::test_a_bridge_lists_the_models_that_other_programs_have"
        ),
        "$ llambo pull bartowski/SmolLM2-360M-Instruct-GGUF": By(
            "tests/e2e/pull/test_pull.py::test_pull_prints_the_path_and_how_to_load_it"
        ),
        "$ llambo load qwen2.5": By(
            "tests/e2e/test_models.py::test_load_with_an_ambiguous_name_shows_all_candidates"
        ),
    },
    "docs/mount.md": {
        "llambo mount  [-n] [-a SESSION] [--with kernel|9pfuse] [--timeout SECONDS] [ADDRESS] "
        "DIR": By("tests/docs/test_command.py::test_every_option_of_a_command_is_in_its_line"),
        "$ mkdir mnt": By(
            f"{MOUNT}::test_it_says_what_mounts_with_which_command_and_what_is_there"
        ),
        "# llambo mount /run/user/1000/llambo/9p /n/llm": By(
            f"{LINUX}/test_mount.py::test_root_mounts_with_the_kernel"
        ),
        "$ llambo umount mnt": By(f"{MOUNT}::test_what_uses_it_is_named"),
        "$ llambo mount mnt": By(f"{MOUNT}::test_where_no_bridge_is_nothing_is_mounted"),
    },
    "docs/reliability.md": {
        "make fuzz": LONG,
        ".venv/bin/python -m benchmarks.connections": LONG,
        "make test-cluster": LONG,
        "make soak                                            # ten minutes": LONG,
    },
    "docs/security.md": {},
    "docs/top.md": {
        "llambo top [-d SECONDS] [-n COUNT] [-b] [ADDRESS]": By(
            "tests/e2e/test_top.py::test_a_pipe_gets_one_screen_of_text"
        ),
        "llambo 0.1.0, up 26 s, at /run/user/1000/llambo/9p              q ends  19:03:01": By(
            "tests/ctl/test_top.py::test_the_page_shows_such_a_screen"
        ),
        "MODEL  STATE  REPLICAS    MEMORY  TOKENS/S  RUNNING  RESTARTS": By(
            "tests/ctl/test_top.py::test_the_page_shows_the_lines_of_a_cluster"
        ),
    },
}
