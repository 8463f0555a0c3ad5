"""`metrics`: what was counted, and what is the case, as Prometheus reads it."""

import json
import re
from pathlib import Path

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from ctl import metrics
from fs9p import Server
from tests.ctl.cluster import node
from tests.ctl.conftest import Client

ROOT = Path(__file__).parents[2]


async def figures(client):
    """Value of each sample, by its name and labels as they are written."""
    found = {}
    for family in text_string_to_metric_families(await client.read("metrics")):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


async def test_answers_are_counted_by_how_they_ended(client, autojump_clock):
    await client.ask("one two three")
    await client.write("params", "max_tokens 1")
    await client.ask("one two three")
    found = await figures(client)
    assert found["llambo_requests_total{model=echo,outcome=stop}"] == 1
    assert found["llambo_requests_total{model=echo,outcome=length}"] == 1


async def test_a_cancelled_answer_is_counted_as_that(slow, autojump_clock):
    await slow.write("prompt", "one two three")
    await slow.write("ctl", "CANCEL")
    await slow.read("output")
    found = await figures(slow)
    assert found["llambo_requests_total{model=echo,outcome=cancelled}"] == 1


async def test_a_failed_answer_is_counted_as_an_error(client, autojump_clock):
    await client.write("params", "format raw\nmax_tokens 1")
    await client.write("prompt", "word " * 9000)
    with pytest.raises(Exception, match="context"):
        await client.read("output")
    assert (await figures(client))["llambo_requests_total{model=echo,outcome=error}"] == 1


async def test_tokens_are_counted(client):
    await client.ask("one two three")
    usage = (await client.json("usage"))["total"]
    found = await figures(client)
    for kind in ("prompt", "completion", "cached"):
        assert found[f"llambo_{kind}_tokens_total{{model=echo}}"] == usage[f"{kind}_tokens"]


async def test_tokens_of_a_running_answer_are_counted_as_they_come(slow, autojump_clock):
    await slow.write("prompt", "one two three four")
    await trio.sleep(1.2)
    found = await figures(slow)
    assert found["llambo_requests_running{model=echo}"] == 1
    assert found["llambo_requests_queued{model=echo}"] == 0
    assert found["llambo_completion_tokens_total{model=echo}"] == 2


async def test_the_times_of_an_answer_are_in_the_histograms(slow, autojump_clock):
    await slow.ask("one two three")
    found = await figures(slow)
    assert found["llambo_time_to_first_token_seconds_sum{model=echo}"] == pytest.approx(0.5)
    assert found["llambo_time_per_output_token_seconds_sum{model=echo}"] == pytest.approx(0.5)
    assert found["llambo_time_to_first_token_seconds_bucket{le=0.25,model=echo}"] == 0
    assert found["llambo_time_to_first_token_seconds_bucket{le=0.5,model=echo}"] == 1
    assert found["llambo_queue_seconds_count"] == 1


async def test_the_wait_for_a_model_counts_as_time_to_the_first_token(
    slow, slow_bridge, monkeypatch, autojump_clock
):
    ready = slow_bridge.ready

    async def later(name):
        await trio.sleep(3)
        return await ready(name)

    monkeypatch.setattr(slow_bridge, "ready", later)
    await slow.ask("one")
    found = await figures(slow)
    assert found["llambo_time_to_first_token_seconds_sum{model=echo}"] == pytest.approx(3.5)
    assert found["llambo_queue_seconds_sum"] == pytest.approx(3)
    assert (await slow.json("usage"))["last"]["queue_s"] == pytest.approx(3)


async def test_no_counter_goes_away_with_its_model(client):
    await client.ask("one")
    before = await figures(client)
    await client.write("ctl", "FREE")
    after = await figures(client)
    counters = {name for name in before if "_total" in name}
    assert all(after[name] >= before[name] for name in counters)


async def test_a_text_that_was_embedded_is_counted(client):
    await client.write("embed", "a king")
    await client.read("embed")
    found = await figures(client)
    assert found["llambo_embeddings_total{model=echo,outcome=ok}"] == 1


async def test_sessions_requests_and_connections_are_those_of_status(client, bridge):
    bridge.server = Server(client.fs)
    Client(bridge, "new")
    found = await figures(client)
    status = (await client.json("status"))["bridge"]
    assert found["llambo_sessions"] == status["sessions"] == 2
    assert found["llambo_connections{protocol=9p}"] == status["connections"]
    assert found["llambo_rpcs_total{type=Tread}"] == 0


async def test_models_tell_whether_they_can_answer_and_what_they_take(client):
    found = await figures(client)
    assert found["llambo_model_ready{model=echo}"] == 1
    assert found["llambo_model_memory_bytes{model=echo}"] == 0
    assert found["llambo_worker_restarts_total{model=echo}"] == 0


async def test_the_nodes_of_a_cluster_that_are_alive_are_counted(cluster_bridge):
    cluster_bridge.engine.machines.append(node("three", alive=False))
    assert (await figures(Client(cluster_bridge)))["llambo_nodes"] == 2


async def test_replicas_are_counted_by_model_and_state(cluster_bridge):
    client = Client(cluster_bridge)
    await client.write("ctl", "LOAD other")
    found = await figures(client)
    for name in ("echo", "other"):
        for state, count in (("ready", 1), ("copying", 1), ("lost", 0), ("waiting", 0)):
            assert found[f"llambo_replicas{{model={name},state={state}}}"] == count


async def test_one_machine_has_neither_nodes_nor_replicas(client):
    found = await figures(client)
    assert not any(name.startswith(("llambo_nodes", "llambo_replicas")) for name in found)


async def test_the_process_is_described_as_prometheus_expects(client):
    found = await figures(client)
    assert found["process_resident_memory_bytes"] > 1 << 20
    assert found["process_open_fds"] > 3


async def test_models_beyond_the_most_are_counted_together(client, bridge, monkeypatch):
    monkeypatch.setattr(metrics, "MAX_MODELS", 1)
    await client.ask("one")
    for name in ("bigger", "biggest"):
        await client.write("ctl", f"LOAD {name}")
        await client.ask("one")
    found = await figures(client)
    assert found["llambo_requests_total{model=(others),outcome=stop}"] == 2
    assert found["llambo_model_ready{model=(others)}"] == 2
    assert not any("big" in name for name in found)


async def test_the_name_of_a_model_cannot_break_the_text(client):
    await client.write("ctl", "LOAD 'a\"b\\n{}'")
    await client.ask("one")
    found = await figures(client)
    assert found['llambo_requests_total{model=a"b\\n{},outcome=stop}'] == 1


async def test_metrics_is_a_file_of_the_root_only(client, bridge):
    session = Client(bridge, "work").session
    assert "metrics" in client.names()
    assert session.number
    assert "metrics" not in Client(bridge, "").names(str(session.number))


async def test_the_page_of_the_files_names_every_metric(cluster_bridge):
    bridge, client = cluster_bridge, Client(cluster_bridge)
    bridge.server = Server(client.fs)
    await client.ask("one")
    page = ROOT.joinpath("docs/namespace.md").read_text()
    told = set(re.findall(r"`(llambo_\w+)", page))
    families = text_string_to_metric_families(await client.read("metrics"))
    ours = {family.name: family for family in families if family.name.startswith("llambo_")}
    counters = {name for name, family in ours.items() if family.type == "counter"}
    assert told == (ours.keys() - counters) | {f"{name}_total" for name in counters}


async def test_the_dashboard_asks_for_series_and_labels_that_there_are(client, bridge):
    bridge.server = Server(client.fs)
    await client.ask("one two")
    await client.write("embed", "one")
    await client.read("embed")
    labels = {}
    for family in text_string_to_metric_families(await client.read("metrics")):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    dashboard = json.loads(ROOT.joinpath("examples/grafana/llambo.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    queries += [each["query"] for each in dashboard["templating"]["list"] if "query" in each]
    asked = {name for query in queries for name in re.findall(r"(?:llambo|process)_\w+", query)}
    assert len(panels) >= 10
    assert asked <= labels.keys()
    for query in queries:
        used = {name for by in re.findall(r"by \(([^)]*)\)", query) for name in by.split(", ")}
        used |= set(re.findall(r"(\w+)=~?\"", query))
        known = {name for series in asked if series in query for name in labels[series]}
        assert used <= known | {"job", "instance"}, query
