"""What a process does until it is killed: it uploads, promotes, splits, rolls back, retires and collects."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from multigraft_adapters.artifact import ARTIFACT_FILES, TENSORS_FILE, digest_of
from multigraft_adapters.errors import ConflictError, NotFoundError
from multigraft_adapters.registry import Registry
from multigraft_adapters.store import Store, collect, open_store
from tests.crash.state import state_of
from tests.registry.parts import Adapter, make_adapter

TASKS = ("topic", "style", "urgency")
ALIASES = ("production", "canary")
CONTENTS = 10
"""Few, so that the same content is uploaded again, also after it was retired and collected."""
TENSOR_BYTES = 40_000


def open_both(data_dir: Path, store_url: str | None) -> tuple[Registry, Store]:
    """As a server opens them."""
    return Registry.open(data_dir, "smollm2"), open_store(data_dir, store_url)


def files_of(content: str) -> dict[str, bytes]:
    """An adapter's files, of which the tensors are long enough to be torn."""
    files = {name: f"{name} of {content}".encode() for name in ARTIFACT_FILES}
    return files | {TENSORS_FILE: files[TENSORS_FILE] * (TENSOR_BYTES // len(files[TENSORS_FILE]))}


class Worker:
    """Says in a file what it is about to do and, when that is acknowledged, what there is then."""

    def __init__(self, data_dir: Path, store_url: str | None, seed: int, said: Path) -> None:
        self._registry, self._store = open_both(data_dir, store_url)
        self._random = random.Random(seed)
        self._seed = seed
        self._said = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._acts = 0

    def work(self) -> None:
        """Until it is killed."""
        acts = (self._upload, self._upload, self._point, self._point, self._split, self._roll_back, self._retire)
        while True:
            self._random.choice((*acts, self._collect))(self._random.choice(TASKS), self._random.choice(ALIASES))

    def _upload(self, task: str, alias: str) -> None:
        content = f"{task} {self._random.randrange(CONTENTS)}"
        files = files_of(content)
        digest = digest_of(files)
        with self._act(task=task, digest=digest) as actor:
            self._store.put(digest, files)
            adapter = Adapter(digest, make_adapter(content).manifest)
            self._registry.add_version(task, adapter, alias=self._random.choice((alias, None)), actor=actor)

    def _point(self, task: str, alias: str) -> None:
        with self._act(task=task) as actor:
            self._registry.set_alias(task, alias, self._version(), actor=actor)

    def _split(self, task: str, alias: str) -> None:
        weights = dict.fromkeys(self._random.sample(range(1, CONTENTS), 2), 0.5)
        with self._act(task=task) as actor:
            self._registry.set_alias(task, alias, weights, actor=actor)

    def _roll_back(self, task: str, alias: str) -> None:
        with self._act(task=task) as actor:
            self._registry.rollback(task, alias, actor=actor)

    def _retire(self, task: str, _alias: str) -> None:
        with self._act(task=task) as actor:
            self._registry.retire(task, self._version(), actor=actor)

    def _collect(self, _task: str, _alias: str) -> None:
        with self._act(collects=True):
            # Nobody uploads meanwhile, so that no grace time is needed.
            collect(self._store, self._registry, grace_s=0)

    def _version(self) -> int:
        return self._random.randrange(1, CONTENTS)

    @contextmanager
    def _act(self, **about: Any) -> Iterator[str]:
        """One act; a conflict, or a version that does not exist, is an acknowledgement too."""
        self._acts += 1
        actor = f"{self._seed}-{self._acts}"
        self._say({"begins": actor} | about)
        with suppress(ConflictError, NotFoundError):
            yield actor
        self._say({"acknowledged": actor, "state": state_of(self._registry, self._store)})

    def _say(self, line: dict[str, Any]) -> None:
        os.write(self._said, json.dumps(line).encode() + b"\n")
