"""A second process on one registry: `python -m tests.registry.writer PLACE NAME COUNT`."""

from __future__ import annotations

import sys
from pathlib import Path

from multigraft_adapters.registry import Registry
from tests.registry.parts import make_adapter


def write(place: Path | str, name: str, count: int) -> None:
    """Adds `count` versions to the task `shared`, each promoted by the same transaction."""
    registry = Registry.open(place, "smollm2")
    try:
        for number in range(count):
            registry.add_version("shared", make_adapter(f"{name} {number}"), alias="production", actor=name)
    finally:
        registry.close()


if __name__ == "__main__":
    where = sys.argv[1]
    write(where if "://" in where else Path(where), sys.argv[2], int(sys.argv[3]))
