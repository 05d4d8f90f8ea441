"""Styles and scripts: read once, named by their content, so that a browser may keep them for good."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "static"
TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file as it is sent."""

    body: bytes
    content_type: str
    digest: str


class Assets:
    """All of them, by name."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._assets = {file.name: _read(file) for file in sorted(folder.iterdir()) if file.suffix in TYPES}

    def get(self, name: str) -> Asset | None:
        """The file of this name."""
        return self._assets.get(name)

    def url(self, name: str) -> str:
        """The address of a file that there is."""
        return f"/console/static/{name}?v={self._assets[name].digest}"


def _read(file: Path) -> Asset:
    body = file.read_bytes()
    return Asset(body, TYPES[file.suffix], hashlib.sha256(body).hexdigest()[:16])
