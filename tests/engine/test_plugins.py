"""Engines of other packages: found by their entry points, and refused in one sentence."""

from __future__ import annotations

import pytest

from engine import EngineError, create

MODULE = """
from engine import EngineError

class Made:
    reads_files = True

    def __init__(self, argument, *, max_models, worker_timeout):
        self.told = (argument, max_models, worker_timeout)

number = 5

def nothing(argument, *, max_models, worker_timeout):
    return None

def fails(argument, *, max_models, worker_timeout):
    raise RuntimeError("no such device")

def takes_nothing():
    raise AssertionError

def ends(argument, *, max_models, worker_timeout):
    raise SystemExit(7)

def refuse(argument, *, max_models, worker_timeout):
    raise EngineError(f"invalid engine: {argument!r}")
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A function that installs a package with these entry points: as pip leaves one."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "made.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("import no_such_library\n")
    (tmp_path / "ends.py").write_text("raise SystemExit(7)\n")

    def install(package, *points):
        folder = tmp_path / f"{package}-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
        lines = ["[llambo.engines]", *points]
        (folder / "entry_points.txt").write_text("\n".join(lines))

    return install


@pytest.mark.parametrize(("spec", "argument"), [("tape", ""), ("tape:a:b", "a:b")])
def test_an_engine_of_another_package_gets_its_argument_and_the_limits(installed, spec, argument):
    installed("tapes", "tape = made:Made")
    assert create(spec, max_models=3, worker_timeout=7.0).told == (argument, 3, 7.0)


def test_an_unknown_engine_is_refused_with_those_of_other_packages(installed):
    installed("tapes", "tape = made:Made", "disc = made:Made")
    known = "no engine 'nonsense': there are llama, echo, echo:RATE, ray, disc and tape"
    with pytest.raises(EngineError, match=f"^{known}$"):
        create("nonsense")


def test_no_package_takes_the_place_of_the_engines_that_come_with_the_bridge(installed):
    installed("thief", "echo = made:Made", "llama = made:Made")
    assert [create(name).kind for name in ("echo", "llama")] == ["echo", "llama"]
    with pytest.raises(EngineError, match="no engine 'llama:2'"):
        create("llama:2")


def test_what_the_package_refuses_is_told_in_its_own_words(installed):
    installed("tapes", "tape = made:refuse")
    with pytest.raises(EngineError, match=r"^invalid engine: '9'$"):
        create("tape:9")


def test_an_engine_that_cannot_be_imported_is_refused_with_its_package_and_the_reason(installed):
    installed("tapes", "tape = broken:Made", "disc = made:Absent", "reel = ends:Made")
    with pytest.raises(EngineError, match=r"'tape' of tapes cannot be made: .*no_such_library"):
        create("tape")
    with pytest.raises(EngineError, match="'disc' of tapes cannot be made: .*Absent"):
        create("disc")
    with pytest.raises(EngineError, match="'reel' of tapes cannot be made: SystemExit: 7"):
        create("reel")


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("number", "TypeError: 'int' object is not callable"),
        ("nothing", "TypeError: NoneType is no engine"),
        ("fails", "RuntimeError: no such device"),
        ("takes_nothing", "TypeError: takes_nothing.. "),
        ("ends", "SystemExit: 7"),
    ],
)
def test_an_engine_that_cannot_be_made_is_refused_with_the_reason(installed, function, reason):
    installed("tapes", f"tape = made:{function}")
    with pytest.raises(EngineError, match=f"^engine 'tape' of tapes cannot be made: {reason}"):
        create("tape")


def test_a_name_that_two_packages_bring_is_refused(installed):
    installed("tapes", "tape = made:Made")
    installed("ribbons", "tape = made:refuse")
    with pytest.raises(EngineError, match="brought by ribbons and tapes: uninstall all but one"):
        create("tape")
