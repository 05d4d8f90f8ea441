"""Uploads until a small disk is full, looks, and makes room: `python -m tests.crash.fill FOLDER`."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path

from multigraft_adapters.artifact import digest_of
from multigraft_adapters.errors import RegistryUnavailableError, StoreUnavailableError
from multigraft_adapters.registry import Registry
from multigraft_adapters.store import Store
from tests.crash.state import State, check_sound, state_of
from tests.crash.work import files_of, open_both
from tests.registry.parts import Adapter, make_adapter

REFUSALS = 3
BALLAST_BYTES = 100_000
"""What is deleted to make room."""


def main(folder: Path) -> dict[str, int]:
    """Returns how many uploads were kept, and how many were refused by the store and by the registry."""
    ballast = folder / "ballast"
    ballast.write_bytes(os.urandom(BALLAST_BYTES))
    registry, store = open_both(folder / "data", None)
    counts: Counter[str] = Counter()
    kept: State = {}
    while counts["store"] + counts["registry"] < REFUSALS:
        outcome = upload(registry, store, f"content {counts.total()}")
        counts[outcome] += 1
        if outcome == "kept":
            kept = registered(registry, store)
    check_unharmed(registry, store, kept)
    registry.close()
    ballast.unlink()
    registry, store = open_both(folder / "data", None)
    check_unharmed(registry, store, kept)
    assert upload(registry, store, "one more") == "kept"
    registry.close()
    return dict(counts)


def upload(registry: Registry, store: Store, content: str) -> str:
    """What an upload does, and who refused it."""
    files = files_of(content)
    adapter = Adapter(digest_of(files), make_adapter(content).manifest)
    try:
        store.put(adapter.digest, files)
        registry.add_version("topic", adapter, alias="production")
    except StoreUnavailableError as error:
        assert "No space left on device" in error.message, error.message
        return "store"
    except RegistryUnavailableError as error:
        assert "full" in error.message, error.message
        return "registry"
    return "kept"


def check_unharmed(registry: Registry, store: Store, kept: State) -> None:
    """Everything is as it was after the last upload that was kept, and nothing half-written lies about."""
    assert registered(registry, store) == kept
    assert check_sound(registry, store) == 1
    assert store.remains(0) == []


def registered(registry: Registry, store: Store) -> State:
    """The state without what the store holds: what it kept and the registry refused waits to be collected."""
    return {key: value for key, value in state_of(registry, store).items() if not key.startswith("stored ")}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
