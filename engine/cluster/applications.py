"""Models as Ray Serve applications: what is deployed, joined and deleted, and what runs of it.

All of Serve's calls block, so they run in threads. An application's name is that of its model; its
one deployment is called after the fingerprint of what it does, so that whoever wants the same
finds it, and an application that does something else is seen to.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
import ray
from grpc import RpcError
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from engine.api import EngineError, LoadOptions, cache_size
from engine.cluster.replica import Replica
from engine.cluster.wire import Spec, application, model_of

DRAIN_S = 24 * 3600.0
"""Seconds that a replica which is not wanted any more gets to end its answers. None takes that
long. One that hangs meanwhile is not noticed: until then it keeps what it has of its node, unless
its model is freed."""

GRACE_S = 3.0
"""Seconds that replicas get to end when their application is deleted, before they are killed."""

GONE_S = 60.0
"""Seconds after which an application that is not gone is an error."""

TRIES = 3
"""How often Serve tries to start a replica before it gives the application up."""

PATIENCE_S = 5.0
"""Seconds for which an application that another gateway deploys is waited for."""

RESERVE = 16
"""Calls that a replica takes besides the questions it gets at once."""

STARTS = 20
"""How often Serve is tried to be started, or found."""

POLL_S = 0.25
"""Seconds between two looks at an application that is being deployed."""

SLOWER = 1.3
"""By what these grow from look to look, to `SLOW_S`: there may be a bridge on every node."""

SLOW_S = 2.0
"""The longest of them."""

BYTES_PER_TOKEN = 4
"""Of a prompt, about: what turns cells of the KV cache into bytes of what is in them."""

_ACTOR = "SERVE_REPLICA::"

_ERROR = re.compile(r"EngineError: (.*)")

# The replacement of a replica that hangs must not wait until it has drained.
_CONTROLLER = {"runtime_env": {"env_vars": {"RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1"}}}

# Our code runs in the loop of Serve's transport. A loop of its own would be one more on the way of
# every message: an eighth more of the processor, and with a thousand answers seconds of delay.
_REPLICA = {"runtime_env": {"env_vars": {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"}}}


async def start() -> None:
    """Have Serve run in the cluster: without HTTP, if it is we who start it. Another gateway may
    start it at the same time; then it is there at the next try."""
    begin = partial(serve.start, proxy_location="Disabled", controller_options=_CONTROLLER)
    for _ in range(STARTS):
        with suppress(ValueError):  # "Actor with name 'SERVE_CONTROLLER_ACTOR' already exists"
            return await asyncio.to_thread(begin)
        await asyncio.sleep(POLL_S)
    return await asyncio.to_thread(begin)


async def running() -> dict[str, ApplicationStatusOverview]:
    """Our applications, by the names of their models; none where somebody has shut Serve down."""
    try:
        status = await asyncio.to_thread(serve.status)
    except RayServeException:
        return {}
    return {
        model: overview
        for name, overview in status.applications.items()
        if (model := model_of(name)) is not None
    }


def fingerprint(overview: ApplicationStatusOverview) -> str:
    """Of what it does: the name of its deployment; empty while there is none."""
    return next(iter(overview.deployments), "")


def answers(overview: ApplicationStatusOverview) -> bool:
    """Whether it has a replica that runs."""
    states = [deployment.replica_states for deployment in overview.deployments.values()]
    return any(state.get("RUNNING") for state in states)


def handle(model: str, fingerprint: str) -> DeploymentHandle:
    """What asks the replicas of a model."""
    # Not one that Serve keeps: its router knows what was when a deployment of the same name ended.
    return DeploymentHandle(fingerprint, application(model)).options(
        stream=True,
        method_name="answer",
        request_serialization="pickle",
        response_serialization="pickle",
    )


async def call(
    handle: DeploymentHandle, timeout_s: float, *method: str
) -> tuple[list[bytes], bool]:
    """What its replicas return, and whether there are some that do not in time."""
    try:
        async with asyncio.timeout(timeout_s):
            # `results_async` has all of them, or none.
            called = await handle.broadcast(*method)._fetch_replica_results_async()
    except (RayError, RayServeException, TimeoutError):
        return [], False  # none runs
    tasks = [asyncio.ensure_future(one.get_async()) for one in called]
    if not tasks:
        return [], False
    done, late = await asyncio.wait(tasks, timeout=timeout_s)
    for task in late:
        task.cancel()
    results = []
    for task in done:
        with suppress(RayError, RayServeException, RpcError):  # it has just died
            results.append(task.result())
    return results, bool(late)


async def deploy(spec: Spec, *, first: bool) -> bool:
    """Have an application that does what ``spec`` says, and do not wait for its replicas. Returns
    whether it is new: one that is there and does the same is left as it is, for to deploy it again
    would replace its replicas.

    first: whether nobody has begun to deploy it. Who is not the first waits, for a while, until it
    is there: a thousand bridges may be started at once, and all load the same.
    """
    patience = 0.0 if first else PATIENCE_S
    while True:
        there = (await running()).get(spec.name)
        if there is not None and there.status == ApplicationStatus.DELETING:
            await delete(spec.name)
        elif (
            there is not None
            and there.status != ApplicationStatus.DEPLOY_FAILED
            and fingerprint(there) == spec.fingerprint
        ):
            return False
        if patience <= 0:
            break
        await asyncio.sleep(POLL_S)
        patience -= POLL_S
    await start()
    target = serve.RunTarget(_deployment(spec), application(spec.name), route_prefix=None)
    await asyncio.to_thread(serve.run_many, [target], wait_for_applications_running=False)
    return True


async def wait(
    spec: Spec, look: Callable[[], Awaitable[dict[str, ApplicationStatusOverview]]]
) -> None:
    """Until a replica of it runs. look: does what `running` does. Raises `EngineError` if none
    will, or if the application has gone or changed."""
    pause = POLL_S
    while True:
        there = (await look()).get(spec.name)
        if there is None or fingerprint(there) not in ("", spec.fingerprint):
            raise EngineError(f"model {spec.name} was freed or loaded anew while it was loading")
        if there.status == ApplicationStatus.DEPLOY_FAILED:
            raise EngineError(why_failed(there))
        if answers(there):
            return
        if there.status == ApplicationStatus.RUNNING and spec.options.placement.min_replicas == 0:
            return  # none is wanted before there is a request
        await asyncio.sleep(pause)
        pause = min(pause * SLOWER, SLOW_S)


async def delete(model: str) -> None:
    """End its application; return when it is gone. Replicas that hang, or have never started, do
    not end by themselves, and are killed. Raises `EngineError` if it takes more than a minute."""
    before = (await running()).get(model)
    await asyncio.to_thread(serve.delete, application(model), _blocking=False)
    waited = 0.0
    # One that is deployed meanwhile, by the same name, is another.
    while (there := (await running()).get(model)) and before is not None:
        if there.last_deployed_time_s != before.last_deployed_time_s:
            return
        if waited >= GONE_S:
            raise EngineError(f"i/o error: the replicas of {model} do not end")
        if waited >= GRACE_S:
            await asyncio.to_thread(_kill, model)
        await asyncio.sleep(POLL_S)
        waited += POLL_S


def _kill(model: str) -> None:
    """End its replicas, whatever they do."""
    beginning = f"{_ACTOR}{application(model)}#"
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["name"].startswith(beginning):
            with suppress(ValueError):  # it has just gone
                ray.kill(ray.get_actor(actor["name"], namespace=actor["namespace"]))


def actor(spec: Spec, replica: str) -> str:
    """The name of the actor that a replica is."""
    return f"{_ACTOR}{application(spec.name)}#{spec.fingerprint}#{replica}"


def actors() -> set[str]:
    """The names of all that Ray has, and has not told to end. Blocks."""
    return {actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)}


def why_failed(overview: ApplicationStatusOverview) -> str:
    """The sentence in what Serve says of an application that failed: it quotes tracebacks."""
    messages = [*(d.message for d in overview.deployments.values()), overview.message]
    for message in messages:
        if found := _ERROR.findall(message):
            return str(found[-1]).strip()
    said = next((message for message in messages if message), "for no reason that Serve tells of")
    return f"the replicas did not start: {said.strip().splitlines()[-1]}"


def _deployment(spec: Spec) -> serve.Application:
    placement, options = spec.options.placement, spec.options
    target = placement.target_ongoing_requests or max(options.n_seq / 2, 1)
    limit = options.n_seq + max(options.n_seq // 4, 8)
    scaling = placement.max_replicas > placement.min_replicas
    replicas: dict[str, Any] = {"num_replicas": placement.min_replicas}
    if scaling:
        replicas = {
            "autoscaling_config": {
                "min_replicas": placement.min_replicas,
                "max_replicas": placement.max_replicas,
                "target_ongoing_requests": target,
                "upscale_delay_s": placement.upscale_delay_s,
                "downscale_delay_s": placement.downscale_delay_s,
                "look_back_period_s": placement.look_back_period_s,
                "metrics_interval_s": min(max(placement.look_back_period_s / 5, 0.1), 10.0),
            }
        }
    deployment = serve.deployment(
        Replica,
        name=spec.fingerprint,
        ray_actor_options={
            "num_cpus": placement.num_cpus,
            "num_gpus": placement.num_gpus,
            **_REPLICA,
        },
        # What is more waits in the gateways, and goes to a replica that is started meanwhile. A
        # replica that is full is still to be asked how it is, and told to stop.
        max_ongoing_requests=limit + RESERVE,
        graceful_shutdown_timeout_s=DRAIN_S,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=2.0,
        health_check_timeout_s=10.0,
        max_constructor_retry_count=TRIES,
        # A line in a file for every answer takes as long as three messages.
        logging_config={"enable_access_log": False},
        request_router_config={
            "request_router_class": "engine.cluster.pickled.PickledRouter",
            "request_router_kwargs": {"capacity": _capacity(options), "limit": limit},
            "max_backoff_s": 0.1,
        },
        **replicas,
    )
    return deployment.bind(msgspec.msgpack.encode(spec))


def _capacity(options: LoadOptions) -> int:
    """Bytes of prompts whose computation a replica keeps, about, without what ``cache_ram``
    adds: that depends on the model."""
    return BYTES_PER_TOKEN * cache_size(options, 0)[1]
