"""The server that faults happen to, and what it has acknowledged."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from multigraft_loadtest.processes import MULTIGRAFT, Child, on_cores, running
from multigraft_loadtest.random_adapters import random_adapter
from multigraft_loadtest.server import PRODUCTION, START_SECONDS, own_data
from multigraft_loadtest.shapes import Shape, shape_of
from multigraft_loadtest.texts import Lengths, random_texts

TASKS, LABELS, TEXTS = 4, 4, 32
RANK = 8
CALL_SECONDS = 30.0
SETTINGS = {
    "stall_seconds": 2.0,
    "body_timeout_seconds": 5.0,
    "drain_grace_seconds": 1.0,
    "retry_load_seconds": 0.5,
    "max_retry_load_seconds": 1.0,
    "max_waiting_steps": 4.0,
    "max_waiting_rounds": 1.0,
}
"""Shorter than a server's own: a fault is over in seconds, and little may wait before a request."""

Scores = Mapping[str, float]


@dataclass(slots=True)
class Scene:
    """A server process that can be ended and started again on the same data and port."""

    own: Path
    base: str
    serve_options: Sequence[str]
    stack: ExitStack
    shape: Shape
    port: int = 0
    starts: int = 0
    child: Child | None = None
    acknowledged: dict[tuple[str, int], str] = field(default_factory=dict)
    """Digests of the versions that an upload was answered with."""
    made: int = 0
    expected: dict[tuple[str, str], Scores] = field(default_factory=dict)
    """What each task says of each text, asked alone."""
    texts: Sequence[str] = ()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def tasks(self) -> list[str]:
        return [f"task-{number}" for number in range(TASKS)]

    @property
    def pid(self) -> int:
        assert self.child is not None
        return self.child.process.pid

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start the server; returns when it is ready. Raises CannotStartError."""
        self.starts += 1
        name = f"server-{self.starts}"
        config = self.own.parent / "faults.toml"
        config.write_text("\n".join(f"{name} = {value}" for name, value in SETTINGS.items()) + "\n")
        places = [
            "--base",
            self.base,
            "--data-dir",
            str(self.own),
            "--port",
            str(self.port),
            "--config",
            str(config),
        ]
        command = [*MULTIGRAFT, "serve", *places, *self.serve_options]
        log = self.own.parent / f"{name}.log"
        self.child = self.stack.enter_context(running(name, command, log, environment))
        self.port = int(self.child.wait_for_url("multigraft serves ", START_SECONDS).rpartition(":")[2])

    def kill(self, number: int) -> None:
        """Send the server a signal, and wait for its end."""
        assert self.child is not None
        os.killpg(self.pid, number) if number == signal.SIGKILL else os.kill(self.pid, number)
        self.child.process.wait(CALL_SECONDS)

    def restart(self, environment: Mapping[str, str] | None = None, cores: Collection[int] = ()) -> None:
        """End the server in order, and start it again on the same data and port, on some cores if any are given.
        Raises CannotStartError."""
        self.kill(signal.SIGINT)
        with on_cores(cores):
            self.start(environment)

    def prepare(self) -> None:
        """Upload the tasks, and ask each about every text. Raises httpx's errors."""
        draw = random_texts(Lengths(4, 16), 0)
        self.texts = [next(draw) for _ in range(TEXTS)]
        for task in self.tasks:
            assert self.upload(task, PRODUCTION) == 201, "an upload to a new server failed"
            answer = self.call("POST", f"/v1/tasks/{task}/predict", json={"inputs": self.texts})
            answer.raise_for_status()
            for text, output in zip(self.texts, answer.json(), strict=True):
                self.expected[task, text] = {one["label"]: one["score"] for one in output}

    def call(self, method: str, route: str, **content: Any) -> httpx.Response:
        """One request of an operator; raises httpx.TransportError."""
        return httpx.request(method, self.url + route, timeout=CALL_SECONDS, trust_env=False, **content)

    def upload(self, task: str, alias: str | None = None) -> int:
        """Upload a new random adapter, and note what was acknowledged; the status."""
        self.made += 1
        made = random_adapter(self.shape, "lora", self.made, rank=RANK, labels=LABELS)
        answer = self.call(
            "POST",
            f"/v1/tasks/{task}/versions",
            params={"alias": alias} if alias else {},
            files=[("file", (name, content)) for name, content in made.files.items()],
            data={"task": json.dumps(made.declaration)},
        )
        if answer.is_success:
            told = answer.json()
            self.acknowledged[task, told["version"]] = told["digest"]
        return answer.status_code

    def lost(self) -> list[str]:
        """Which acknowledged versions are not there any more, or are others."""
        tasks = self.call("GET", "/v1/tasks").raise_for_status().json()["tasks"]
        found = {
            (task["name"], version["version"]): version["digest"] for task in tasks for version in task["versions"]
        }
        return [
            f"{task}@{number}"
            for (task, number), digest in self.acknowledged.items()
            if found.get((task, number)) != digest
        ]

    def files_of(self, task: str, number: int) -> Path:
        """The folder of a version's files in the store."""
        digits = self.acknowledged[task, number].rpartition(":")[2]
        (found,) = (self.own / "store").glob(f"**/{digits}")
        return found


@contextmanager
def scene_on(base: str, data_dir: Path, serve_options: Sequence[str]) -> Iterator[Scene]:
    """A server with its tasks, ready. Raises CannotStartError."""
    with own_data(data_dir) as own, ExitStack() as stack:
        scene = Scene(own, base, serve_options, stack, shape_of(base))
        scene.start()
        scene.prepare()
        yield scene
