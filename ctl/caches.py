"""Where model files are: the folders that are named, and where other programs keep theirs.

One function a layout, each of them given a root and yielding the models below it. They only read
directories (and Ollama's manifests), never a model, and what they cannot read they leave out: it is
not ours, some of it is being downloaded, and nobody asked for it. A disk may be away, so all of
this is called in a thread.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

import msgspec

from engine import gguf

log = logging.getLogger("llambo")

MAX_ENTRIES = 20_000
"""Directories and model files of one source that are looked at: somebody's whole disk is no
cache."""

FOLDER_DEPTH = 2
"""Directories below a folder: ``FOLDER/ORG/REPO/x.gguf`` is the deepest in use."""

SNAPSHOT_DEPTH = 3
"""Directories below a revision in the Hugging Face cache: a repository has some of its own."""

MAX_MANIFEST = 1 << 20
"""Bytes of one of Ollama's manifests; they have about a thousand."""

MAX_NAME = 255
"""Bytes of a model's name: those of a file (limits.h)."""

SUFFIX = ".gguf"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model's file, or the first one of its parts.

    name: what it is called where it was found. whose: by whom, to tell two of one name apart.
    size: bytes of all parts. stamp: device, inode, and time of the last change (ns).
    """

    name: str
    whose: str
    path: str
    size: int
    stamp: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Source:
    """A place to look for models in. title: what it is called in a list. shared: whether it was
    named for everybody, those included whom nobody authenticated."""

    title: str
    root: str
    look: Callable[[str], Iterator[ModelFile]]
    shared: bool = False


class _Limit:
    """How many names of the source at ``root`` may still be looked at."""

    def __init__(self, root: str) -> None:
        self.left = MAX_ENTRIES
        self._root = root

    def take(self, names: list[str]) -> list[str]:
        """Those of the names that may."""
        if len(names) > self.left:
            say_not_all(self._root, f"{MAX_ENTRIES} names")
        taken = names[: self.left]
        self.left -= len(taken)
        return taken


@cache
def say_not_all(root: str, limit: str) -> None:
    """Log, once, that a source has more than is looked at."""
    log.warning("%s: there are more than %s; not all of them are looked at", root, limit)


def folder(root: str) -> Iterator[ModelFile]:
    """A folder of GGUF files, and the folders in it."""
    for path, names in _tree(root, FOLDER_DEPTH, _Limit(root)):
        yield from _models(path, names, os.path.basename(path))


def single(path: str) -> Iterator[ModelFile]:
    """One file, as a package has it."""
    above, name = os.path.split(path)
    yield from _models(above, [name], os.path.basename(above))


def hugging_face(root: str) -> Iterator[ModelFile]:
    """``models--ORG--REPO/snapshots/REVISION/…/x.gguf``, links to blobs. Of a file that several
    revisions have, the newest counts. Source: "Understand caching" of huggingface_hub."""
    limit = _Limit(root)
    for repository in limit.take(_names(root)):
        kind, _, rest = repository.partition("--")
        if kind == "models":
            snapshots = os.path.join(root, repository, "snapshots")
            yield from _repository(snapshots, rest.split("--")[0], limit)


def _repository(snapshots: str, whose: str, limit: _Limit) -> Iterator[ModelFile]:
    seen: set[str] = set()
    for revision in limit.take(_newest_first(snapshots)):
        at = os.path.join(snapshots, revision)
        for path, names in _tree(at, SNAPSHOT_DEPTH, limit):
            inside = {name: os.path.join(path, name)[len(at) :] for name in names}
            yield from _models(path, [name for name in names if inside[name] not in seen], whose)
            seen.update(inside.values())


def lm_studio(root: str) -> Iterator[ModelFile]:
    """``ORG/REPO/x.gguf``. Source: "Import models" of lmstudio.ai/docs."""
    for path, names in _tree(root, FOLDER_DEPTH, _Limit(root)):
        yield from _models(path, names, os.path.relpath(path, root).split(os.sep)[0])


def llama_cpp(root: str) -> Iterator[ModelFile]:
    """Plain files, as ``fs_get_cache_file`` of llama.cpp names them; those of late are in the
    Hugging Face cache, or laid out as there below ``$LLAMA_CACHE``."""
    for path, names in _tree(root, 0, _Limit(root)):
        yield from _models(path, names, "llama.cpp")
    yield from hugging_face(root)


class _Layer(msgspec.Struct, rename="camel"):
    media_type: str
    digest: str


class _Manifest(msgspec.Struct):
    layers: list[_Layer] | None = None


_manifest = msgspec.json.Decoder(_Manifest)
_DIGEST = re.compile("sha256[:-][0-9a-fA-F]{64}")
_OLLAMA_MODEL = "application/vnd.ollama.image.model"


def ollama(root: str) -> Iterator[ModelFile]:
    """``manifests/HOST/NAMESPACE/MODEL/TAG``, JSON that names ``blobs/sha256-…``; the name is
    MODEL:TAG. Source: ``manifest/paths.go`` of ollama."""
    manifests = os.path.join(root, "manifests")
    for path, tags in _tree(manifests, 3, _Limit(root), suffix=""):
        place = os.path.relpath(path, manifests).split(os.sep)
        if len(place) == 3:
            for tag in tags:
                file = _blob(root, os.path.join(path, tag), f"{place[2]}:{tag}", place[1])
                if file is not None:
                    yield file


def _blob(root: str, manifest: str, name: str, whose: str) -> ModelFile | None:
    """The model that a manifest names, if it has one in a single file."""
    try:
        # A pipe does not hold it up.
        with open(os.open(manifest, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            layers = _manifest.decode(file.read(MAX_MANIFEST)).layers or []
    except (OSError, ValueError, msgspec.MsgspecError, RecursionError):
        return None
    digests = [layer.digest for layer in layers if layer.media_type == _OLLAMA_MODEL]
    if len(digests) != 1 or not _DIGEST.fullmatch(digests[0]) or not _is_name(name):
        return None
    return _file(iter([os.path.join(root, "blobs", digests[0].replace(":", "-"))]), name, whose)


def sources(environ: Mapping[str, str]) -> list[Source]:
    """The places where a user may have models without saying so, those of ours first."""
    home = environ.get("HOME") or str(Path.home())

    def named(variable: str, otherwise: str) -> str:
        value = environ.get(variable)
        return os.path.expanduser(value) if value else otherwise

    data = named("XDG_DATA_HOME", f"{home}/.local/share")
    cache = named("XDG_CACHE_HOME", f"{home}/.cache")
    hub = named("HF_HOME", f"{cache}/huggingface") + "/hub"
    hub = named("HF_HUB_CACHE", named("HUGGINGFACE_HUB_CACHE", hub))
    return [
        Source("/models", "/models", folder),
        Source("llambo", f"{data}/llambo/models", folder),
        Source("Hugging Face", hub, hugging_face),
        Source("LM Studio", f"{home}/.lmstudio/models", lm_studio),
        Source("LM Studio", f"{home}/.cache/lm-studio/models", lm_studio),
        Source("llama.cpp", named("LLAMA_CACHE", f"{cache}/llama.cpp"), llama_cpp),
        Source("Ollama", named("OLLAMA_MODELS", f"{home}/.ollama/models"), ollama),
        Source("Ollama", "/usr/share/ollama/.ollama/models", ollama),
    ]


def model_name(path: str) -> str:
    """What a model in that file is called, if nothing else names it."""
    name = Path(path).name
    part = gguf.split(name)
    return part[0] if part else name.removesuffix(SUFFIX)


def _is_name(name: str) -> bool:
    """Whether it can be the name of a file in `models`. One that is not UTF-8 does not print."""
    return name.isprintable() and 0 < len(os.fsencode(name)) <= MAX_NAME and name not in (".", "..")


def _models(path: str, names: Iterable[str], whose: str) -> Iterator[ModelFile]:
    """The models in those files of a directory. One in parts counts when all of them are there."""
    for name in names:
        part = gguf.split(name)
        if part is not None and part[1] > 1:
            continue
        called = model_name(name)
        file = _file(gguf.parts(f"{path}/{name}"), called, whose)
        if file is not None and _is_name(called):
            yield file


def _file(parts: Iterator[str], name: str, whose: str) -> ModelFile | None:
    path = next(parts)
    try:
        path.encode()  # what is not UTF-8 cannot be shown
        infos = [os.stat(each) for each in chain((path,), parts)]
    except (OSError, UnicodeEncodeError):
        return None  # or a link to nothing, a part that is not there yet, or it has just gone
    if not all(stat.S_ISREG(info.st_mode) for info in infos):
        return None
    first = infos[0]
    stamp = (first.st_dev, first.st_ino, first.st_mtime_ns)
    return ModelFile(name, whose, path, sum(info.st_size for info in infos), stamp)


def _tree(
    root: str, depth: int, limit: _Limit, suffix: str = SUFFIX
) -> Iterator[tuple[str, list[str]]]:
    """Each directory down to so many below the root, with the names of the files in it that end
    so."""
    waiting = deque([(root, depth)])
    seen: set[tuple[int, int]] = set()
    while waiting:
        path, below = waiting.popleft()
        try:
            info = os.stat(path)
            if (info.st_dev, info.st_ino) in seen:
                continue  # a link that leads in a circle
            seen.add((info.st_dev, info.st_ino))
            inner, files = [], []
            with os.scandir(path) as listed:
                for entry in listed:
                    if _is_directory(entry):
                        inner.append(entry.name)
                    elif entry.name.endswith(suffix):
                        files.append(entry.name)
        except OSError:
            continue
        yield path, limit.take(sorted(files))
        if below:
            further = limit.take(sorted(inner))
            waiting.extend((os.path.join(path, name), below - 1) for name in further)


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link in a circle, or to what cannot be reached


def _names(path: str) -> list[str]:
    """What is in a directory; nothing where that cannot be read."""
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def _newest_first(path: str) -> list[str]:
    """The revisions of a repository."""

    def changed(name: str) -> tuple[int, str]:
        try:
            return -os.stat(os.path.join(path, name)).st_mtime_ns, name
        except OSError:
            return 0, name

    return sorted(_names(path), key=changed)
