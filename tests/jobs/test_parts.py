"""What a worker makes of a job: its recipe, its events, its promotion, its checkpoints in the store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from multigraft_adapters.errors import InvalidDataError, InvalidRecipeError
from multigraft_adapters.manifest import Manifest
from multigraft_adapters.registry import Registry
from multigraft_adapters.store import open_store
from multigraft_training.jobs.following import Follower, step_table, trained_tokens
from multigraft_training.jobs.mirror import Mirror
from multigraft_training.jobs.order import Order, write_recipe
from multigraft_training.jobs.publishing import decide
from multigraft_training.recipe import read_recipe
from tests.registry.parts import make_adapter
from tests.s3 import S3

CLASSES = [{"text": f"{i}", "label": "a" if i % 2 else "b"} for i in range(8)]
ALL_AUTO = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}


@pytest.fixture
def order(tmp_path: Path) -> Order:
    return order_of(tmp_path, CLASSES)


def order_of(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Order:
    file = folder / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Order(
        job="ftjob-1",
        task="topic",
        base="tiny",
        data_dir=str(folder),
        fingerprint="",
        files={"train": str(file)},
        hyperparameters=ALL_AUTO,
        seed=7,
        recipe={},
        overrides={},
    )


def recipe_of(order: Order, folder: Path) -> dict[str, Any]:
    """The recipe of an order, read as `multigraft train` does."""
    file, overrides = write_recipe(order, folder)
    return read_recipe(file, overrides)[0].model_dump()


def test_the_rows_say_what_the_task_type_is(tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    for row, task_type in (
        (chat, "text-generation"),
        ({"prompt": "a", "completion": "b"}, "text-generation"),
        ({"text": "a", "text_pair": "c", "label": "b"}, "text-classification"),
        ({"text": "a", "text_pair": "c"}, "feature-extraction"),
        ({"tokens": ["a"], "tags": ["O"]}, "token-classification"),
        ({"question": "a", "context": "b", "answers": {}}, "question-answering"),
    ):
        file, _ = write_recipe(order_of(tmp_path, [row]), tmp_path)
        assert yaml.safe_load(file.read_text())["task"] == {"name": "topic", "type": task_type}
    with pytest.raises(InvalidDataError, match=r"train\.jsonl:1: has body; known are messages"):
        write_recipe(order_of(tmp_path, [{"body": "a"}]), tmp_path)


def test_hyperparameters_become_fields_of_the_recipe_which_win_over_them(order: Order, tmp_path: Path) -> None:
    auto = recipe_of(order, tmp_path)
    told = replace(order, hyperparameters=ALL_AUTO | {"n_epochs": 5, "learning_rate_multiplier": 0.5})
    recipe = recipe_of(told, tmp_path)
    assert (recipe["training"]["epochs"], recipe["training"]["seed"]) == (5, 7)
    assert recipe["training"]["learning_rate"] == auto["training"]["learning_rate"] / 2
    said = replace(told, recipe={"training.epochs": 6, "method.rank": 2}, overrides={"method.rank": "4"})
    recipe = recipe_of(said, tmp_path)
    assert (recipe["training"]["epochs"], recipe["method"]["rank"]) == (6, 4)
    slow = replace(told, overrides={"method.name": "ia3"})
    assert recipe_of(slow, tmp_path)["training"]["learning_rate"] == 0.5e-2


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("task.type", "image-classification", "no folder of images"),
        ("task.type", "'image-classification'", "no folder of images"),
        ("objective.name", "distillation", "a job cannot name; a job's is one of supervised"),
        ("objective.name", "multi-task", "give each task a job of its own"),
        ("objective.name", "wishing", "a job's is one of supervised, pseudo-labels, continued, mmd"),
        ("method.name", "full", "method.extract"),
    ],
)
def test_what_a_job_may_not_say_is_refused(order: Order, tmp_path: Path, name: str, value: str, told: str) -> None:
    with pytest.raises(InvalidRecipeError, match=told):
        write_recipe(replace(order, overrides={name: value}), tmp_path)


LINES: list[dict[str, Any]] = [
    {"event": "start"},
    {"event": "stage", "stage": 0, "num_steps": 4, "num_epochs": 2},
    {"event": "step", "step": 1, "stage": 0, "epoch": 1, "loss": 2.0, "learning_rate": 0.1, "tokens": 10},
    {"event": "step", "step": 2, "stage": 0, "epoch": 1, "loss": 1.0, "learning_rate": 0.1, "tokens": 12},
    {"event": "epoch", "step": 2, "stage": 0, "epoch": 1, "loss": 1.5, "validation": {"accuracy": 0.5}},
    {"event": "step", "step": 3, "stage": 0, "epoch": 2, "loss": 9.0, "learning_rate": 0.1, "tokens": 99},
    {"event": "resume", "step": 2, "stage": 0, "epochs": 1},
    {"event": "stage", "stage": 0, "num_steps": 4, "num_epochs": 2},
    {"event": "step", "step": 3, "stage": 0, "epoch": 2, "loss": 0.5, "learning_rate": 0.1, "tokens": 10},
]


def write_log(file: Path, lines: Sequence[Mapping[str, Any]]) -> bytes:
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    file.write_bytes(content)
    return content


def test_a_run_is_followed_by_whole_lines_and_never_told_twice(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    follower = Follower(log)
    assert follower.hear().notes == []
    content = write_log(log, LINES[:5])
    log.write_bytes(content[:-5])
    heard = follower.hear()
    assert [note.message for note in heard.notes] == [
        "training begins after step 0",
        "step 1: training loss 2.0000",
    ]
    assert heard.is_training and heard.checkpoints == []
    log.write_bytes(content)
    heard = follower.hear()
    assert [(point.step, point.metrics) for point in heard.checkpoints] == [
        (2, {"train_loss": 1.5, "valid_accuracy": 0.5})
    ]
    assert follower.hear().notes == []


def test_an_attempt_tells_what_the_one_before_did_not(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    write_log(log, LINES[:6])
    assert Follower(log, known_step=2).hear().notes == []
    follower = Follower(log, known_step=0)
    heard = follower.hear()
    assert [point.step for point in heard.checkpoints] == [2] and not heard.is_training
    write_log(log, LINES)
    assert "training goes on after step 2" in [note.message for note in follower.hear().notes]


def test_the_result_has_each_step_once(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    write_log(log, LINES)
    assert step_table(log).decode().splitlines() == [
        "step,epoch,train_loss,learning_rate,valid_accuracy",
        "1,1,2.0,0.1,",
        "2,1,1.0,0.1,0.5",
        "3,2,0.5,0.1,",
    ]
    assert trained_tokens(log) == 32


@dataclass(frozen=True)
class Measured:
    digest: str
    manifest: Manifest


def measured(**metrics: float) -> Measured:
    made = make_adapter(str(metrics))
    return Measured(made.digest, made.manifest.model_copy(update={"metrics": metrics}))


def test_a_version_is_promoted_when_it_is_asked_for_and_measured_no_less(tmp_path: Path) -> None:
    registry = Registry.open(tmp_path, "tiny")
    assert not decide(registry, "topic", measured(accuracy=1.0), "never").promotes
    assert decide(registry, "topic", measured(accuracy=0.1), "better").promotes, "there is none yet"
    registry.add_version("topic", measured(accuracy=0.8, loss=0.5), alias="production")
    for metrics, promotes in (
        ({"accuracy": 0.8, "loss": 9.0}, True),
        ({"accuracy": 0.7, "loss": 0.1}, False),
        ({"loss": 0.5}, True),
        ({"accuracy": 0.9, "loss": 0.5}, True),
        ({"loss": 0.6}, False),
        ({"pearson": 1.0}, False),
    ):
        decision = decide(registry, "topic", measured(**metrics), "better")
        assert (decision.promotes, decision.revision) == (promotes, 1), decision
    assert decide(registry, "topic", measured(accuracy=0.1), "always").promotes
    registry.close()


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_checkpoints_go_through_the_store_from_one_worker_to_another(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = None
    if kind == "s3":
        server: S3 = request.getfixturevalue("s3")
        url = server.new_url()
    store = open_store(tmp_path / "data", url)
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    assert not Mirror(store.blobs, "ftjob-1", 1).load(second)
    mirror = Mirror(store.blobs, "ftjob-1", 1)
    mirror.save(first)
    assert store.blobs.keys("jobs/ftjob-1") == [], "there is no checkpoint yet"
    (first / "metrics.jsonl").write_bytes(b"log")
    (first / "checkpoint.pt").write_bytes(b"state")
    mirror.save_soon(first)
    mirror.close()
    assert Mirror(store.blobs, "ftjob-1", 3).load(second)
    assert {path.name: path.read_bytes() for path in second.iterdir()} == {
        "checkpoint.pt": b"state",
        "metrics.jsonl": b"log",
    }
    assert store.strays() == [] and store.digests() == []
    mirror.clear()
    assert store.blobs.keys("jobs/ftjob-1") == []
