"""A server as an operator has it: a process with a key of its own, over a tiny base, with tasks that were used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from multigraft_adapters.bases import BaseSpec, load_base
from tests.server.made import adapter_files
from tests.server.test_serve import started
from tests.tiny import make_tiny_base

KEY = "the-operator-s-own-key"
MEASURED = ((0.914, 0.893, 0.271), (0.937, 0.921, 0.208))


@dataclass(frozen=True)
class Desk:
    """A running server, a client that has its key, and a folder for what is uploaded."""

    url: str
    http: httpx.Client
    spec: BaseSpec
    folder: Path

    def add(
        self, task: str, task_type: str = "text-classification", *, alias: str | None = None, **more: Any
    ) -> int:
        """Upload a random adapter; returns its version's number."""
        files = [("file", part) for part in adapter_files(self.spec, task_type, **more).items()]
        params = {"alias": alias} if alias else {}
        return int(self._told(self.http.post(f"/v1/tasks/{task}/versions", params=params, files=files))["version"])

    def adapter(self, name: str, task_type: str = "text-classification", **more: Any) -> list[Path]:
        """The files of a random adapter in a folder."""
        place = self.folder / name
        place.mkdir()
        for file, content in adapter_files(self.spec, task_type, **more).items():
            (place / file).write_bytes(content)
        return sorted(place.iterdir())

    def call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """A request of the API."""
        return self._told(self.http.request(method, path, json=body))

    def predict(self, ref: str, inputs: Any, times: int = 1) -> None:
        """Ask a task."""
        for _ in range(times):
            self.call("POST", f"/v1/tasks/{ref}/predict", {"inputs": inputs})

    def made_key(self, *scopes: str, **more: Any) -> dict[str, Any]:
        """A new key, its secret as `key`."""
        return self.call("POST", "/v1/keys", {"name": "for a test", "scopes": list(scopes), **more})

    @staticmethod
    def _told(response: httpx.Response) -> dict[str, Any]:
        assert response.status_code < 300, response.text
        answer: dict[str, Any] = response.json()
        return answer


@contextmanager
def running_desk(folder: Path, *options: str) -> Iterator[Desk]:
    """A server process; `options` are further ones of `serve`."""
    base = make_tiny_base(folder / "tiny-llama", "llama")
    told = ["--base", str(base), "--data-dir", str(folder / "data"), "--dtype", "float32", "--port", "0"]
    headers = {"authorization": f"Bearer {KEY}", "x-multigraft-actor": "deploy"}
    with (
        started(*told, *options, MULTIGRAFT_API_KEY=KEY) as (_, url),
        httpx.Client(base_url=url, headers=headers, timeout=60) as http,
    ):
        yield Desk(url, http, load_base(str(base), folder, device="cpu", dtype="float32").spec, folder)


def furnish(desk: Desk) -> None:
    """Tasks of several types with versions, tags and metrics, a split, an alias, a pin, a retired version, keys;
    and requests for them."""
    worse, better = ({"accuracy": a, "f1_macro": f, "loss": loss} for a, f, loss in MEASURED)
    desk.add("support-topic", alias="production", seed=1, metrics=worse)
    desk.add("support-topic", seed=2, rank=4, metrics=better)
    desk.add("support-topic", seed=3)
    desk.call("PUT", "/v1/tasks/support-topic/aliases/production", {"weights": {"1": 0.9, "2": 0.1}})
    desk.call("PUT", "/v1/tasks/support-topic/aliases/canary", {"version": 2})
    desk.call("PUT", "/v1/tasks/support-topic/versions/2/tags/trained-by", {"value": "nightly run 41"})
    desk.add("urgency", alias="production", seed=4, labels=("low", "high"))
    desk.add("urgency", alias="production", seed=5, labels=("low", "high"))
    desk.call("DELETE", "/v1/tasks/urgency/versions/1")
    desk.add("style", "text-generation", alias="production", seed=6, prompt="Be brief.")
    desk.add("entities", "token-classification", alias="production", seed=7, labels=("O", "B-PER", "I-PER"))
    desk.add("answers", "question-answering", alias="production", seed=8)
    desk.call("POST", "/v1/tasks/urgency/pin")
    desk.made_key("infer:support-*", name="support desk", requests_per_minute=600)
    desk.predict("support-topic", "Where is my parcel?", 6)
    desk.predict("urgency", "Answer at once, please.", 3)
    desk.predict("style", "Hello", 2)
    desk.predict("entities", "Ada met Alan in London.", 2)
