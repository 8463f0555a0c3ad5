"""Another configuration for a bridge that is running: what SIGHUP does.

What can be changed without a client noticing is; of the rest the log says that it needs a
restart. A file with any error in it changes nothing.
"""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Callable, Sequence, Set
from typing import Protocol

import trio

from ctl.bridge import Bridge
from ctl.catalog import Catalog
from ctl.config import Configuration, Invalid, Source, shown
from ctl.options import bridge_options, client_limits, log_level
from fs9p import Limits

BRIDGE = frozenset(
    {"session-ttl", "max-sessions", "max-answers", "max-prompt", "max-conversation", "max-buffered"}
)
"""Keys of `ctl.bridge.Options`."""

CLIENTS = frozenset(
    {"msize", "max-connections", "max-fids", "max-requests", "version-timeout", "idle-timeout"}
)
"""Keys of `fs9p.Limits`."""

MODELS = frozenset({"models", "no-caches"})
"""Keys that a catalog is made of."""

ENGINE = frozenset({"max-models", "worker-timeout"})
"""Keys that an engine may have as attributes; for one that has not, they need a restart."""

LOG = frozenset({"verbose"})

PATIENCE = 30.0
"""Seconds that a file and the directories it names get: a disk may be away, and what hangs must not
keep the next SIGHUP waiting."""

log = logging.getLogger("llambo")


class Service(Protocol):
    """A server of connections, such as `fs9p.Server`."""

    limits: Limits


class Reloading:
    """What a bridge is running with, and where the next configuration is to be found."""

    def __init__(self, source: Source, configuration: Configuration) -> None:
        self._source = source
        self._running = configuration
        self._one_at_a_time = trio.Lock()

    @property
    def file(self) -> str | None:
        """The file that is read again, as it was named; None if there is nothing to reload."""
        return self._source.file

    async def reload(
        self,
        bridge: Bridge,
        services: Sequence[Service],
        catalog_of: Callable[[Namespace], Catalog],
        allow: Callable[[int], None],
    ) -> None:
        """Read the file again, and log what that changed.

        services: whose clients are limited. catalog_of: makes a catalog of the options. allow:
        called with a new number of connections.
        """
        if self.file is None:
            log.warning("SIGHUP: there is nothing to read again without --config")
            return
        async with self._one_at_a_time:
            errors = [f"{self.file}: it, or what it names, did not answer within {PATIENCE:g} s"]
            with trio.move_on_after(PATIENCE):
                try:
                    await self._reload(bridge, services, catalog_of, allow)
                    return
                except Invalid as invalid:
                    errors = invalid.errors
            for error in errors:
                log.error("%s", error)
            log.error("%s: nothing of it is taken over", self.file)

    async def _reload(
        self,
        bridge: Bridge,
        services: Sequence[Service],
        catalog_of: Callable[[Namespace], Catalog],
        allow: Callable[[int], None],
    ) -> None:
        """Raises `Invalid`. Nothing is changed before the last thing that may wait for a disk."""
        new = await trio.to_thread.run_sync(self._source.read, abandon_on_cancel=True)
        old = self._running.values
        changed = [key for key, value in new.values.items() if value != old[key]]
        now = [key for key in changed if _changeable(key, bridge)]
        later = [key for key in changed if key not in now]
        values = {**old, **{key: new.values[key] for key in now}}
        running = Configuration(values, new.origins)
        args = running.args
        catalog = None
        if MODELS.intersection(now):
            catalog = await trio.to_thread.run_sync(catalog_of, args, abandon_on_cancel=True)
            catalog.inherit(bridge.catalog)
            await catalog.look()
        _limit(set(now), args, bridge, services, allow)
        if catalog is not None:
            bridge.replace_catalog(catalog)
        self._running = running
        said = [f"{key} {shown(key, old[key])} → {shown(key, values[key])}" for key in now]
        if later:
            said.append(f"needs a restart: {', '.join(later)}")
        log.info("%s read again: %s", self.file, "; ".join(said) or "nothing has changed")


def _limit(
    keys: Set[str],
    args: Namespace,
    bridge: Bridge,
    services: Sequence[Service],
    allow: Callable[[int], None],
) -> None:
    """Set anew what belongs to these keys, but for the models."""
    if keys & BRIDGE:
        bridge.options = bridge_options(args)
        bridge.reconfigured.unpark_all()
    if keys & CLIENTS:
        limits = client_limits(args)
        allow(limits.connections)
        for service in services:
            service.limits = limits
    for key in keys & ENGINE:
        setattr(bridge.engine, _attribute(key), getattr(args, _attribute(key)))
    if keys & LOG:
        logging.getLogger().setLevel(log_level(args))


def _changeable(key: str, bridge: Bridge) -> bool:
    if key in ENGINE:
        return hasattr(bridge.engine, _attribute(key))
    return key in BRIDGE | CLIENTS | MODELS | LOG


def _attribute(key: str) -> str:
    return key.replace("-", "_")
