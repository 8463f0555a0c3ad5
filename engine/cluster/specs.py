"""What models were loaded with, and who waits for them, in the cluster's GCS.

Every gateway finds it there, also while no replica runs. All of this blocks, and imports Ray.
"""

from __future__ import annotations

import uuid

import msgspec
from ray.experimental import internal_kv

from engine.cluster.wire import NAMESPACE, PROTOCOL, Spec, application

_WAITS = "waits/"

_specs = msgspec.msgpack.Decoder(Spec)


def put(spec: Spec, *, overwrite: bool = False) -> bool:
    """Keep it; returns whether it was not kept yet."""
    key, value = _all(spec.name) + spec.fingerprint, msgspec.msgpack.encode(spec)
    there = internal_kv._internal_kv_put(key, value, overwrite=overwrite, namespace=NAMESPACE)
    return not there


def get(name: str, fingerprint: str) -> Spec | None:
    """What was put of that name and `Spec.fingerprint`."""
    value = internal_kv._internal_kv_get(_all(name) + fingerprint, namespace=NAMESPACE)
    return None if value is None else _specs.decode(value)


def forget(name: str) -> None:
    """Keep none of that name, whatever its options: it may have been replaced some times; nor who
    waited for it, who may have died."""
    for keys in (_all(name), _WAITS + _all(name)):
        internal_kv._internal_kv_del(keys, del_by_prefix=True, namespace=NAMESPACE)


class Wait:
    """Somebody waits for a model to be loaded, from `begin` to `end`, and all gateways can know.
    One that a gateway leaves behind as it dies keeps, until FREE, what `others` give up."""

    def __init__(self, spec: Spec) -> None:
        self._all = f"{_WAITS}{_all(spec.name)}{spec.fingerprint}/"
        self._key = self._all + uuid.uuid4().hex

    def begin(self) -> None:
        """From now on."""
        internal_kv._internal_kv_put(self._key, b"", namespace=NAMESPACE)

    def end(self) -> None:
        """No more; may be said twice."""
        internal_kv._internal_kv_del(self._key, namespace=NAMESPACE)

    def others(self) -> bool:
        """Whether somebody waits for the same, once this one has ended."""
        return bool(internal_kv._internal_kv_list(self._all, namespace=NAMESPACE))


def _all(name: str) -> str:
    """What the keys of a model begin with."""
    return f"{PROTOCOL}/{application(name)}/"
