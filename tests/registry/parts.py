"""Tiny adapters for the registry: it needs to know only their digest and manifest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from multigraft_adapters.manifest import HeadSpec, Manifest, MethodSpec


@dataclass(frozen=True)
class Adapter:
    digest: str
    manifest: Manifest


def make_adapter(content: str) -> Adapter:
    """An adapter whose digest follows from `content`."""
    manifest = Manifest(
        task_type="feature-extraction",
        head=HeadSpec(kind="embedding", pooling="mean", normalize=True),
        method=MethodSpec(name="lora", parameters={"content": content}),
    )
    return Adapter(f"sha256:{hashlib.sha256(content.encode()).hexdigest()}", manifest)
