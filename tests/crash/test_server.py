"""The whole server is killed while it takes changes and answers; what it acknowledged is there when it is back.

`MULTIGRAFT_CRASH_SERVER_KILLS=10` kills it that often; CI, where each start costs seconds, kills it once.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from multigraft_adapters.bases import load_base
from multigraft_adapters.registry import Registry
from multigraft_adapters.store import Store, open_store
from multigraft_adapters.verify import verify
from tests.crash.state import State, check_kept, check_sound, state_of
from tests.server.made import adapter_files
from tests.server.test_serve import started
from tests.tiny import make_tiny_base

KILLS = int(os.environ.get("MULTIGRAFT_CRASH_SERVER_KILLS", "1"))
SEED = int(os.environ.get("MULTIGRAFT_CRASH_SEED", "1"))
TASKS = ("topic", "urgency")
LIFE_S = (1.0, 3.0)


class Site:
    """A tiny base, adapters for it, and the registry and the store of a server, seen from outside."""

    def __init__(self, folder: Path) -> None:
        self.base = make_tiny_base(folder / "tiny", "llama")
        self.data_dir = folder / "data"
        spec = load_base(str(self.base), folder, device="cpu", dtype="float32").spec
        made = [adapter_files(spec, "text-classification", seed=seed) for seed in range(8)]
        self.adapters = {verify(files, spec).digest: files for files in made}
        self.registry = Registry.open(self.data_dir, spec.name)
        self.store: Store = open_store(self.data_dir)

    def state(self) -> State:
        return state_of(self.registry, self.store)


class Clients:
    """One that changes things and says what it does, and one that asks, until the server is gone."""

    def __init__(self, site: Site, url: str, seed: int) -> None:
        self.lines: list[dict[str, Any]] = []
        self.answers: list[httpx.Response] = []
        self._site = site
        self._http = httpx.Client(base_url=url, timeout=60, trust_env=False)
        self._random = random.Random(seed)
        self._threads = [
            threading.Thread(target=self._until_gone, args=[act]) for act in (self._change, self._ask)
        ]
        for thread in self._threads:
            thread.start()

    def await_change(self) -> None:
        """Until one change is acknowledged, which a slow machine may not come to in a server's life."""
        deadline = time.monotonic() + 60
        while len(self.lines) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()
        self._http.close()

    def _until_gone(self, act: Callable[[], None]) -> None:
        while True:
            try:
                act()
            except httpx.TransportError:
                return

    def _change(self) -> None:
        task, number = self._random.choice(TASKS), self._random.randrange(1, 9)
        kind = self._random.choice(("upload", "upload", "promote", "roll back", "retire"))
        digest = self._random.choice(list(self._site.adapters)) if kind == "upload" else None
        name = f"{kind} {len(self.lines)}"
        self.lines.append({"begins": name, "task": task, "digest": digest})
        if digest is not None:
            files = [("file", part) for part in self._site.adapters[digest].items()]
            answer = self._http.post(f"/v1/tasks/{task}/versions?alias=production", files=files)
        elif kind == "promote":
            answer = self._http.put(f"/v1/tasks/{task}/aliases/production", json={"version": number})
        elif kind == "roll back":
            answer = self._http.post(f"/v1/tasks/{task}/rollback")
        else:
            answer = self._http.delete(f"/v1/tasks/{task}/versions/{number}")
        assert answer.status_code in (200, 201, 404, 409), answer.text
        self.lines.append({"acknowledged": name, "state": self._site.state()})

    def _ask(self) -> None:
        answer = self._http.post(f"/v1/tasks/{self._random.choice(TASKS)}/predict", json={"inputs": "a parcel"})
        assert answer.status_code in (200, 404), answer.text
        self.answers.append(answer)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    yield made
    made.registry.close()


@contextmanager
def serving(site: Site) -> Iterator[tuple[Callable[[], None], str]]:
    """A server of the site's, to be killed, and its URL."""
    options = ["--base", str(site.base), "--data-dir", str(site.data_dir), "--port", "0", "--dtype", "float32"]
    with started(*options) as (process, url):
        yield process.kill, url


def check_resumed(site: Site, url: str) -> int:
    """The server answers by what the registry says; returns how many tasks it asked."""
    asked = 0
    for task in site.registry.tasks():
        production = [alias.version for alias in task.aliases if alias.name == "production"]
        assert production
        [digest] = [version.digest for version in task.versions if version.number == production[0]]
        answer = httpx.post(
            f"{url}/v1/tasks/{task.name}/predict", json={"inputs": "a"}, timeout=60, trust_env=False
        )
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-multigraft-adapter"] == digest
        asked += 1
    return asked


def test_a_server_that_is_killed_comes_back_with_all_it_acknowledged(site: Site) -> None:
    chance, asked, acknowledged = random.Random(SEED), 0, 0
    for kill in range(KILLS):
        with ExitStack() as stack:
            end, url = stack.enter_context(serving(site))
            asked += check_resumed(site, url)
            before = site.state()
            clients = Clients(site, url, seed=SEED * 1000 + kill)
            time.sleep(chance.uniform(*LIFE_S))
            clients.await_change()
            end()
        clients.join()
        now = site.state()
        acknowledged += check_kept(before, now, clients.lines, [line.get("begins", "") for line in clients.lines])
        check_sound(site.registry, site.store)
        known = {f"{digest}" for digest in site.adapters}
        assert {answer.headers["x-multigraft-adapter"] for answer in clients.answers if answer.is_success} <= known
    with serving(site) as (_, url):
        asked += check_resumed(site, url)
        assert open_store(site.data_dir).remains(0) == []
    print(f"{KILLS} kills, {acknowledged} changes acknowledged, {asked} tasks asked after a start")
    assert acknowledged > 0
    assert asked > 0
