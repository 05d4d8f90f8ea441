"""The server that is driven, and the tasks that it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from multigraft_loadtest.problems import CannotStartError
from multigraft_loadtest.random_adapters import label_count, random_adapter
from multigraft_loadtest.server import Server, serving
from multigraft_loadtest.shapes import shape_of
from multigraft_loadtest.targets import Api, Target, make_target
from multigraft_loadtest.workload import Kind

TASK_TYPES: dict[Kind, str] = {"generation": "text-generation", "classification": "text-classification"}


@dataclass(frozen=True, slots=True)
class Place:
    """Which server is driven. `url` None is one of our own on `base`, started with `serve_options`."""

    url: str | None
    api_key: str | None
    base: str
    data_dir: Path
    target: str
    template: str
    serve_options: Sequence[str]
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Tasks:
    """Whom to ask: `named` tasks, or so many random `adapters` of some `methods`, or all that the server has.

    `is_bare` asks the base alone.
    """

    named: Sequence[str]
    adapters: int
    methods: Sequence[str]
    rank: int
    is_bare: bool


@contextmanager
def reached(place: Place) -> Iterator[Server]:
    """The server: our own, or the one at the URL."""
    if place.url is not None:
        yield Server(place.url.rstrip("/"), place.api_key)
        return
    Console(stderr=True).print(f"starting a server on {place.base} ...", highlight=False)
    with serving(place.base, place.data_dir, place.serve_options) as server:
        yield server


def find_tasks(place: Place, server: Server, tasks: Tasks, kind: Kind) -> list[str | None]:
    """The tasks of one kind of request; random adapters are uploaded first. Raises CannotStartError."""
    if tasks.is_bare or (place.target != "multigraft" and not tasks.named):
        return [None]
    if tasks.named:
        return list(tasks.named)
    if tasks.adapters:
        return upload_random(place.base, server, tasks, kind)
    found = server.tasks(TASK_TYPES[kind])
    if not found:
        raise CannotStartError(
            f"{server.url} has no task for {kind}: give --adapters N, or --bare for the base alone"
        )
    return list(found)


def upload_random(base: str, server: Server, tasks: Tasks, kind: Kind) -> list[str | None]:
    """Upload random adapters, the methods in turn; their tasks' names."""
    shape, names = shape_of(base), []
    for index in range(tasks.adapters):
        method, number = tasks.methods[index % len(tasks.methods)], index // len(tasks.methods)
        labels = label_count(index) if kind == "classification" else None
        made = random_adapter(shape, method, number, rank=tasks.rank, labels=labels)
        name = made.name if labels is None else f"label-{made.name}"
        server.upload(name, made.files, made.declaration)
        names.append(name)
    return list(names)


def target_of(place: Place, server: Server, api: Api) -> Target:
    """How the server is asked; multigraft's own tells which digests may answer."""
    if place.target == "multigraft":
        return server.target(api)
    return make_target(place.target, api=api, base=place.base, template=place.template)
