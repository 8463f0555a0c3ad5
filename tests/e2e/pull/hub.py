"""A stand-in for the Hugging Face hub, which misbehaves on command.

It speaks what huggingface_hub asks for, as the hub's documentation has it:

- ``GET /api/models/REPO?blobs=true``: the commit and the files with their sizes
  (huggingface.co/docs/hub/api, "Repo listing API")
- ``HEAD`` and ``GET /REPO/resolve/REVISION/FILE``: X-Repo-Commit, ETag, and of a file in LFS
  X-Linked-ETag (its SHA-256) and X-Linked-Size; the GET is redirected, as the hub does to its CDN,
  and takes a Range (RFC 9110, section 14)
- errors with X-Error-Code: RepoNotFound, EntryNotFound, GatedRepo
  (huggingface_hub.utils.hf_raise_for_status)
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What it holds, how it behaves, and what it saw. Change it while it runs."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    address: str = ""
    status: dict[str, tuple[int, str]] = field(default_factory=dict)
    """By kind of request (api, resolve, cdn): answer it with that status and X-Error-Code."""
    token: str | None = None
    """Only who brings it is answered."""
    sizes: bool = True
    """Whether sizes are told."""
    claimed: dict[str, int] = field(default_factory=dict)
    """Sizes that are told instead of the real ones, by file."""
    sha256: str | None = None
    """The SHA-256 that is told instead of the real one."""
    ranges: bool = True
    """Whether a Range is honoured."""
    cut: int | None = None
    """Close the connection of a download after so many bytes."""
    hold: int | None = None
    """Go silent in a download after so many bytes, until `released`."""
    released: threading.Event = field(default_factory=threading.Event)
    garbage: bytes | None = None
    """What answers everything, with status 200."""
    requested: list[str] = field(default_factory=list)
    """The Range of each download, or an empty text."""
    sent: int = 0
    """Bytes of files, over all downloads."""
    tokens: list[tuple[str, str | None]] = field(default_factory=list)
    """Kind and authorization of each request."""


def handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_HEAD(self):
            self.answer()

        def do_GET(self):
            self.answer()

        def answer(self):
            path = unquote(urlsplit(self.path).path)
            kind = path.split("/")[1] if path.startswith(("/api/models/", "/cdn/")) else "resolve"
            hub.tokens.append((kind, self.headers["Authorization"]))
            if hub.garbage is not None:
                return self.reply(200, hub.garbage)
            if kind in hub.status:
                status, code = hub.status[kind]
                return self.reply(status, b"", {"X-Error-Code": code} if code else {})
            allowed = hub.token is None or self.headers["Authorization"] == f"Bearer {hub.token}"
            if not allowed and kind != "cdn":
                return self.reply(401, b"", {"X-Error-Code": "RepoNotFound"})
            if kind == "api":
                return self.listing(path.removeprefix("/api/models/"))
            match = re.fullmatch(r"/(?:cdn/)?([^/]+/[^/]+)/resolve/\w+/(.+)", path)
            repo, file = match.groups() if match else ("", "")
            content = hub.repos.get(repo, {}).get(file)
            if content is None:
                return self.reply(404, b"", {"X-Error-Code": "EntryNotFound"})
            if kind == "cdn":
                return self.download(content)
            return self.resolve(path, file, content)

        def listing(self, repo):
            if repo not in hub.repos:
                return self.reply(404, b"", {"X-Error-Code": "RepoNotFound"})
            siblings = [
                {"rfilename": file} | ({"size": self.size(file, data)} if hub.sizes else {})
                for file, data in hub.repos[repo].items()
            ]
            info = {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings}
            return self.reply(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

        def size(self, file, content):
            return hub.claimed.get(file, len(content))

        def resolve(self, path, file, content):
            digest = hub.sha256 or hashlib.sha256(content).hexdigest()
            headers = {
                "X-Repo-Commit": COMMIT,
                "ETag": '"pointer"',
                "X-Linked-ETag": f'"{digest}"',
                # Another origin, as the CDN is: no token may go there.
                "Location": f"{hub.address.replace('127.0.0.1', 'localhost')}/cdn{path}",
            }
            if hub.sizes:
                headers["X-Linked-Size"] = str(self.size(file, content))
            self.reply(302, b"", headers)

        def download(self, content):
            wanted = self.headers["Range"]
            hub.requested.append(wanted or "")
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and hub.ranges else 0
            self.send_response(206 if start else 200)
            size = len(content)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            self.send_header("Content-Length", str(size - start))
            self.end_headers()
            stop = next((at for at in (hub.cut, hub.hold) if at is not None), size)
            self.wfile.write(content[start : start + stop])
            hub.sent += len(content[start : start + stop])
            if hub.hold is not None:
                hub.released.wait(60)
            if stop < size - start:
                self.close_connection = True

        def reply(self, status, body, headers=()):
            self.send_response(status)
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Handler


@contextmanager
def serving(repos):
    """A hub with these repos, each a dictionary of files."""
    hub = Hub(repos)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(hub)) as server:
        server.daemon_threads = True
        server.block_on_close = False
        hub.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.released.set()
            server.shutdown()
            thread.join()
