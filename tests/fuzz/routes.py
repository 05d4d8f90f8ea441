"""Requests that schemathesis makes up from the OpenAPI document, against a real server over a tiny base."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from multigraft_adapters.bases import load_base
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
SECONDS_PER_REQUEST = 30


def fuzz_http(folder: Path, *, seconds: int, seed: int | None = None, max_examples: int = 0) -> int:
    """Run schemathesis for at most so long; its exit code, 0 where it found nothing. It prints what it finds.

    With `max_examples` it ends once so many requests were made up for each route in each way.
    """
    make_tiny_base(folder / BASE, "llama")
    base = load_base(str(folder / BASE), folder, device="cpu", dtype="float32")
    with serving(base, folder / "data", default_chat_tokens=8, max_entries=8) as served:
        for number, (name, task_type) in enumerate(TASKS.items()):
            served.add(name, task_type, seed=number)
        document = folder / "openapi.json"
        document.write_text(json.dumps(with_real_names(served.http.get("/openapi.json").json())))
        options = ["--max-time", str(seconds)]
        options += ["--seed", str(seed)] if seed is not None else []
        options += ["--max-examples", str(max_examples)] if max_examples else []
        return _run(served, document, options)


def with_real_names(document: dict[str, Any]) -> dict[str, Any]:
    """The document, made more precise about names: often ones that exist, or nearly all requests were 404s."""
    known = copy.deepcopy(document)
    names = [*TASKS, *(f"{task}@1" for task in TASKS), BASE]
    places = {"ref": names, "task": list(TASKS), "model": names, "alias": ["production", "canary"]}
    for schema in _named_schemas(known):
        for name, values in places.items():
            if schema[0] == name and schema[1].get("type") == "string":
                plain = dict(schema[1])
                schema[1].clear()
                schema[1]["anyOf"] = [{"type": "string", "enum": values}, plain]
    return known


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
        *("--generation-database", "none", "--request-timeout", str(SECONDS_PER_REQUEST)),
        *options,
    ]
    return subprocess.run(command, cwd=document.parent).returncode
