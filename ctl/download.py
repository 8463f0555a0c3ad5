"""A file from the Hugging Face hub into the hub's cache, where other programs find it, too.

huggingface_hub has the session, the metadata and the layout of the cache. The transfer is here:
that of huggingface_hub 2 begins anew when it was interrupted, and does not verify what came. Until
a file is whole and verified it is called ``blobs/ETAG.incomplete``, and no program takes it.

Imports huggingface_hub, which is an optional dependency: imported by `ctl.pull` only.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from json import JSONDecodeError
from pathlib import Path
from typing import Protocol

from filelock import Timeout
from huggingface_hub import (
    HfApi,
    constants,
    errors,
    get_session,
    hf_hub_url,
    hf_raise_for_status,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]
from rich.filesize import decimal

from ctl import __version__
from ctl.address import CommandError

HTTPError = errors.HTTPError  # type: ignore[attr-defined]
"""Of the httpx that huggingface_hub is built on, whichever that is."""

REVISION = constants.DEFAULT_REVISION

_API = HfApi(library_name="llambo", library_version=__version__)

_LOCK_WAIT = 1.0
"""Seconds: huggingface_hub's own programs hold the lock for as long as a download takes."""

_SHA256 = re.compile("[0-9a-f]{64}")
_ETAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
"""It becomes the name of a file."""

# What its functions log as warnings is said here, in one sentence each.
logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


class Report(Protocol):
    """Where the progress of a download is shown."""

    def begin(self, name: str, total: int | None, done: int) -> None:
        """A file of ``total`` bytes begins, or begins again, with ``done`` of them there."""

    def advance(self, count: int) -> None:
        """So many bytes came."""

    def say(self, text: str) -> None:
        """A line for the user."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A file at the hub, in one commit. etag: its SHA-256 if it lies in LFS or Xet, as models do.
    size: bytes; None where the hub does not say."""

    repo: str
    file: str
    commit: str
    etag: str
    size: int | None

    @property
    def storage(self) -> Path:
        """The folder of its repo in the cache."""
        return Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=self.repo, repo_type="model"))

    @property
    def blob(self) -> Path:
        """Its contents in the cache, when it is whole."""
        return self.storage / "blobs" / self.etag

    @property
    def partial(self) -> Path:
        """What has come of it so far."""
        return self.blob.with_name(f"{self.etag}.incomplete")

    @property
    def there(self) -> int:
        """Bytes of it from an earlier download that a new one can go on from."""
        try:
            size = self.partial.stat().st_size
        except FileNotFoundError:
            return 0
        # Of an unknown size nothing is known of its end either: begin anew.
        return size if self.size is not None and size <= self.size else 0


def listing(repo: str) -> tuple[str, dict[str, int | None]]:
    """The commit of a repo's main branch, and its files with their sizes in bytes."""
    timeout = constants.HF_HUB_ETAG_TIMEOUT
    try:
        info = _API.model_info(repo, files_metadata=True, timeout=timeout)
        siblings = {sibling.rfilename: sibling.size for sibling in info.siblings or []}
    except (JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        raise CommandError(f"what answers at {constants.ENDPOINT} is no hub") from None
    return info.sha or REVISION, siblings


def look(repo: str, file: str, commit: str) -> Remote:
    """What the hub says of a file, before any of it is downloaded."""
    url = hf_hub_url(repo, file, revision=commit)
    found = _API.get_hf_file_metadata(url=url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    if found.commit_hash is None or found.etag is None or not _ETAG.fullmatch(found.etag):
        raise CommandError(f"what answers at {constants.ENDPOINT} is no hub")
    if found.size is not None and found.size > constants.MAX_HTTP_DOWNLOAD_SIZE:
        raise CommandError(
            f"{file} has {decimal(found.size)}, more than the hub gives over HTTP: "
            f"hf download {repo} {file} gets it into the same cache"
        )
    return Remote(repo, file, found.commit_hash, found.etag, found.size)


def is_cached(remote: Remote) -> bool:
    """Whether it needs no download. May ask the hub."""
    found = _API.hf_hub_download(remote.repo, remote.file, revision=remote.commit, dry_run=True)
    return not found.will_download


def check_room(remotes: Sequence[Remote]) -> None:
    """Raises `CommandError` if the disk has no room for what is still to come of these files."""
    wanted = sum(remote.size - remote.there for remote in remotes if remote.size is not None)
    folder = Path(constants.HF_HUB_CACHE)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise CommandError(
            f"the disk of {folder} has no room: {decimal(wanted)} are to come, "
            f"{decimal(free)} are free"
        )


def link(remote: Remote) -> str:
    """Its absolute path in the cache, under its own name; what is cached gets one there."""
    ref = remote.storage / "refs" / REVISION
    ref.parent.mkdir(parents=True, exist_ok=True)
    if not ref.exists() or ref.read_text() != remote.commit:
        ref.write_text(remote.commit)
    return os.path.abspath(_API.hf_hub_download(remote.repo, remote.file, revision=remote.commit))


def check_models(paths: Sequence[str]) -> None:
    """Raises `CommandError` if one of them is no GGUF file: another program may have brought it."""
    for path in paths:
        if problem := _not_gguf(path):
            raise CommandError(f"what is in the cache is no model: {problem}: {path}")


def fetch(remote: Remote, retries: int, report: Report) -> None:
    """Download a file that is not cached, from where an earlier download ended.

    retries: how often to go on after a lost connection that brought nothing. Raises
    `CommandError`, and what `explained` explains; what came so far is kept, unless it is wrong.
    """
    remote.blob.parent.mkdir(parents=True, exist_ok=True)
    lock = Path(constants.HF_HUB_CACHE, ".locks", remote.storage.name, f"{remote.etag}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with WeakFileLock(lock, timeout=_LOCK_WAIT):
            _fetch(remote, retries, report)
    except Timeout:
        raise CommandError(f"another program is downloading {remote.file} already") from None


def _fetch(remote: Remote, retries: int, report: Report) -> None:
    if remote.blob.exists():
        return  # Another program that had the lock brought it.
    done = remote.there
    report.begin(remote.file, remote.size, done)
    # Unbuffered: what is written is there to go on from, whatever happens next.
    with FileIO(remote.partial, "a") as file:
        file.truncate(done)
        file.seek(done)
        if done != remote.size:
            _receive_all(remote, file, retries, report)
        os.fsync(file.fileno())
    problem = _damage(remote, report) or _not_gguf(str(remote.partial))
    if problem:
        remote.partial.unlink()
        raise CommandError(f"{remote.file} is no model: {problem}; it was removed")
    remote.partial.replace(remote.blob)


def _receive_all(remote: Remote, file: FileIO, retries: int, report: Report) -> None:
    left = retries
    while True:
        before = file.tell()
        try:
            _receive(remote, file, report)
            if remote.size is None or file.tell() >= remote.size:
                return
            reason = "the hub closed it"
        except HfHubHTTPError:
            raise
        except HTTPError as error:
            reason = _reason(error)
        if file.tell() > before:
            left = retries
        if left <= 0:
            again = "begins anew" if remote.size is None else "goes on from there"
            raise CommandError(
                f"the connection was lost after {decimal(file.tell())} of {remote.file} "
                f"({reason}); the same command {again}"
            )
        wait = 2.0 ** min(retries - left, 4)
        left -= 1
        report.say(f"the connection was lost ({reason}); going on in {wait:.0f} s")
        time.sleep(wait)


def _receive(remote: Remote, file: FileIO, report: Report) -> None:
    """One request for what is missing of a file."""
    at = file.tell() if remote.size is not None else 0
    headers = build_hf_headers(library_name="llambo", library_version=__version__)
    headers["Accept-Encoding"] = "identity"
    if at:
        headers["Range"] = f"bytes={at}-"
    # The hub's own address each time: what it redirects to is signed for a few minutes only.
    url = hf_hub_url(remote.repo, remote.file, revision=remote.commit)
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
        hf_raise_for_status(response)
        if response.status_code != 206:
            at = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {at}-"):
            raise CommandError(f"the hub sent another part of {remote.file} than was asked for")
        if file.tell() != at:
            file.truncate(at)
            file.seek(at)
            report.begin(remote.file, remote.size, at)
        for chunk in response.iter_bytes():
            rest = memoryview(chunk)
            while rest:
                rest = rest[file.write(rest) :]
            report.advance(len(chunk))
            if remote.size is not None and file.tell() > remote.size:
                return  # It is not what it has to be, and may never end.


def _damage(remote: Remote, report: Report) -> str | None:
    """What is wrong with what came, as far as the hub said what it has to be."""
    size = remote.partial.stat().st_size
    if remote.size not in (None, size):
        return f"{size} bytes came where the hub has {remote.size}"
    if _SHA256.fullmatch(remote.etag):
        report.say("checking what came")
        with remote.partial.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != remote.etag:
                return "what came does not have the SHA-256 that the hub names"
    return None


def _not_gguf(path: str) -> str | None:
    from engine import EngineError, LoadOptions
    from engine.gguf import examine

    try:
        examine(path, LoadOptions())
    except EngineError as error:
        return str(error).removesuffix(f": {path}")
    return None


def _reason(error: BaseException) -> str:
    """What an error of the network says, without its numbers."""
    text = re.sub(r"\[Errno -?\d+\] | \(received .*\)", "", str(error)).rstrip(".")
    return text or type(error).__name__


@contextmanager
def explained(repo: str) -> Iterator[None]:
    """Make one sentence of what goes wrong inside: a `CommandError`."""
    hub = constants.ENDPOINT
    try:
        yield
    except GatedRepoError:
        raise CommandError(
            f"{repo} is gated: accept its terms at {hub}/{repo}, and set HF_TOKEN to a token of "
            "that account (or run hf auth login)"
        ) from None
    except RepositoryNotFoundError:
        raise CommandError(
            f"{hub} has no repo {repo}, or it is private: then set HF_TOKEN to a token that may "
            "read it (or run hf auth login)"
        ) from None
    except RemoteEntryNotFoundError as error:
        raise CommandError(f"the hub has no such file: {error.response.url}") from None
    except HfHubHTTPError as error:
        raise CommandError(_status(repo, error)) from None
    except OfflineModeIsEnabled:
        raise CommandError("HF_HUB_OFFLINE is set, so the hub is not asked") from None
    except HTTPError as error:
        raise CommandError(f"{hub} cannot be reached: {_reason(error)}") from None
    except OSError as error:
        raise CommandError(_disk(error)) from None
    except ValueError as error:
        # Of a name that the library refuses, or of a proxy that is no address.
        raise CommandError(f"{hub} cannot be asked for {repo}: {error}") from None


def _status(repo: str, error: HfHubHTTPError) -> str:
    hub, response = constants.ENDPOINT, error.response
    answer = f"{response.status_code} {response.reason_phrase}".strip()
    if response.status_code in (401, 403):
        return (
            f"{hub} does not give {repo} to us ({answer}): set HF_TOKEN to a token that may read "
            "it (or run hf auth login)"
        )
    if response.status_code == 404:
        return f"{hub} has no {response.url.path} ({answer})"
    return f"{hub} answers {answer}; try again later"


def _disk(error: OSError) -> str:
    path = error.filename or constants.HF_HUB_CACHE
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk of {constants.HF_HUB_CACHE} is full: make room there, and pull again"
    return f"{path}: {error.strerror or _reason(error)}"
