"""A server as an operator has it: a process with a key of its own, over a tiny base, with tasks that were used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from multigraft_adapters.bases import BaseSpec, load_base
from multigraft_adapters.registry import Note, Registry, new_file
from multigraft_server.api.job_schemas import JobBody
from tests.server.made import adapter_files
from tests.server.test_serve import started
from tests.tiny import make_tiny_base

KEY = "the-operator-s-own-key"
MEASURED = ((0.914, 0.893, 0.271), (0.937, 0.921, 0.208))


@dataclass(frozen=True)
class Desk:
    """A running server, a client that has its key, a folder for what is uploaded, and the id of a job that trains,
    on a machine that is not there."""

    url: str
    http: httpx.Client
    spec: BaseSpec
    folder: Path
    job: str

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
    spec = load_base(str(base), folder, device="cpu", dtype="float32").spec
    job = leave_a_job(folder / "data", spec)
    headers = {"authorization": f"Bearer {KEY}", "x-multigraft-actor": "deploy"}
    with (
        started(*told, *options, MULTIGRAFT_API_KEY=KEY) as (_, url),
        httpx.Client(base_url=url, headers=headers, timeout=60) as http,
    ):
        yield Desk(url, http, spec, folder, job)


def leave_a_job(data_dir: Path, spec: BaseSpec) -> str:
    """A job halfway through its training, which a worker elsewhere has; its id."""
    data_dir.mkdir()
    registry = Registry.open(data_dir, spec.name)
    file = registry.files.add(new_file("sha256:0", "reviews.jsonl", "fine-tune", 1_000_000))
    asked = {"task": {"name": "reviews"}, "method": {"name": "lora", "rank": 16}, "promote": "better"}
    body = JobBody(model=spec.name, training_file=file.id, multigraft=asked)
    job, _ = registry.jobs.create(body.new_job(spec, None))
    leases = registry.job_leases(86_400)
    claim = leases.claim("trainer-2:4711", spec.name)
    assert claim is not None and claim.job.id == job.id
    notes = [note for step in range(2, 121, 2) for note in _measured(step)]
    leases.tell(claim, Note("training begins after step 0"), *notes, running=True)
    registry.close()
    return job.id


def _measured(step: int) -> list[Note]:
    """What a worker tells of a step: losses that fall with some noise, and an epoch's end every 20 steps."""
    loss = 0.3 + 1.2 * 0.975**step + 0.1 * ((step * 7919) % 13) / 13
    told = {"step": step, "epoch": 1 + step // 20, "train_loss": loss}
    notes = [Note(f"step {step}: training loss {loss:.4f}", kind="metrics", data=told)]
    if step % 20 == 0:
        f1 = 0.88 - 0.5 * 0.967**step
        valid = {"valid_loss": 0.35 + 1.1 * 0.974**step, "valid_accuracy": f1 + 0.02, "valid_macro_f1": f1}
        ended = f"epoch {step // 20} has ended: training loss {loss:.4f}"
        notes.append(Note(ended, kind="metrics", data=told | valid))
    return notes


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
