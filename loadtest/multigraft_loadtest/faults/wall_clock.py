"""A server whose wall clock jumps, while the machine's goes on: by libfaketime, where it is installed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from multigraft_loadtest.faults.scene import Scene
from multigraft_loadtest.faults.traffic import Clock, Injected
from multigraft_loadtest.server import PRODUCTION

NAME = "clock-jump"
PLACES = ("/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/local/lib/faketime", "/usr/lib64/faketime")
LIBRARY = "libfaketimeMT.so.1"
MISSING = "libfaketime is not installed (Debian: libfaketime), and the machine's own clock is everybody's"
JUMPS = ("+1h", "-1h")
"""Off the machine's clock, one after another: an hour ahead, then two back."""
HOLD_S = 4.0


def find_library() -> Path | None:
    """Where libfaketime is; None where it is not."""
    root = Path("/")
    return next((found for place in PLACES for found in sorted(root.glob(f"{place[1:]}/{LIBRARY}"))), None)


@contextmanager
def movable(scene: Scene) -> Iterator[None]:
    """The server started again with a wall clock of its own, and at the end once more without."""
    library = find_library()
    assert library is not None  # the row is left out without it
    _set(scene, "+0")
    scene.restart(
        {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(_file(scene)),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
    )
    yield
    scene.restart()


async def clock_jump(scene: Scene, clock: Clock) -> Injected:
    """The wall clock jumps ahead and back; what the monotonic one times must not notice."""
    found = []
    for jump in JUMPS:
        _set(scene, jump)
        await asyncio.sleep(HOLD_S)
        found.append((jump, await asyncio.to_thread(scene.upload, "extra", PRODUCTION)))
    _set(scene, "+0")
    injected = Injected(clock())
    for jump, status in found:
        injected.expect(f"an upload at {jump}", status, 201)
    told = await asyncio.to_thread(_hours, scene)
    injected.expect("hours that the events of these uploads are apart", told, 2)
    return injected


def _hours(scene: Scene) -> int:
    """How far the last two versions were apart for the server, which shows that its clock did jump."""
    versions = scene.call("GET", "/v1/tasks/extra").raise_for_status().json()["versions"]
    ahead, back = (datetime.fromisoformat(one["created_at"]) for one in versions[-2:])
    return round((ahead - back).total_seconds() / 3600)


def _set(scene: Scene, offset: str) -> None:
    _file(scene).write_text(f"{offset}\n")


def _file(scene: Scene) -> Path:
    return scene.own.parent / "wall-clock"
