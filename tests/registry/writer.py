"""A second process on one data folder: `python -m tests.registry.writer FOLDER NAME COUNT`."""

from __future__ import annotations

import sys

from multigraft_adapters.registry import Registry
from tests.registry.parts import make_adapter


def write(folder: str, name: str, count: int) -> None:
    """Adds `count` versions to the task `shared`, each promoted by the same transaction."""
    registry = Registry.open(folder, "smollm2")
    try:
        for number in range(count):
            registry.add_version("shared", make_adapter(f"{name} {number}"), alias="production", actor=name)
    finally:
        registry.close()


if __name__ == "__main__":
    write(sys.argv[1], sys.argv[2], int(sys.argv[3]))
