"""The manual pages show as they should, and leave out nothing that they describe."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ctl import loadoptions
from ctl.commands import COMMANDS
from ctl.namespace import SESSION_FILES
from ctl.settings import CHOICES, LISTS, NUMBERS
from tests.ctl.conftest import Client
from tests.e2e.programs import missing

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs/man").iterdir())
PAGE = {page.name: page.read_text() for page in PAGES}
INTERFACE = ROOT / "examples/limbo/llambo-ffi.m"

# Inferno's man skips a macro that it does not know, and a page loses its layout in silence.
MACROS = re.compile("TH|SH|SS|PP|TP|IP|RS|RE|PD|EX|EE|br|B|I|BI|IB|BR|RB|IR|RI")
ESCAPES = re.compile(r"\\[-e&]|\\\((bu|em)|\\f[RBP]")


def section(page, heading):
    """What is between that heading and the next."""
    parts = re.split(r"^\.SH (.*)\n", PAGE[page], flags=re.MULTILINE)
    return parts[parts.index(heading) + 1]


def tags(text):
    """The lines that name an entry of a list of definitions."""
    return re.findall(r"^\.TP.*\n(.*)", text, re.MULTILINE)


def named(text):
    """The first words of those lines, without their fonts."""
    return {re.match(r"\.[BIR]+ \"?([\w./]*)", tag)[1] for tag in tags(text) if tag[0] == "."}


def shown(text):
    """An example as it is typed."""
    return text.replace(r"\-", "-").replace(r"\e", "\\")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_shows_without_a_warning(page):
    nroff = shutil.which("nroff")
    if nroff is None:
        missing("nroff", "nroff is missing: install groff")
    done = subprocess.run([nroff, "-man", "-ww", page], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "DESCRIPTION" in re.sub(".\b", "", done.stdout)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_has_only_what_inferno_knows(page):
    text = PAGE[page.name]
    assert text.isascii()
    macros = set(re.findall(r"^[.'](\S*)", text, re.MULTILINE))
    assert {macro for macro in macros if not MACROS.fullmatch(macro)} == set()
    assert "\\" not in ESCAPES.sub("", text)


async def test_llambo_4_names_every_file(cluster_bridge):
    files = set(Client(cluster_bridge).names())
    assert files == {kind.name for kind in SESSION_FILES} | {"models", "nodes", "metrics", "help"}
    text = PAGE["llambo.4"]
    assert files <= named(text[text.index(".SS Files") : text.index(".SS Questions")])
    assert files <= set(re.findall(r"\w+", section("llambo.4", "SYNOPSIS")))


def test_llambo_4_names_every_command_and_option():
    text = PAGE["llambo.4"]
    assert set(COMMANDS) <= named(text[text.index(".SS Commands") : text.index(".SS Options")])
    one_machine = {*loadoptions.NUMBERS, *loadoptions.WORDS, loadoptions.LORA}
    options = one_machine | loadoptions.CLUSTER.keys()
    assert options == named(text[text.index(".SS Options") : text.index(".SS Settings")])


async def test_llambo_4_has_every_setting_with_its_first_value(client):
    text = shown(PAGE["llambo.4"])
    settings = re.search(r"^\.SS Settings.*?^\.EX\n(.*?)^\.EE", text, re.MULTILINE | re.DOTALL)[1]
    lines = [re.split(" {2,}", line)[0] for line in settings.splitlines()]
    assert lines == (await client.read("params")).splitlines()
    assert {line.split()[0] for line in lines} == {*NUMBERS, *CHOICES, *LISTS}


def test_llambo_ffi_2_declares_what_the_module_does():
    synopsis = shown(section("llambo-ffi.2", "SYNOPSIS"))
    declared = synopsis[synopsis.index("PATH:") : synopsis.rindex(".EE")]
    assert f"Llambo:module{{{compact(declared)}}};" == compact(INTERFACE.read_text())


def test_llambo_ffi_2_describes_every_function_and_member():
    description = section("llambo-ffi.2", "DESCRIPTION")
    words = set(re.findall(r"\w+", "\n".join(tags(description))))
    bold = set(re.findall(r"\w+", "\n".join(re.findall(r"^\.B.*", description, re.MULTILINE))))
    text = re.sub(r"#.*", "", INTERFACE.read_text())
    adts = dict(re.findall(r"(\w+):\s*adt\s*\{(.*?)\};", text, re.DOTALL))
    assert adts.keys() | {"Init", "Gone"} <= bold
    for adt, body in adts.items():
        members = set(re.findall(r"^\t\t(\w+):", body, re.MULTILINE))
        assert members, adt
        assert members <= words, adt


def compact(text):
    """Declarations without comments and white space."""
    return re.sub(r"#.*|\s", "", text)


def test_the_example_of_llambo_ffi_2_can_be_taken_from_it():
    assert example().startswith("implement Ask;\n")
    assert '\tsys->print("\\n");\n' in example()


def example():
    """The program in llambo-ffi(2), ready to compile."""
    blocks = re.findall(r"^\.EX\n(.*?)^\.EE", PAGE["llambo-ffi.2"], re.MULTILINE | re.DOTALL)
    return shown(next(block for block in blocks if block.startswith("implement")))
