"""What is installed here as wheels again, so that pip can install it elsewhere without a network
and without compiling llama.cpp a second time."""

from __future__ import annotations

import importlib.metadata
import zipfile
from importlib.metadata import Distribution
from pathlib import Path

from packaging.requirements import Requirement


def needed(requirements: list[str]) -> dict[str, Distribution]:
    """The distributions that these requirements mean, and what they need, by name.

    Raises ``importlib.metadata.PackageNotFoundError`` where one is not installed here.
    """
    found: dict[str, Distribution] = {}
    left = [Requirement(text) for text in requirements]
    while left:
        requirement = left.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        distribution = importlib.metadata.distribution(requirement.name)
        if found.setdefault(distribution.name, distribution) is distribution:
            left += [Requirement(text) for text in distribution.requires or []]
    return found


def pack(distribution: Distribution, folder: Path) -> Path:
    """A wheel in the folder, of the files that the distribution's own wheel brought."""
    about = distribution.read_text("WHEEL") or ""
    tags = [line[5:].split("-") for line in about.splitlines() if line.startswith("Tag: ")]
    # A file's name has all of them: py2-none-any and py3-none-any are py2.py3-none-any.
    tag = "-".join(".".join(dict.fromkeys(parts)) for parts in zip(*tags, strict=True))
    name = distribution.name.replace("-", "_")
    wheel = folder / f"{name}-{distribution.version}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in distribution.files or []:
            # Commands are made anew from entry points; byte code is of the installation.
            if ".." not in file.parts and "__pycache__" not in file.parts:
                archive.write(distribution.locate_file(file), str(file))
    return wheel
