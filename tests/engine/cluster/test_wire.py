"""What bridge, gateway and replicas say to each other."""

from __future__ import annotations

import msgspec
import pytest

from engine import EngineError, LoadOptions, Placement, frames
from engine.cluster import wire
from engine.cluster.copies import ModelFile
from engine.cluster.wire import Spec, application, model_of
from tests.engine.asking import chat

FILE = ModelFile("m.gguf", "ab" * 32, 10, "/models/m.gguf", "node")
SPEC = Spec("m", "/models/m.gguf", "llama", LoadOptions(), (FILE,))


def changed(**fields):
    return msgspec.structs.replace(SPEC, **fields)


def test_applications_do_the_same_wherever_the_file_lies():
    moved = msgspec.structs.replace(FILE, path="/elsewhere/n.gguf", node="other")
    assert changed(path="/elsewhere/n.gguf", files=(moved,)).fingerprint == SPEC.fingerprint


@pytest.mark.parametrize(
    "other",
    [
        changed(files=(msgspec.structs.replace(FILE, sha256="cd" * 32),)),
        changed(engine="echo"),
        changed(options=LoadOptions(n_ctx=512)),
        changed(options=LoadOptions(placement=Placement(max_replicas=2))),
        changed(adapters=(FILE,), options=LoadOptions(lora=(("/a.gguf", 1.0),))),
    ],
)
def test_applications_that_do_something_else_are_told_apart(other):
    assert other.fingerprint != SPEC.fingerprint


def test_a_model_is_known_by_its_application_whatever_its_name():
    for name in ("m", "a#b", "50%", "Käse 1", "x/y"):
        assert model_of(application(name)) == name
        assert "#" not in application(name)
    assert model_of("somebody-elses") is None


def test_commands_and_events_come_out_as_they_went_in():
    ask = wire.Ask(1, "m", chat("one"), 0.5)
    loaded = wire.Loaded("/m.gguf", LoadOptions(), wire.ModelStatus(name="m"))
    events = [wire.Connected("a:1"), wire.Models([loaded]), frames.Failed(1, "no", lost=True)]
    [command] = map(wire.unpack_command, frames.Unframer().feed(frames.pack(ask)))
    [told] = map(wire.unpack_events, frames.Unframer().feed(frames.pack(events)))
    assert (command, told) == (ask, events)


def test_what_is_no_command_and_no_event_is_refused():
    for unpack in (wire.unpack_command, wire.unpack_events):
        with pytest.raises(EngineError, match="invalid"):
            unpack(b"\xc1")
