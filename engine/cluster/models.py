"""The models of the cluster, as one gateway knows them.

Serve has the truth; here is what was last seen of it, the handles that ask, and how each model is
told to the bridge. What a model was loaded with is kept in the cluster's GCS, where every gateway
finds it, also while no replica runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import msgspec
import ray
from ray.exceptions import RayError
from ray.experimental import internal_kv
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from engine import create
from engine.api import EngineError, LoadOptions, ModelState, ModelStatus, ReplicaStatus
from engine.cluster import agent, applications, router
from engine.cluster.copies import CopyStatus, ModelFile, digest
from engine.cluster.wire import Facts, Loaded, Report, Spec, application
from engine.gguf import examine, parts

REPORT_S = 2.0
"""Seconds that replicas get to tell how they are."""

STOP_S = 5.0
"""Seconds that replicas get to end their answers, before their application is deleted."""

KIND = "ray"
"""The ``engine`` of every `ModelStatus` here."""

_NAMESPACE = "llambo"
_specs = msgspec.msgpack.Decoder(Spec)
_reports = msgspec.msgpack.Decoder(Report)


@dataclass
class _Model:
    spec: Spec
    handle: DeploymentHandle
    overview: ApplicationStatusOverview
    facts: dict[str, tuple[str, Facts]] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)
    copies: dict[str, list[CopyStatus]] = field(default_factory=dict)


class Models:
    """See above. engine: what `engine.create` takes. tell: is called with all models whenever one
    has changed. node: names a node by Ray's id."""

    def __init__(
        self,
        engine: str,
        worker_timeout: float,
        tell: Callable[[list[Loaded]], None],
        node: Callable[[str], str],
    ) -> None:
        self._engine = engine
        self._reads_files = create(engine).reads_files
        self._worker_timeout = worker_timeout
        self._tell = tell
        self._node = node
        self._models: dict[str, _Model] = {}
        self._told: list[Loaded] | None = None
        self._refreshing = asyncio.Lock()

    async def handle(self, name: str) -> DeploymentHandle:
        """What asks that model. Raises `EngineError` if there is none."""
        found = router.routers.get(application(name))
        if name not in self._models or found is None or not found.curr_replicas:
            await self.refresh()  # it may have gone, or be another by now
        if name not in self._models:
            raise EngineError(f"no model {name} is loaded")
        return self._models[name].handle

    async def load(self, name: str, path: str, options: LoadOptions) -> None:
        """Have it in the cluster, as `engine.api.Engine.load` says. Raises `EngineError`.
        Cancelled, what it began ends."""
        spec = await self._spec(name, path, options)
        new = await applications.deploy(spec, first=_put(spec))
        try:
            await applications.wait(spec, partial(self._look, spec))
        except EngineError:
            there = (await applications.running()).get(name)
            if there is not None and there.status == ApplicationStatus.DEPLOY_FAILED:
                await self._delete(spec)
            raise
        except asyncio.CancelledError:
            if new:
                await asyncio.shield(self._delete(spec))
            raise
        finally:
            await asyncio.shield(self.refresh())

    async def free(self, name: str) -> None:
        """End its application: its answers fail, those of other bridges too. Raises `EngineError`
        if there is none."""
        await self.refresh()
        if (model := self._models.get(name)) is None:
            raise EngineError(f"no model {name} is loaded")
        await _broadcast(model.handle, STOP_S, "stop", f"model {name} was freed")
        await self._delete(model.spec)
        await self.refresh()

    async def refresh(self) -> None:
        """See what there is now, and tell if it has changed."""
        async with self._refreshing:
            there = await applications.running()
            for name, overview in there.items():
                fingerprint = applications.fingerprint(overview)
                old = self._models.get(name)
                if old is not None and fingerprint in ("", old.spec.fingerprint):
                    old.overview = overview
                elif fingerprint and (spec := _get(name, fingerprint)) is not None:
                    handle = applications.handle(name, fingerprint)
                    self._models[name] = _Model(spec, handle, overview)
            gone = ApplicationStatus.DELETING
            for name in [*self._models]:
                if name not in there or there[name].status == gone:
                    del self._models[name]
            for model in self._models.values():
                self._learn(model)
            self._report()

    async def ask_all(self) -> list[Report]:
        """What all replicas say of themselves now."""
        models = list(self._models.values())
        answers = await asyncio.gather(
            *(_broadcast(model.handle, REPORT_S, "report") for model in models)
        )
        for model, answer in zip(models, answers, strict=True):
            reports = map(_reports.decode, answer)
            model.reports = {report.id: report for report in reports}
            self._learn(model)
        self._report()
        return [report for model in models for report in model.reports.values()]

    async def _delete(self, spec: Spec) -> None:
        try:
            await applications.delete(spec.name)
        finally:
            _forget(spec)

    async def _look(self, spec: Spec) -> None:
        """While it is loading: how far the copies of its file are."""
        if spec.files and (model := self._models.get(spec.name)) is not None:
            nodes = [node["NodeID"] for node in await asyncio.to_thread(ray.nodes)]
            model.copies = await agent.progress(nodes, [file.sha256 for file in spec.files])
        await self.refresh()

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
        found = router.routers.get(application(model.spec.name))
        model.facts = found.facts() if found is not None else {}

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
        deployments = model.overview.deployments.values()
        states = [deployment.replica_states for deployment in deployments]
        starting = sum(state.get("STARTING", 0) for state in states) - len(copying)
        stopping = sum(state.get("STOPPING", 0) for state in states)
        return [
            *copying,
            *[ReplicaStatus(state="loading")] * max(starting, 0),
            *[ReplicaStatus(state="stopping")] * stopping,
        ]


def _note(model: _Model) -> str | None:
    """Why it takes so long, as Serve says."""
    said = [deployment.message for deployment in model.overview.deployments.values()]
    return next((message.splitlines()[0] for message in said if message), None)


async def _file(path: str) -> ModelFile:
    sha256, size = await asyncio.to_thread(digest, path)
    node = ray.get_runtime_context().get_node_id()
    name = path.rpartition("/")[2]
    return ModelFile(name=name, sha256=sha256, size=size, path=path, node=node)


async def _broadcast(handle: DeploymentHandle, timeout_s: float, *call: str) -> list[bytes]:
    """What its replicas return; those that do not in time return nothing."""
    try:
        response = handle.broadcast(*call)
        results = await asyncio.wait_for(response.results_async(), timeout_s)
    except (RayError, RayServeException, TimeoutError):
        return []  # none runs, or one of them has just died
    return list(results)


def _key(name: str, fingerprint: str) -> str:
    return f"{application(name)}/{fingerprint}"


def _put(spec: Spec) -> bool:
    """Keep it; returns whether it was not kept yet."""
    key, value = _key(spec.name, spec.fingerprint), msgspec.msgpack.encode(spec)
    there = internal_kv._internal_kv_put(key, value, overwrite=False, namespace=_NAMESPACE)
    return not there


def _get(name: str, fingerprint: str) -> Spec | None:
    value = internal_kv._internal_kv_get(_key(name, fingerprint), namespace=_NAMESPACE)
    return None if value is None else _specs.decode(value)


def _forget(spec: Spec) -> None:
    internal_kv._internal_kv_del(_key(spec.name, spec.fingerprint), namespace=_NAMESPACE)
