"""Servers over each base with PEFT's adapters uploaded, and the figures that the parity tests report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from multigraft_adapters.artifact import read_folder
from multigraft_adapters.bases import BaseSpec, resolve_base
from multigraft_server.assemble import assemble
from multigraft_server.settings import ServerSettings
from tests.parity import support
from tests.parity.matrix import FamilyRun
from tests.parity.peft_adapters import LABELS, AdapterCase, PeftReference, cases_for, make_peft_adapter
from tests.server.running import listening
from tests.tiny import make_tiny_base

TINY_BASES = ("llama", "bert")
EMBEDDED_BASES = ("smollm2", "minilm")
# Random deltas: large on the tiny bases, so that every answer changes; small enough on the real ones that their
# answers stay text.
SCALE = dict.fromkeys(TINY_BASES, 0.2) | {"smollm2": 0.02, "minilm": 0.05}

FIGURES = pytest.StashKey[list[str]]()
RUNS = pytest.StashKey[dict[str, FamilyRun]]()
"""What the matrix ran, by family."""
FROM_OTHERS = pytest.StashKey[list[str]]()
MATRIX = pytest.StashKey[list[str]]()
"""Figures, and lines of the matrix, that other processes have told."""


@dataclass(frozen=True)
class ServedAdapters:
    """A running server, its base's folder, and the adapters that were uploaded to it, by task name."""

    url: str
    spec: BaseSpec
    base: Path
    folders: dict[str, Path]
    digests: dict[str, str]
    cases: dict[str, AdapterCase]

    def reference(self, task: str) -> PeftReference:
        return PeftReference(self.base, self.cases[task], self.folders[task])

    def tasks(self, task_type: str) -> list[str]:
        return [task for task, case in self.cases.items() if case.task_type == task_type]


Serve = Callable[[str, str], ServedAdapters]


@contextmanager
def serve_adapters(base: str, dtype: str, root: Path, data_dir: Path) -> Iterator[ServedAdapters]:
    """A server over a base with every case's adapter uploaded over HTTP."""
    tiny = base in TINY_BASES
    name = str(make_tiny_base(root / base, base)) if tiny else base
    settings = ServerSettings(base=name, data_dir=data_dir, dtype=dtype)  # type: ignore[arg-type]
    with assemble(settings) as app, listening(app) as url:
        spec: BaseSpec = app.state.parts.spec
        folder = resolve_base(name, data_dir)
        cases = {case.task: case for case in cases_for(spec.family)}
        folders = {
            task: make_peft_adapter(folder, spec.model_type, case, root / "adapters" / task, seed, SCALE[base])
            for seed, (task, case) in enumerate(cases.items())
        }
        digests = {task: upload(url, task, path, cases[task]) for task, path in folders.items()}
        yield ServedAdapters(url, spec, folder, folders, digests, cases)


def upload(url: str, task: str, folder: Path, case: AdapterCase) -> str:
    """Upload a folder as PEFT wrote it, with what it does not say of its labels; returns the digest."""
    files = [("file", (name, data)) for name, data in read_folder(folder).items()]
    declared = {"id2label": dict(enumerate(LABELS))} if case.task_type == "SEQ_CLS" else {}
    response = httpx.post(
        f"{url}/v1/tasks/{task}/versions",
        params={"alias": "production"},
        files=files,
        data={"task": json.dumps(declared)},
        timeout=60,
    )
    assert response.status_code == 201, response.text
    digest: str = response.json()["digest"]
    return digest


@pytest.fixture(scope="session")
def shared_data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the embedded bases are unpacked once."""
    return tmp_path_factory.mktemp("bases-data")


@pytest.fixture(scope="module", params=[*TINY_BASES, *EMBEDDED_BASES])
def served_fp32(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shared_data_dir: Path
) -> Iterator[ServedAdapters]:
    base: str = request.param
    root = tmp_path_factory.mktemp(base)
    data_dir = data_dir_in(root, shared_data_dir)
    with serve_adapters(base, "float32", root, data_dir) as served:
        yield served


@pytest.fixture(scope="module", params=[*TINY_BASES, *EMBEDDED_BASES])
def served_bf16(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shared_data_dir: Path
) -> Iterator[ServedAdapters]:
    base: str = request.param
    root = tmp_path_factory.mktemp(f"{base}-bf16")
    data_dir = data_dir_in(root, shared_data_dir)
    with serve_adapters(base, "bfloat16", root, data_dir) as served:
        yield served


def data_dir_in(root: Path, shared: Path) -> Path:
    """A data folder of one's own, with the unpacked bases of all."""
    data_dir = root / "data"
    data_dir.mkdir()
    (shared / "bases").mkdir(exist_ok=True)
    (data_dir / "bases").symlink_to(shared / "bases", target_is_directory=True)
    return data_dir


@pytest.fixture
def report_figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Add a line to the figures that are printed after the run."""
    return request.config.stash.setdefault(FIGURES, []).append


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-support", action="store_true", help="write docs/support.md from what the matrix ran")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures, matrix = told(config)
    for title, lines in (("parity figures", figures), ("the matrix", matrix)):
        if lines:
            terminalreporter.section(title)
        for line in lines:
            terminalreporter.line(line)


def told(config: pytest.Config) -> tuple[list[str], list[str]]:
    """The figures and the lines of the matrix, of this process and of those that ran tests for it."""
    runs = config.stash.get(RUNS, {})
    matrix = list(support.figures(list(runs.values()))) if runs else []
    figures = config.stash.get(FIGURES, []) + config.stash.get(FROM_OTHERS, [])
    return figures, matrix or config.stash.get(MATRIX, [])


def pytest_sessionfinish(session: pytest.Session) -> None:
    output: dict[str, object] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["figures"], output["matrix"] = told(session.config)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Takes what a process of pytest-xdist's has to tell. A file's tests run in one, so the matrix is whole."""
    output = getattr(node, "workeroutput", {})
    node.config.stash.setdefault(FROM_OTHERS, []).extend(output.get("figures", []))
    node.config.stash.setdefault(MATRIX, []).extend(output.get("matrix", []))
