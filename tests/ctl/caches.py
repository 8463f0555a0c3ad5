"""Model files laid out as programs do it, for tests of what is found."""

from __future__ import annotations

import hashlib
import json

from ctl.caches import Source
from tests.engine.header import FACTS, VOCABULARY, string, write

CLIP = {**FACTS, "general__architecture": string("clip")}


def hugging_face(root, repository, *files, revision="a" * 40, **pairs):
    """Files of a repository in the cache of huggingface_hub: links into its blobs."""
    place = root / f"models--{repository.replace('/', '--')}"
    for file in files:
        blob = place / "blobs" / hashlib.sha256(f"{revision}{file}".encode()).hexdigest()
        write(blob, **pairs)
        link = place / "snapshots" / revision / file
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    (place / "refs").mkdir(exist_ok=True)
    (place / "refs" / "main").write_text(revision)
    return place / "snapshots" / revision


def ollama(root, model, tag, *, namespace="library", host="registry.ollama.ai", content=None):
    """A model in the store of Ollama; the path of its manifest."""
    digest = hashlib.sha256((content or f"{namespace}/{model}:{tag}").encode()).hexdigest()
    write(root / "blobs" / f"sha256-{digest}", **FACTS, **VOCABULARY)
    layers = [
        ("application/vnd.ollama.image.model", f"sha256:{digest}"),
        ("application/vnd.ollama.image.template", f"sha256:{'0' * 64}"),
    ]
    manifest = root / "manifests" / host / namespace / model / tag
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(
        json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
                "config": {"digest": f"sha256:{'1' * 64}", "size": 1},
                "layers": [{"mediaType": kind, "digest": it, "size": 1} for kind, it in layers],
            }
        )
    )
    return manifest


def hung(answer):
    """A source on a disk that does not answer until ``answer`` is set, or for 20 seconds."""

    def look(root):
        answer.wait(20)
        return iter(())

    return Source("hung", "/", look)
