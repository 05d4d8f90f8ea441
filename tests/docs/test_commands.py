"""The commands that the documentation shows are run, each page's in order, on a tiny base. Those that take minutes
or need another host are named here with the test that runs them in small; `tests/house` parses all."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from multigraft_adapters.bases import load_base
from multigraft_server.app import openapi_document
from multigraft_server.settings import API_KEY_VARIABLE
from tests.house.test_docs import PAGES, command
from tests.house.tree import ROOT
from tests.server.running import Served, serving
from tests.tiny import make_tiny_base

ELSEWHERE = {
    r"(MULTIGRAFT_API_KEY=... )?multigraft serve\b": "tests/server/test_serve.py",
    r"multigraft worker\b": "tests/jobs",
    r"multigraft demo\b": "tests/training/test_demo.py",
    r"scripts/": "tests/house/test_scripts.py",
    r"multigraft loadtest\b": "tests/loadtest, on tiny bases",
    r"multigraft train bench\b": "tests/training/test_bench.py, with tiny cells",
    r"multigraft train (--advise|advised.yaml)": "tests/training/test_advice.py",
    r"multigraft train my.yaml --(search|folds)": "tests/training/test_search.py",
    r"multigraft data\b": "tests/training/test_datasets.py; it fetches from the package index",
    r"multigraft import\b": "tests/cli/test_import.py",
    r"(MULTIGRAFT_\w+=\S+ )+scripts/test": "tests/crash",
    r"accelerate launch": "tests/training/test_processes.py",
    r"docker |mkdocs serve": "tests/house/test_dockerfile.py, tests/docs/test_site.py",
    r"prometheus ": "tests/monitoring",
    r"python -m tests.fuzz": "tests/fuzz",
    r"OTEL_\w+=": "tests/server/test_tracing.py",
    r"\$ curl --data-binary @parcel.jpg|multigraft predict \w+ --image": "tests/server/test_images.py",
}
PARAMETERS = ["training.epochs=1", "training.precision=float32", "training.early_stopping=null"]
KEY = "a-key-of-tests"
NUM_ROWS = 24
"""Of the data that the pages' recipes train on."""
DATA = "multigraft_training/demo/data"
BLOCK = re.compile(r"^```(?:sh|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Shown:
    """A command as a page shows it."""

    page: str
    line: str

    @property
    def is_run_elsewhere(self) -> bool:
        return any(re.match(pattern, self.line) for pattern in ELSEWHERE)


def shown() -> Iterator[Shown]:
    """Every command of every page; a block of a console has answers too."""
    for page in PAGES:
        for block in BLOCK.findall(page.read_text("utf-8")):
            lines = [line.partition("  #")[0].strip() for line in block.replace("\\\n", " ").splitlines()]
            dialogue = any(line.startswith("$ ") for line in lines)
            for line in lines:
                if line and (line.startswith("$ ") or not dialogue):
                    yield Shown(page.name, line)


SHOWN = list(shown())
RUN = [one for one in SHOWN if not one.is_run_elsewhere]


@dataclass(frozen=True)
class World:
    """A server with the tasks that the pages speak of, and a folder in which the commands are run."""

    served: Served
    base: Path
    data_dir: Path

    def run(self, line: str) -> str:
        """What a command printed; it must have ended well."""
        if not line.startswith("multigraft "):
            return self._run_program(line)
        line, _, source = line.partition(" < ")
        _, name, *arguments = shlex.split(line)
        found = command(name)
        if isinstance(found, click.Group):
            found = found.commands[arguments.pop(0)]
        told = [*self._translated(arguments), *self._places(found)]
        result = CliRunner().invoke(found, told, input=Path(source).read_text("utf-8") if source else None)
        assert result.exit_code == 0, f"{line}\n{result.output}"
        return result.output

    def _run_program(self, line: str) -> str:
        line = line.removeprefix("$ ").replace("http://127.0.0.1:8100", self.served.url)
        if line.startswith("curl "):
            line += f" -H 'authorization: Bearer {KEY}'"
        here = os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
        done = subprocess.run(line, shell=True, env=here, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        return done.stdout

    def _translated(self, arguments: list[str]) -> list[str]:
        """The key that the page revokes exists, the bucket is left out, a recipe is trained on the tiny base."""
        key = self.served.http.get("/v1/keys").json().get("keys")
        told = [key[-1]["id"] if key and re.fullmatch("[0-9a-f]{12}", one) else one for one in arguments]
        if "--store" in told:
            del told[told.index("--store") : told.index("--store") + 2]
        if told and told[0].endswith(".yaml"):
            return [*told, f"base={self.base}", *PARAMETERS]
        return told

    def _places(self, found: click.Command) -> list[str]:
        """This server and this data folder, where the page does not name others on purpose."""
        options = {option for parameter in found.params for option in parameter.opts}
        here = {"--url": self.served.url, "--data-dir": str(self.data_dir)}
        return [word for option in here if option in options for word in (option, here[option])]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("docs")
    base = make_tiny_base(folder / "smollm2", "llama")
    loaded = load_base(str(base), folder, device="cpu", dtype="float32")
    closed = serving(loaded, folder / "data", api_key=KEY)
    with closed as served, pytest.MonkeyPatch.context() as patch:
        served.http.headers["authorization"] = f"Bearer {KEY}"
        patch.setenv(API_KEY_VARIABLE, KEY)
        for task in ("topic", "urgency", "sentiment"):
            for seed in range(4):
                served.add(task, "text-classification", seed=seed, alias=None)
        for task, alias, version in (
            ("topic", "production", 1),
            ("topic", "production", 2),
            ("urgency", "production", 1),
            ("sentiment", "production", 2),
            ("sentiment", "production", 3),
            ("sentiment", "canary", 4),
        ):
            served.http.put(f"/v1/tasks/{task}/aliases/{alias}", json={"version": version}).raise_for_status()
        served.add("style", "text-generation", alias="canary")
        place = furnished(folder / "work")
        patch.chdir(place)
        made = World(served, base, folder / "data")
        made.run("multigraft train my.yaml output=runs/sentiment")
        shutil.copytree("runs/sentiment", "runs/imported")
        yield made


def furnished(place: Path) -> Path:
    """A folder with what the pages' commands read: recipes with some of their data, and texts."""
    shutil.copytree(ROOT / "training" / "recipes", place / "training" / "recipes")
    data, few = ROOT / "training" / DATA, place / "training" / DATA
    few.mkdir(parents=True)
    (place / "movies").mkdir()
    for split in ("train", "test"):
        rows = "".join((data / f"topic-{split}.jsonl").read_text("utf-8").splitlines(keepends=True)[:NUM_ROWS])
        for file in (few / f"topic-{split}.jsonl", place / "movies" / f"{split}.jsonl"):
            file.write_text(rows, "utf-8")
    recipe = (place / "training" / "recipes" / "lora-text-classification.yaml").read_text("utf-8")
    (place / "my.yaml").write_text(
        recipe.replace("../multigraft_training", "training/multigraft_training"), "utf-8"
    )
    (place / "lines.txt").write_text("one text\nanother\n", "utf-8")
    return place


def test_each_command_is_run_here_or_named_with_the_test_that_runs_it(world: World) -> None:
    assert len(RUN) > 25 and len({one.page for one in RUN}) > 2
    printed = {one: world.run(one.line) for one in RUN}
    assert not [one.line for one, text in printed.items() if not text.strip() and ">" not in one.line]


@pytest.mark.parametrize("pattern", ELSEWHERE)
def test_what_is_run_elsewhere_is_still_shown(pattern: str) -> None:
    assert [one for one in SHOWN if re.match(pattern, one.line)]
    named = re.findall(r"tests/[\w/.]+\w", ELSEWHERE[pattern])
    assert named and all((ROOT / name).exists() for name in named)


def test_a_server_gives_the_document_that_the_reference_is_made_of(world: World) -> None:
    assert world.served.http.get("/openapi.json").json() == json.loads(json.dumps(openapi_document()))
