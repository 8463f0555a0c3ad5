"""The models of the cluster, as one gateway knows them.

Serve has the truth; here is what was last seen of it, the handles that ask, and how each model is
told to the bridge. What a model was loaded with is in `engine.cluster.specs`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
import ray
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from engine import create
from engine.api import EngineError, LoadOptions, ModelState, ModelStatus, ReplicaStatus
from engine.cluster import agent, applications, router, specs
from engine.cluster.copies import CopyStatus, ModelFile, digest
from engine.cluster.others import agents
from engine.cluster.processes import Process, end
from engine.cluster.wire import Facts, Loaded, Report, Spec, application
from engine.gguf import examine, parts

REPORT_S = 2.0
"""Seconds that replicas get to tell how they are."""

READY_S = 10.0
"""Seconds in which a replica that runs is known to all that ask it."""

STOP_S = 5.0
"""Seconds that replicas get to end their answers, before their application is deleted."""

AGAIN_S = 0.5
"""Seconds for which a look at the cluster is new enough for a question without a replica."""

KIND = "ray"
"""The ``engine`` of every `ModelStatus` here."""

T = TypeVar("T")

_reports = msgspec.msgpack.Decoder(Report)


@dataclass
class _Model:
    spec: Spec
    handle: DeploymentHandle
    overview: ApplicationStatusOverview
    facts: dict[str, tuple[str, Facts]] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)
    copies: dict[str, list[CopyStatus]] = field(default_factory=dict)

    @property
    def where(self) -> tuple[str, str]:
        """Its application and deployment."""
        return application(self.spec.name), self.spec.fingerprint

    def in_state(self, state: str) -> int:
        """How many of its replicas Serve says are so."""
        deployments = self.overview.deployments.values()
        return sum(deployment.replica_states.get(state, 0) for deployment in deployments)

    @property
    def router(self) -> router.AffinityRouter | None:
        """Where its requests go; None before anything was asked."""
        return router.routers.get(self.where)


class Models:
    """See above. engine: what `engine.create` takes. tell: is called with all models whenever one
    has changed. node: names a node by Ray's id. moved: is called with the name of each that has
    gone, or is another. end: ends the questions to a model, with that error."""

    def __init__(
        self,
        engine: str,
        worker_timeout: float,
        tell: Callable[[list[Loaded]], None],
        node: Callable[[str], str],
        moved: Callable[[str], None],
        end: Callable[[str, str], None],
    ) -> None:
        self._engine = engine
        self._reads_files = create(engine).reads_files
        self._worker_timeout = worker_timeout
        self._tell = tell
        self._node = node
        self._moved = moved
        self._end = end
        self._models: dict[str, _Model] = {}
        self._silent: dict[str, Process] = {}
        """Of replicas that did not say in time how they are, by the names of their actors."""
        self._told: list[Loaded] | None = None
        self._refreshing = asyncio.Lock()
        self._refreshed = float("-inf")

    async def handle(self, name: str) -> DeploymentHandle:
        """What asks that model. Raises `EngineError` if there is none."""
        model = self._models.get(name)
        if model is None or model.router is None or not model.router.curr_replicas:
            # It may have gone, or be another by now. One look for all who wait for it.
            async with self._refreshing:
                if time.monotonic() - self._refreshed > AGAIN_S:
                    await self._refresh()
        if name not in self._models:
            raise EngineError(f"no model {name} is loaded")
        return self._models[name].handle

    async def load(self, name: str, path: str, options: LoadOptions) -> None:
        """Have it in the cluster, as `engine.api.Engine.load` says. Raises `EngineError`.
        Cancelled, what is on its way ends, unless somebody else waits for it."""
        spec = self._joined(name, path, options) or await self._spec(name, path, options)
        wait = specs.Wait(spec)
        try:
            await shielded(asyncio.to_thread(wait.begin))
            await self._load(spec, wait)
        finally:
            await shielded(asyncio.to_thread(wait.end))
            await shielded(self.refresh())

    async def _load(self, spec: Spec, wait: specs.Wait) -> None:
        first = await asyncio.to_thread(specs.put, spec)
        deploying = asyncio.ensure_future(applications.deploy(spec, first=first))
        try:
            if await asyncio.shield(deploying):
                await asyncio.to_thread(specs.put, spec, overwrite=True)
            await applications.wait(spec, self._look)
            await self._until_ready(spec)
        except EngineError:
            there = (await applications.running()).get(spec.name)
            if there is not None and there.status == ApplicationStatus.DEPLOY_FAILED:
                await self._delete(spec)
            raise
        except asyncio.CancelledError:
            # What it began in a thread cannot be left in the middle.
            await asyncio.wait([deploying])
            deploying.exception()  # else asyncio says that nobody has seen it
            await shielded(self._give_up(spec, wait))
            raise

    async def _give_up(self, spec: Spec, wait: specs.Wait) -> None:
        """End what is on its way, whoever began it, unless somebody else waits for it."""
        await asyncio.to_thread(wait.end)
        there = (await applications.running()).get(spec.name)
        if (
            there is not None
            and there.status == ApplicationStatus.DEPLOYING
            and applications.fingerprint(there) in ("", spec.fingerprint)
            and not applications.answers(there)
            and not await asyncio.to_thread(wait.others)
        ):
            await self._delete(spec)

    async def free(self, name: str) -> None:
        """End its application: its answers fail, those of other bridges too. Raises `EngineError`
        if there is none."""
        await self.refresh()
        if (model := self._models.get(name)) is None:
            raise EngineError(f"no model {name} is loaded")
        why = f"model {name} was freed"
        self._end(name, why)
        await self._call(model, STOP_S, "stop", why)
        await self._delete(model.spec)
        await self.refresh()

    async def refresh(self) -> None:
        """See what there is now, and tell if it has changed."""
        async with self._refreshing:
            await self._refresh()

    async def reap(self) -> None:
        """End the processes of replicas that were silent, and that Ray was told to end: one that is
        stopped does not."""
        if not self._silent:
            return
        there = await asyncio.to_thread(applications.actors)
        told = [self._silent.pop(name) for name in self._silent.keys() - there]
        await asyncio.to_thread(end, told)

    async def _until_ready(self, spec: Spec) -> None:
        """Until it is known here that it is ready: Serve tells routers a moment after `wait`."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            model = self._models.get(spec.name)
            if model is None or model.spec.fingerprint != spec.fingerprint:
                return  # it was ready, and what it is now concerns others
            self._learn(model)
            if self._status(model).state == "ready":
                return
            await asyncio.sleep(0.05)

    async def _refresh(self) -> dict[str, ApplicationStatusOverview]:
        there = await applications.running()
        for name, overview in there.items():
            fingerprint = applications.fingerprint(overview)
            old = self._models.get(name)
            if old is not None and fingerprint in ("", old.spec.fingerprint):
                old.overview = overview
            elif fingerprint and (spec := await asyncio.to_thread(specs.get, name, fingerprint)):
                if old is not None:
                    await self._drop(old)
                handle = applications.handle(name, fingerprint)
                self._models[name] = _Model(spec, handle, overview)
        for name, model in list(self._models.items()):
            if name not in there or there[name].status == ApplicationStatus.DELETING:
                await self._drop(model)
        for model in self._models.values():
            await self._see_copies(model)
            self._learn(model)
        self._refreshed = time.monotonic()
        self._report()
        return there

    async def _drop(self, model: _Model) -> None:
        """It has gone, or is another: with its router, and what waits for that."""
        name = model.spec.name
        del self._models[name]
        router.routers.pop(model.where, None)
        self._moved(name)
        await model.handle.shutdown_async()

    async def ask_all(self) -> list[Report]:
        """What all replicas say of themselves now."""
        models = list(self._models.values())
        await asyncio.gather(*map(self._ask, models))
        self._report()
        return [report for model in models for report in model.reports.values()]

    async def _ask(self, model: _Model) -> None:
        """What its replicas say of themselves now."""
        model.reports = await self._call(model, REPORT_S, "report")
        self._learn(model)

    async def _call(self, model: _Model, timeout_s: float, *call: str) -> dict[str, Report]:
        """What its replicas return, by their ids; those that do not in time are remembered."""
        results, late = await applications.call(model.handle, timeout_s, *call)
        reports = {report.id: report for report in map(_reports.decode, results)}
        for id, (node, facts) in model.facts.items():
            actor = applications.actor(model.spec, id)
            if id in reports:
                self._silent.pop(actor, None)
            elif late:
                self._silent[actor] = Process(node, facts.pid, facts.created)
        return reports

    async def _delete(self, spec: Spec) -> None:
        # First: somebody may deploy it anew before this has returned.
        await asyncio.to_thread(specs.forget, spec.name)
        await applications.delete(spec.name)

    async def _look(self) -> dict[str, ApplicationStatusOverview]:
        async with self._refreshing:
            return await self._refresh()

    async def _see_copies(self, model: _Model) -> None:
        """How far its file is on the nodes, while replicas start, the later ones too."""
        if not (model.spec.files and model.in_state("STARTING")):
            model.copies = {}
            return
        nodes = await asyncio.to_thread(agents)
        model.copies = await agent.progress(nodes, [file.sha256 for file in model.spec.files])

    def _joined(self, name: str, path: str, options: LoadOptions) -> Spec | None:
        """What such a model does that is there, if its file is another machine's to know."""
        model = self._models.get(name)
        if model is None or (model.spec.path, model.spec.options) != (path, options):
            return None
        here = ray.get_runtime_context().get_node_id()
        elsewhere = model.spec.files and model.spec.files[0].node != here
        return model.spec if elsewhere else None

    async def _spec(self, name: str, path: str, options: LoadOptions) -> Spec:
        spec = Spec(name, path, self._engine, options, worker_timeout=self._worker_timeout)
        if not self._reads_files:
            return spec
        # Refused here if it is no model, before it is copied anywhere. Whether it fits, its node
        # must say.
        await asyncio.to_thread(examine, path, options)
        files = [await _file(part) for part in parts(path)]
        adapters = [await _file(adapter) for adapter, _ in options.lora]
        return msgspec.structs.replace(spec, files=tuple(files), adapters=tuple(adapters))

    def _learn(self, model: _Model) -> None:
        model.facts = model.router.facts() if model.router is not None else {}

    def _report(self) -> None:
        told = [
            Loaded(model.spec.path, model.spec.options, self._status(model))
            for model in self._models.values()
        ]
        if told != self._told:
            self._told = told
            self._tell(told)

    def _status(self, model: _Model) -> ModelStatus:
        replicas = (*self._ready(model), *self._coming(model))
        ready = any(replica.state == "ready" for replica in replicas)
        state: ModelState = "loading"
        error = None
        if ready or (
            model.overview.status == ApplicationStatus.RUNNING
            and model.spec.options.placement.min_replicas == 0
        ):
            state = "ready"
        elif model.overview.status == ApplicationStatus.DEPLOY_FAILED:
            state, error = "failed", applications.why_failed(model.overview)
        facts = next((facts.status for _, facts in model.facts.values()), ModelStatus())
        progress = [replica.progress for replica in replicas if replica.state == "copying"]
        note = _note(model) if state == "loading" else facts.note
        return msgspec.structs.replace(
            facts,
            name=model.spec.name,
            path=model.spec.path,
            state=state,
            progress=1.0 if state == "ready" else min(progress, default=0.0),
            error=error,
            file_bytes=sum(file.size for file in model.spec.files) or None,
            memory_bytes=None,
            engine=KIND,
            note=note,
            restarts=sum(report.restarts for report in model.reports.values()),
            unused_s=0.0,
            replicas=replicas,
        )

    def _ready(self, model: _Model) -> list[ReplicaStatus]:
        replicas = []
        for id, (node, _) in sorted(model.facts.items()):
            said = model.reports.get(id)
            replicas.append(
                ReplicaStatus(
                    id=id,
                    node=self._node(node),
                    state="ready",
                    progress=1.0,
                    running=said.running if said else 0,
                    queued=said.queued if said else 0,
                    tokens_per_second=said.tokens_per_second if said else 0.0,
                )
            )
        return replicas

    def _coming(self, model: _Model) -> list[ReplicaStatus]:
        """Those that do not answer yet, or no more. Which of them is on which node, only those
        tell that copy."""
        copying = [
            ReplicaStatus(
                node=self._node(node),
                state="copying",
                progress=round(copy.done / max(copy.size, 1), 3),
                error=copy.error,
            )
            for node, copies in model.copies.items()
            for copy in copies
            if copy.state in ("copying", "checking")
        ]
        loading = max(model.in_state("STARTING") - len(copying), 0)
        return [
            *copying,
            *[ReplicaStatus(state="loading")] * loading,
            *[ReplicaStatus(state="stopping")] * model.in_state("STOPPING"),
        ]


def _note(model: _Model) -> str | None:
    """Why it takes so long, as Serve says."""
    said = [deployment.message for deployment in model.overview.deployments.values()]
    return next((message.splitlines()[0] for message in said if message), None)


async def shielded(work: Coroutine[Any, Any, T]) -> T:
    """Do it to its end, also where the task is cancelled meanwhile, which then goes on."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def _file(path: str) -> ModelFile:
    sha256, size = await asyncio.to_thread(digest, path)
    node = ray.get_runtime_context().get_node_id()
    name = path.rpartition("/")[2]
    return ModelFile(name=name, sha256=sha256, size=size, path=path, node=node)
