"""Requests that schemathesis makes up from the OpenAPI document, against a real server over a tiny base."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from multigraft_adapters.bases import load_base
from tests.server.made import adapter_files
from tests.server.running import Served, serving
from tests.tiny import make_tiny_base

TASKS = {
    "topic": "text-classification",
    "style": "text-generation",
    "vector": "feature-extraction",
    "entities": "token-classification",
    "answer": "question-answering",
}
BASE = "tiny-llama"
KEY = "the-key-of-the-fuzzed-server"
SETTINGS: dict[str, Any] = {"default_chat_tokens": 8, "max_entries": 8, "max_uploads": 64}
SECONDS_PER_REQUEST = 30
TEND_SECONDS = 3.0


def fuzz_routes(folder: Path, *, seconds: int, seed: int | None = None, max_examples: int = 0) -> int:
    """Run schemathesis for at most so long; its exit code, 0 where it found nothing. It prints what it finds.

    With `max_examples` it ends once so many requests were made up for each route in each way.
    """
    make_tiny_base(folder / BASE, "llama")
    base = load_base(str(folder / BASE), folder, device="cpu", dtype="float32")
    settings = SETTINGS | {"lora_folder": folder / "loras"}
    with serving(base, folder / "data", api_key=KEY, **settings) as served, tended(served):
        document = folder / "openapi.json"
        described = served.http.get("/openapi.json").json()
        document.write_text(json.dumps(with_known_values(described, known_values(served, folder))))
        options = ["--max-time", str(seconds)]
        options += ["--seed", str(seed)] if seed is not None else []
        options += ["--max-examples", str(max_examples)] if max_examples else []
        return _run(served, document, options)


@contextmanager
def tended(served: Served) -> Iterator[None]:
    """Have the tasks there, and there again after requests have retired them."""
    served.http.headers["authorization"] = f"Bearer {KEY}"
    seeds = dict.fromkeys(TASKS, 0)
    ended = threading.Event()

    def tend() -> None:
        for task, task_type in TASKS.items():
            files = adapter_files(served.spec, task_type, seed=seeds[task])
            if served.upload(task, files, "production").status_code >= 400:
                seeds[task] += 1

    def keep_tending() -> None:
        while not ended.wait(TEND_SECONDS):
            tend()

    tend()
    thread = threading.Thread(target=keep_tending)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def with_known_values(document: dict[str, Any], known: dict[str, list[Any]]) -> dict[str, Any]:
    """The document, made more precise: names that exist and inputs that fit are drawn as often as any others.

    Without them nearly every request would be a 404 or a 400, and no further code be reached.
    """
    precise = copy.deepcopy(document)
    for name, schema in _named_schemas(precise):
        if name in known:
            plain = dict(schema)
            schema.clear()
            schema["anyOf"] = [{"enum": known[name]}, plain]
    return precise


def known_values(served: Served, folder: Path) -> dict[str, list[Any]]:
    """By the name of a parameter or a field; makes the file and the job that two of them name."""
    names = [*TASKS, *(f"{task}@1" for task in TASKS), BASE]
    part = ("file", ("rows.jsonl", b'{"text": "a", "label": "b"}\n', "application/jsonl"))
    file = served.http.post("/v1/files", files=[part], data={"purpose": "fine-tune"}).json()["id"]
    job = served.post("/v1/fine_tuning/jobs", {"model": BASE, "training_file": file}).json()["id"]
    adapter = folder / "loras" / "brief"
    adapter.mkdir(parents=True)
    for name, content in adapter_files(served.spec, "text-generation", seed=99).items():
        (adapter / name).write_bytes(content)
    return {
        "ref": names,
        "model": names,
        "task": list(TASKS),
        "tasks": [list(TASKS), ["topic", "nobody"]],
        "alias": ["production", "canary"],
        "number": [1],
        "version": [1],
        "weights": [{"1": 1.0}],
        "inputs": ["a", ["a", "b"], {"text": "a", "text_pair": "b"}, {"question": "a?", "context": "a b"}],
        "parameters": [{"max_new_tokens": 3}, {"top_k": 1}, {"details": True}, {}],
        "training_file": [file],
        "file_id": [file],
        "job_id": [job],
        "lora_name": ["brief"],
        "lora_path": ["brief", "../loras/brief", "/"],
    }


def _named_schemas(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schemas of parameters and of fields, each with its name."""
    for methods in document["paths"].values():
        for operation in methods.values():
            for parameter in operation.get("parameters", ()):
                yield parameter["name"], parameter["schema"]
    for model in document["components"]["schemas"].values():
        yield from model.get("properties", {}).items()


def _run(served: Served, document: Path, options: list[str]) -> int:
    command = [
        *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"),
        *("--config-file", str(Path(__file__).with_name("schemathesis.toml")), "run", str(document)),
        *("--url", served.url, "--checks", "all", "--mode", "all", "--continue-on-failure", "--no-color"),
        *(
            "--header",
            f"Authorization: Bearer {KEY}",
            "--generation-database",
            "none",
            "--request-timeout",
            str(SECONDS_PER_REQUEST),
        ),
        *options,
    ]
    return subprocess.run(command, cwd=document.parent).returncode
