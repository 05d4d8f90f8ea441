"""Two server processes on one registry: each serves within a second what the other changed, also after a crash."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from multigraft_adapters.bases.load import read_spec
from tests.postgresql import PostgresServer
from tests.server.made import adapter_files
from tests.server.test_serve import started
from tests.tiny import make_tiny_base

PROMISED_SECONDS = 1.0
ALIAS = "/v1/tasks/topic/aliases/production"


@dataclass(frozen=True)
class Node:
    """One server process."""

    http: httpx.Client
    kill: Callable[[], None]

    def version(self, ref: str = "topic", **headers: str) -> str | None:
        """Which version answers, None if there is none."""
        response = self.http.post(f"/v1/tasks/{ref}/predict", json={"inputs": "a"}, headers=headers)
        version: str | None = response.headers.get("x-multigraft-version")
        return version

    def promote(self, revision: int, **body: Any) -> httpx.Response:
        return self.http.put(ALIAS, json=body, headers={"if-match": f'"{revision}"'})


def answered_within_a_second(ask: Callable[[], str | None], wanted: str | None) -> bool:
    """Whether what is asked later than a second from now is answered so, and nothing but what was before it."""
    since = time.monotonic()
    before: set[str | None] = set()
    while True:
        sent = time.monotonic()
        got = ask()
        if got == wanted:
            return len(before) <= 1
        if sent - since > PROMISED_SECONDS:
            return False
        before.add(got)


@contextmanager
def node(*options: str) -> Iterator[Node]:
    with started(*options, "--port", "0") as (process, url), httpx.Client(base_url=url, timeout=60) as http:

        def kill() -> None:
            process.kill()
            process.wait(30)

        yield Node(http, kill)


@contextmanager
def nodes(count: int, *options: str) -> Iterator[list[Node]]:
    """So many servers, started together."""
    with ExitStack() as stack, ThreadPoolExecutor(count) as pool:
        waiting = [pool.submit(lambda: stack.enter_context(node(*options))) for _ in range(count)]
        yield [one.result() for one in waiting]


@pytest.fixture(params=["sqlite", "postgresql"])
def options(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """Of a server on a tiny base, with a registry in either database."""
    base = make_tiny_base(tmp_path / "tiny", "llama")
    common = ["--base", str(base), "--data-dir", str(tmp_path / "data"), "--dtype", "float32"]
    if request.param == "sqlite":
        return common
    server: PostgresServer = request.getfixturevalue("postgres")
    return [*common, "--registry", server.new_place()]


def test_two_processes_agree_within_a_second_and_resume_after_a_crash(options: list[str], tmp_path: Path) -> None:
    spec = read_spec("tiny", tmp_path / "tiny")
    with nodes(2, *options) as (first, second):
        for seed in (1, 2, 3):
            files = adapter_files(spec, "text-classification", seed=seed).items()
            parts = [("file", part) for part in files]
            uploaded = first.http.post("/v1/tasks/topic/versions", files=parts)
            assert uploaded.status_code == 201, uploaded.text
        assert first.http.put(ALIAS, json={"version": 1}).status_code == 200
        assert answered_within_a_second(second.version, "1")
        assert first.promote(1, version=2).status_code == 200
        assert first.version() == "2"
        assert answered_within_a_second(second.version, "2")
        at_once_one_wins(first, second)
        sticky_keys_agree(first, second)
        first.http.delete("/v1/tasks/topic/versions/1")
        assert answered_within_a_second(lambda: second.version("topic@1"), None)
        first.kill()
        assert second.version() in ("2", "3")
        second.kill()
    with nodes(1, *options) as (again,):
        assert {again.version(**{"x-multigraft-sticky": f"user {number}"}) for number in range(12)} == {"2", "3"}
        assert again.version("topic@1") is None
        assert again.promote(4, version=2).status_code == 200


def at_once_one_wins(first: Node, second: Node) -> None:
    """Both are asked for another change of one state: one makes it, the other tells the state that it made."""
    with ThreadPoolExecutor(2) as pool:
        moves = [pool.submit(one.promote, 2, version=number) for one, number in ((first, 1), (second, 3))]
        answers = [move.result() for move in moves]
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    assert {answer.headers["etag"] for answer in answers} == {'"3"'}
    won = next(answer.json()["version"] for answer in answers if answer.status_code == 200)
    lost = next(answer.json()["error"]["message"] for answer in answers if answer.status_code == 409)
    assert f"is at version {won}, revision 3" in lost


def sticky_keys_agree(first: Node, second: Node) -> None:
    """A split made through one process sends a key to the same version in both."""
    assert second.promote(3, weights={"2": 0.5, "3": 0.5}).status_code == 200
    time.sleep(PROMISED_SECONDS)
    keys = [{"x-multigraft-sticky": f"user {number}"} for number in range(12)]
    chosen = [first.version(**key) for key in keys]
    assert chosen == [second.version(**key) for key in keys]
    assert set(chosen) == {"2", "3"}
