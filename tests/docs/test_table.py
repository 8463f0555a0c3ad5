"""Every example of the documentation has somebody who runs it, and every link leads somewhere."""

from __future__ import annotations

import html
import os
import re
import subprocess

import pytest

from benchmarks.picture import COMMANDS, PICTURE
from tests.docs.blocks import ROOT, blocks, pages
from tests.docs.table import TABLE, By

HEADING = re.compile(r"^#+ (.*)", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")


def anchor(heading):
    """As GitHub makes it of a heading."""
    plain = re.sub(r"[^\w\- ]", "", heading.lower())
    return plain.strip().replace(" ", "-")


@pytest.mark.parametrize("page", pages())
def test_somebody_runs_every_block(page):
    assert page in TABLE, f"{page} has no entry in tests/docs/table.py"
    assert [block.key for block in blocks(page) if block.key not in TABLE[page]] == []
    assert TABLE[page].keys() - {block.key for block in blocks(page)} == set()


def test_there_is_no_entry_of_a_page_that_is_gone():
    assert TABLE.keys() - set(pages()) == set()


@pytest.mark.parametrize(
    "test",
    sorted({e.test for page in TABLE.values() for e in page.values() if isinstance(e, By)}),
)
def test_the_tests_that_are_named_are_there(test):
    file, _, name = test.partition("::")
    assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", pages())
def test_every_link_leads_somewhere(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    for path, part in LINK.findall(text):
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert target.exists(), path
        if part:
            assert part in map(anchor, HEADING.findall(target.read_text())), f"{path}#{part}"


def test_make_runs_what_the_readme_says():
    def said(target):
        # As if it were not make itself that runs the tests.
        environ = {name: value for name, value in os.environ.items() if "MAKE" not in name}
        done = subprocess.run(
            ["make", "-n", target],
            cwd=ROOT,
            env=environ,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.splitlines()

    assert said("run")[-1] == ".venv/bin/llambo serve"
    assert {".venv/bin/ruff check", ".venv/bin/mypy", ".venv/bin/pytest"} <= set(said("test"))


def test_the_page_of_engines_shows_the_example_as_it_is():
    example = ROOT / "examples/engine"
    files = (example / "pyproject.toml").read_text() + (example / "upside.py").read_text()
    shown = [block for block in blocks("docs/engine.md") if block.language in ("toml", "python")]
    assert len(shown) == 2
    assert all(block.text in files for block in shown)


def test_the_picture_is_of_these_commands_and_fetches_nothing():
    picture = PICTURE.read_text()
    text = html.unescape(re.sub("<[^>]*>", "", picture)).replace("\xa0", " ")
    assert [command for command in COMMANDS if command not in text] == []
    assert set(re.findall(r"https?:[^\s\"']*", picture)) == {"http://www.w3.org/2000/svg"}
    assert "No such file" not in text
