"""`metrics` over HTTP, as Prometheus and its own tools take it."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from benchmarks.bridge import LLAMBO, until
from tests.conftest import started
from tests.e2e.conftest import DEADLINE, ask
from tests.e2e.programs import missing

DASHBOARD = Path(__file__).parents[2] / "examples/grafana/llambo.json"


def page(url):
    with urllib.request.urlopen(url, timeout=DEADLINE) as reply:
        return reply.read().decode()


@pytest.fixture
def watched(serve):
    """A bridge with an answer and a vector behind it, and the address of its metrics."""
    bridge = serve("--engine", "echo", "--metrics-http", "127.0.0.1:0")
    with bridge.files() as files:
        assert ask(files, "hello there") == "hello there"
        files.write("embed", b"hello")
        files.read("embed")
    bridge.url = re.search(r"serving (http://\S+)", bridge.log.read_text())[1]
    return bridge


def test_the_page_has_what_the_file_has(watched):
    with watched.files() as files:
        file = files.read("metrics").decode()
    names = [line for line in file.splitlines() if line.startswith("#")]
    served = page(watched.url)
    assert [line for line in served.splitlines() if line.startswith("#")] == names
    assert 'llambo_requests_total{model="echo",outcome="stop"} 1.0\n' in served


def test_the_page_goes_with_the_bridge(watched):
    assert watched.stop() == 0
    with pytest.raises(urllib.error.URLError):
        page(watched.url)


def test_a_port_that_is_taken_is_named_and_no_socket_is_left(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            [LLAMBO, "serve", "--engine", "echo", "--socket", tmp_path / "9p",
             "--metrics-http", address],
            capture_output=True, text=True, timeout=DEADLINE, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert f"cannot serve http://{address}/metrics: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "9p").exists()


def test_promtool_finds_nothing_wrong(watched):
    if shutil.which("promtool") is None:
        missing("prometheus", "promtool is missing: apt-get install prometheus")
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=page(watched.url), capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def queries():
    """What the dashboard asks, with the values that Grafana would put in."""
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", "1m")
            yield query.replace("$job", "llambo").replace("$instance", ".*")


def test_prometheus_scrapes_a_bridge_and_answers_the_dashboard(watched, tmp_path):
    if shutil.which("prometheus") is None:
        missing("prometheus", "prometheus is missing: apt-get install prometheus")
    with socket.create_server(("127.0.0.1", 0)) as free:
        own = f"127.0.0.1:{free.getsockname()[1]}"
    host = watched.url.removeprefix("http://").removesuffix("/metrics")
    (tmp_path / "prometheus.yml").write_text(
        "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\n"
        f"scrape_configs: [{{job_name: llambo, static_configs: [{{targets: ['{host}']}}]}}]\n"
    )
    command = ["prometheus", f"--config.file={tmp_path}/prometheus.yml",
               f"--storage.tsdb.path={tmp_path}/data", f"--web.listen-address={own}"]  # fmt: skip

    def result(query):
        url = f"http://{own}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        try:
            return json.loads(page(url))["data"]["result"]
        except urllib.error.HTTPError as error:
            if error.code == 503:
                return []  # it is still starting
            raise AssertionError(f"{query}: {error.read().decode()}") from None
        except urllib.error.URLError:
            return []  # it is not up yet

    with (tmp_path / "log").open("w") as log, started(command, stderr=log):
        assert until(lambda: result("rate(llambo_rpcs_total[1m])")), (tmp_path / "log").read_text()
        with watched.files() as files:
            assert ask(files, "hello again") == "hello again"
        for query in queries():
            assert until(lambda query=query: result(query)), query
