"""Runs that are killed, stopped, short of disk or diverging, and how they go on."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from multigraft_adapters.errors import InvalidRecipeError, TrainingFailedError, TrainingStoppedError
from multigraft_training.cli import train as train_command
from multigraft_training.run_folder import Watch
from multigraft_training.run_log import read_log
from multigraft_training.stopping import STOPPED, StopWish
from tests.crash.kill import forked
from tests.training.conftest import TinyBase
from tests.training.made import CLASS_ROWS, recipe_values, train, write_jsonl, write_recipe


class AtStep(StopWish):
    """Does something when a run looks for a wish to stop after its n-th step."""

    def __init__(self, step: int, act: Callable[[], Any]) -> None:
        self._looks, self._step, self._act = 0, step, act
        super().__init__()

    @property
    def is_set(self) -> bool:
        self._looks += 1
        return bool(self._act()) if self._looks == self._step else False

    @is_set.setter
    def is_set(self, value: bool) -> None:
        assert not value


def prepare(folder: Path, base: Path, **training: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / "train.jsonl", CLASS_ROWS)
    slow = {"batch_tokens": 20, "checkpoint_seconds": 0, "early_stopping": None}
    values = recipe_values(base, "text-classification", folder, **{**slow, **training})
    values["method"]["dropout"] = 0.2
    return values


def figures(folder: Path) -> dict[str, Any]:
    """What a run says of itself, but for times."""
    timed = {"time", "tokens_per_second"}
    lines = [line for line in read_log(folder / "metrics.jsonl") if line["event"] in ("step", "epoch", "end")]
    told = [{name: value for name, value in line.items() if name not in timed} for line in lines]
    return {"lines": told} | {name: (folder / name).read_text() for name in ("metrics.json", "epochs.json")}


def test_a_run_that_is_killed_again_and_again_goes_on_to_the_same_result(
    tmp_path: Path, tiny_base: TinyBase
) -> None:
    base = tiny_base("llama")
    whole, _ = train(tmp_path / "whole", prepare(tmp_path / "whole", base))
    folder = tmp_path / "killed"
    values = prepare(folder, base)
    chooser = random.Random(4)
    assert whole.fit.num_steps > 24
    for _ in range(3):
        killer = AtStep(chooser.randint(2, 8), lambda: os.kill(os.getpid(), signal.SIGKILL))
        child = forked(partial(train, folder, values, Watch(wish=killer)))
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    result, told = train(folder, values)
    assert "resumed after step" in told
    assert result.digest == whole.digest and result.fit == whole.fit
    assert figures(folder / "run") == figures(tmp_path / "whole" / "run")
    steps = [line for line in read_log(folder / "run/metrics.jsonl") if line["event"] == "step"]
    assert [line["step"] for line in steps] == list(range(1, whole.fit.num_steps + 1))
    assert not (folder / "run" / "checkpoint.pt").exists()


def test_a_stopped_run_leaves_a_checkpoint_and_the_exit_code_that_says_so(
    tmp_path: Path, tiny_base: TinyBase
) -> None:
    values = prepare(tmp_path, tiny_base("bert"), epochs=5000)
    recipe, log = write_recipe(tmp_path, values), tmp_path / "run" / "metrics.jsonl"

    def stop_soon() -> None:
        while not log.exists() or b'"step"' not in log.read_bytes():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop_soon)
    thread.start()
    command = [str(recipe), "--data-dir", str(tmp_path / "data")]
    stopped = CliRunner().invoke(train_command, command)
    thread.join()
    assert stopped.exit_code == STOPPED == 75
    assert "run the same command again" in stopped.stderr
    assert read_log(log)[-1]["event"] == "stop"
    epochs = sum(line["event"] == "epoch" for line in read_log(log)) + 1

    with pytest.raises(InvalidRecipeError, match=f"training.epochs was 5000, is {epochs}; give --resume"):
        train(tmp_path, {**values, "training": {**values["training"], "epochs": epochs}})
    with pytest.raises(InvalidRecipeError, match="method.rank was 4, is 2; give --fresh"):
        train(tmp_path, {**values, "method": {**values["method"], "rank": 2}}, Watch(resume=True))
    write_recipe(tmp_path, values)
    finished = CliRunner().invoke(train_command, [*command, "--resume", f"training.epochs={epochs}"])
    assert finished.exit_code == 0, finished.stderr
    assert f"resuming, though training.epochs was 5000, is {epochs}" in finished.stderr
    assert len(json.loads((tmp_path / "run" / "epochs.json").read_text())) == epochs
    with pytest.raises(InvalidRecipeError, match="has no checkpoint of a stopped run"):
        train(tmp_path, values, Watch(resume=True))


def test_starting_over_forgets_the_stopped_run(tmp_path: Path, tiny_base: TinyBase) -> None:
    values = prepare(tmp_path, tiny_base("bert"))
    with pytest.raises(TrainingStoppedError, match="the checkpoint of step 3 stands"):
        train(tmp_path, values, Watch(wish=AtStep(3, lambda: True)))
    values["method"]["rank"] = 2
    result, told = train(tmp_path, values, Watch(resume=False))
    assert "resumed" not in told
    lines = read_log(tmp_path / "run" / "metrics.jsonl")
    assert lines[0]["event"] == "start" and lines[-1]["adapter"] == result.digest


def test_a_training_that_diverges_leaves_the_last_good_checkpoint(tmp_path: Path, tiny_base: TinyBase) -> None:
    values = prepare(tmp_path, tiny_base("bert"), learning_rate=1e30, warmup=0.5)
    with pytest.raises(TrainingFailedError, match="--resume to go on from the checkpoint of step") as raised:
        train(tmp_path, values)
    assert "training.learning_rate" in raised.value.message
    values["training"]["learning_rate"] = 1e-3
    with pytest.raises(InvalidRecipeError, match="give --resume"):
        train(tmp_path, values)


def test_a_full_disk_stops_a_run_with_the_checkpoint_before(tmp_path: Path, tiny_base: TinyBase) -> None:
    values, said = prepare(tmp_path, tiny_base("bert")), tmp_path / "said"

    def fill() -> None:
        """From here on, files stop growing early, as on a disk that is full."""
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, resource.RLIM_INFINITY))

    def run() -> None:
        with pytest.raises(TrainingFailedError) as raised:
            train(tmp_path, values, Watch(wish=AtStep(5, fill)))
        said.write_text(raised.value.message)

    assert os.waitpid(forked(run), 0)[1] == 0
    assert "the checkpoint cannot be written" in said.read_text()
    assert "the checkpoint of step 4 stands: run the same command again" in said.read_text()
    assert not [file for file in (tmp_path / "run").iterdir() if file.name.startswith(".")]
    assert "resumed after step 4" in train(tmp_path, values)[1]
