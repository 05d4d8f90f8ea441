"""A stub server, an artifact's folder, and the command line as an installation has it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from multigraft_adapters.artifact import CONFIG_FILE, MANIFEST_FILE, TENSORS_FILE
from multigraft_adapters.cli import COMMANDS, multigraft
from tests.cli.stub import StubServer, serving

ROOT = Path(__file__).parents[2]

Run = Callable[..., Result]


@pytest.fixture
def server() -> Iterator[StubServer]:
    with serving() as running:
        yield running


@pytest.fixture
def nobody() -> str:
    """The URL of a server that has just gone."""
    with serving() as gone:
        return gone.url


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """A folder as training writes it, with two stored samples; only the manifest has meaning."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    manifest = {
        "task_type": "text-classification",
        "id2label": {"0": "bad", "1": "good"},
        "head": {"kind": "classification", "pooling": "last", "activation": "softmax"},
        "method": {"name": "lora"},
        "samples": [
            {
                "inputs": text,
                "parameters": {"top_k": 2},
                "output": [[{"label": "good", "score": 0.9}, {"label": "bad", "score": 0.1}]],
            }
            for text in ("fine", "great")
        ],
    }
    (folder / CONFIG_FILE).write_text("{}")
    (folder / TENSORS_FILE).write_bytes(b"tensors")
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    (folder / "README.md").write_text("made by PEFT")
    return folder


def write_entry_points(folder: Path, entries: dict[str, str]) -> None:
    """What an installer writes beside a package, so that its commands are found."""
    info = folder / "multigraft-0.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: multigraft\nVersion: 0.0\n")
    lines = [f"{name} = {value}" for name, value in entries.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{COMMANDS}]", *lines]))


def project_entries() -> dict[str, str]:
    """The commands that the project declares."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    entries: dict[str, str] = project["entry-points"][COMMANDS]
    return entries


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `multigraft` with these arguments, as an installed command would."""
    write_entry_points(tmp_path / "site", project_entries())
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("COLUMNS", "200")

    def invoke(*arguments: object, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(multigraft, [str(argument) for argument in arguments], input=stdin)

    return invoke
