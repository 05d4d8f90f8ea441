"""Kills workers one after the other: `python -m tests.crash.kill FOLDER KILLS SEED [STORE_URL]`.

They work on one data folder. Workers, and those who look after a crash, are forked from a process that has
imported everything and opened nothing, so that a kill costs no start of an interpreter. The last line is a
summary as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from multigraft_adapters.store import collect
from tests.crash.state import check_kept, check_sound, state_of
from tests.crash.work import Worker, open_both

LONGEST_LIFE_S = 0.4
AT_WORK = 0.8
"""How many are killed while they work; the others at any moment, the opening of registry and store included."""
MOST_ACTS = 8
"""Of these, how many acts at most are waited for: on a slow machine a worker comes to few in its life."""
PATIENCE_S = 60.0
EVENTS = 1000
"""More than a worker makes in its life."""


def main(folder: Path, kills: int, seed: int, store_url: str | None) -> dict[str, Any]:
    """Kill that many workers and look at what each left; returns what was seen."""
    chance = random.Random(seed)
    said, seen = folder / "said", folder / "seen"
    seen.write_text(json.dumps({"state": {}, "acknowledged": 0, "aliases": 0}))
    under_way = acknowledged = 0
    for kill in range(kills):
        said.write_bytes(b"")
        worker = forked(partial(work, folder / "data", store_url, 1000 * seed + kill, said))
        if chance.random() < AT_WORK:
            await_acts(said, chance.randrange(MOST_ACTS))
        time.sleep(chance.uniform(0.0, LONGEST_LIFE_S))
        os.kill(worker, signal.SIGKILL)
        _, status = os.waitpid(worker, 0)
        assert os.WIFSIGNALED(status), f"worker {kill} ended by itself"
        _, status = os.waitpid(forked(lambda: look(folder / "data", store_url, said, seen)), 0)
        assert status == 0, f"after kill {kill}"
        found = json.loads(seen.read_text())
        acknowledged += found["acknowledged"]
        under_way += found["under_way"]
    found = json.loads(seen.read_text())
    return {
        "kills": kills,
        "amid_a_change": under_way,
        "acknowledged": acknowledged,
        "aliases": found["aliases"],
        "versions": sum(key.startswith("version ") for key in found["state"]),
    }


def await_acts(said: Path, acts: int) -> None:
    """Until a worker has done so many acts and begun another; an act is two lines."""
    deadline = time.monotonic() + PATIENCE_S
    while said.read_bytes().count(b"\n") <= 2 * acts:
        assert time.monotonic() < deadline, "the worker did not come so far"
        time.sleep(0.002)


def work(data_dir: Path, store_url: str | None, seed: int, said: Path) -> None:
    """What is killed."""
    Worker(data_dir, store_url, seed, said).work()


def look(data_dir: Path, store_url: str | None, said: Path, seen: Path) -> None:
    """After a crash: registry and store open, are sound, and hold what was acknowledged."""
    before = json.loads(seen.read_text())["state"]
    whole = said.read_text().rpartition("\n")[0]  # the last line may be torn
    lines = [json.loads(line) for line in whole.splitlines()]
    registry, store = open_both(data_dir, store_url)
    assert store_url is not None or store.remains(0) == [], "what dead writers left is cleaned at the start"
    now = state_of(registry, store)
    actors = {event.actor for event in registry.events(limit=EVENTS)}
    acknowledged = check_kept(before, now, lines, actors)
    aliases = check_sound(registry, store)
    if registry.digests():
        collect(store, registry, grace_s=0)
        assert store.remains(0) == []
        assert check_sound(registry, store) == aliases
    told = {
        "state": state_of(registry, store),
        "acknowledged": acknowledged,
        "under_way": int(bool(lines) and "begins" in lines[-1]),
        "aliases": aliases,
    }
    registry.close()
    seen.write_text(json.dumps(told))


def forked(work: Callable[[], object]) -> int:
    """The id of a new process that does this and no more."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    place, count, start, *url = sys.argv[1:]
    print(json.dumps(main(Path(place), int(count), int(start), url[0] if url else None)))
