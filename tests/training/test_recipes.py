"""Every recipe that is shipped, on a tiny base and tiny data: it runs, and a server answers as the trainer did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

import multigraft_training
from multigraft_adapters.artifact import digest_of, read_folder
from multigraft_adapters.bases import load_base
from multigraft_adapters.commands.samples import compare
from multigraft_adapters.verify import verify
from tests.server.running import Served, serving
from tests.training.conftest import TinyBase
from tests.training.made import rows_of, train, write_jsonl

RECIPES = sorted((Path(multigraft_training.__file__).parent.parent / "recipes").glob("*.yaml"))
TINY = {"minilm": "bert", "smollm2": "llama"}
"""The tiny base that stands for a recipe's; for any other it is a ViT."""
FAST = {"epochs": 1, "batch_tokens": 128, "precision": "float32", "max_length": None}
TOLERANCE = 1e-3
"""Both compute in fp32."""

ServerOf = Callable[[str], Served]


@pytest.fixture(scope="module")
def server_of(tiny_base: TinyBase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerOf]:
    """A server over a tiny base by model type."""
    root = tmp_path_factory.mktemp("servers")
    servers: dict[str, Served] = {}
    with ExitStack() as stack:

        def server(model_type: str) -> Served:
            if model_type not in servers:
                base = load_base(str(tiny_base(model_type)), root, device="cpu", dtype="float32")
                servers[model_type] = stack.enter_context(serving(base, root / model_type))
            return servers[model_type]

        yield server


def tiny_values(file: Path, base: Path, folder: Path) -> dict[str, Any]:
    """A recipe with everything that makes it long taken out."""
    values: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    write_jsonl(folder / "train.jsonl", rows_of(values["task"]["type"], folder))
    splits = dict.fromkeys(("train", "validation", "test"), "train.jsonl")
    unlabelled = {"unlabelled": "train.jsonl"} if values["data"].get("unlabelled") else {}
    return values | {
        "base": str(base),
        "data": splits | unlabelled,
        "training": values.get("training", {}) | FAST,
        "output": str(folder / "run"),
    }


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_runs_and_its_artifact_is_served_with_the_trainers_answers(
    file: Path, tmp_path: Path, tiny_base: TinyBase, server_of: ServerOf
) -> None:
    model_type = TINY.get(yaml.safe_load(file.read_text(encoding="utf-8"))["base"], "vit")
    values = tiny_values(file, tiny_base(model_type), tmp_path)
    if "teacher" in values.get("objective", {}):
        taught = {"objective": {}, "data": {"train": "train.jsonl"}, "output": str(tmp_path / "teacher")}
        train(tmp_path, values | taught)
        values["objective"]["teacher"] = {"adapter": str(tmp_path / "teacher" / "adapter")}
    for name, further in values.get("objective", {}).get("tasks", {}).items():
        write_jsonl(tmp_path / f"{name}.jsonl", rows_of(further["type"], tmp_path))
        further |= dict.fromkeys(("train", "validation", "test"), f"{name}.jsonl")
    result, _ = train(tmp_path, values)
    server = server_of(model_type)
    assert result.adapters
    for task, folder in result.adapters.items():
        files = read_folder(folder)
        manifest = verify(files, server.spec).manifest
        name = f"{file.stem}-{task}"
        response = server.upload(name, files, "production")
        assert response.status_code == 201, response.text
        assert response.json()["digest"] == digest_of(files)
        assert manifest.samples
        for sample in manifest.samples:
            answer = server.predict(name, sample.inputs, sample.parameters)
            assert answer.status_code == 200, answer.text
            compared = compare(manifest.task_type, sample.output, answer.json(), TOLERANCE)
            assert compared.agrees, (compared, sample.output, answer.json())
