"""A multigraft server, our own or one that runs already: its tasks, uploads, what it says of itself."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from multigraft_loadtest.problems import CannotStartError
from multigraft_loadtest.processes import MULTIGRAFT, Child, running
from multigraft_loadtest.targets import Api, Target

START_SECONDS = 300.0
PRODUCTION = "production"
BASE_DIGEST = "base"


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. `child` is None for one that we did not start."""

    url: str
    api_key: str | None = None
    child: Child | None = None

    def get(self, route: str) -> Any:
        """The JSON of a route; raises CannotStartError."""
        return self._checked("GET", route)

    def base(self) -> str:
        """The base's name."""
        name = self.get("/v1/engine")["base"]["name"]
        assert isinstance(name, str)
        return name

    def tasks(self, task_type: str) -> list[str]:
        """The tasks of this type that have a production version, in the order of their names."""
        return [
            task["name"]
            for task in self.get("/v1/tasks")["tasks"]
            if _production(task) and all(version["task_type"] == task_type for version in _production(task))
        ]

    def digests(self) -> dict[str | None, frozenset[str]]:
        """Which adapters may answer for each task now; None stands for the bare base."""
        tasks = self.get("/v1/tasks")["tasks"]
        found = {task["name"]: frozenset(version["digest"] for version in _production(task)) for task in tasks}
        return {None: frozenset((BASE_DIGEST,)), **found}

    def target(self, api: Api = "completions") -> Target:
        """How to drive it, with the digests of this moment."""
        return Target("multigraft", api, self.base(), ignores_eos=True, adapters=self.digests())

    def upload(self, task: str, files: Mapping[str, bytes], declaration: Mapping[str, Any]) -> None:
        """Upload an adapter and make it the production version; raises CannotStartError."""
        route = f"/v1/tasks/{task}/versions"
        parts = [("file", (name, content)) for name, content in files.items()]
        self._checked(
            "POST", route, params={"alias": PRODUCTION}, files=parts, data={"task": json.dumps(declaration)}
        )

    def _checked(self, method: str, route: str, **content: Any) -> Any:
        headers = {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        try:
            answer = httpx.request(
                method, f"{self.url}{route}", headers=headers, timeout=120, trust_env=False, **content
            )
        except httpx.TransportError as error:
            raise CannotStartError(f"{self.url}{route} gave no answer: {error}") from error
        if not answer.is_success:
            raise CannotStartError(f"{self.url}{route} answered {answer.status_code}: {answer.text[:300]}")
        return answer.json()


@contextmanager
def serving(base: str, data_dir: Path, options: Sequence[str] = (), name: str = "multigraft") -> Iterator[Server]:
    """A server of our own on a free port of the loopback, its registry apart from the user's and gone afterwards.

    It shares only the folder of unpacked bases with `data_dir`.
    """
    with own_data(data_dir) as own, serving_on(own, base, options, name) as server:
        yield server


@contextmanager
def own_data(data_dir: Path) -> Iterator[Path]:
    """An empty data folder that is gone afterwards, with the unpacked bases of `data_dir`."""
    bases = data_dir / "bases"
    try:
        bases.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotStartError(f"the data folder {data_dir} cannot be made: {error.strerror}") from error
    with tempfile.TemporaryDirectory(prefix="multigraft-loadtest-") as folder:
        own = Path(folder, "data")
        own.mkdir()
        (own / "bases").symlink_to(bases.resolve(), target_is_directory=True)
        yield own


@contextmanager
def serving_on(own: Path, base: str, options: Sequence[str] = (), name: str = "multigraft") -> Iterator[Server]:
    """A server on a data folder of `own_data`, where others may be. `name` tells it from them."""
    command = [*MULTIGRAFT, "serve", "--base", base, "--data-dir", str(own), "--port", "0", *options]
    with running(name, command, own.parent / f"{name}.log") as child:
        yield Server(child.wait_for_url("multigraft serves ", START_SECONDS), child=child)


def _production(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The versions that answer for a task's bare name: one, or those between which its traffic is split."""
    alias = next((alias for alias in task["aliases"] if alias["name"] == PRODUCTION), None)
    if alias is None:
        return []
    numbers = {int(number) for number in alias.get("weights") or ()} or {alias["version"]}
    return [version for version in task["versions"] if version["version"] in numbers]
