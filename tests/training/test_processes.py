"""Two processes that train together, against one that trains alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file

from multigraft_training.run_folder import Watch
from multigraft_training.run_log import read_log
from tests.crash.kill import forked
from tests.training.conftest import TinyBase
from tests.training.made import CLASS_ROWS, recipe_values, train, write_jsonl, write_recipe


def prepare(folder: Path, base: Path, **training: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / "train.jsonl", CLASS_ROWS)
    # An odd number of rows in a step, and at times one alone, which one of the processes then has no share of.
    return recipe_values(base, "text-classification", folder, batch_tokens=40, micro_batch_tokens=30, **training)


def worker(rank: int, port: int, folder: Path, values: dict[str, Any]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    PartialState._reset_state()
    result, _ = train(folder, values, Watch())
    assert result.metrics
    torch.distributed.destroy_process_group()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check_alike(one: Path, two: Path) -> None:
    """The same training but for the order in which gradients were summed."""
    tensors, others = (load_file(folder / "run/adapter/adapter_model.safetensors") for folder in (one, two))
    assert tensors and tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(others[name], tensor, atol=2e-4, rtol=0)
    lines = [
        [line["loss"] for line in read_log(folder / "run/metrics.jsonl") if line["event"] == "step"]
        for folder in (one, two)
    ]
    assert [read_log(folder / "run/metrics.jsonl")[0]["processes"] for folder in (one, two)] == [1, 2]
    assert len(lines[0]) > 6
    assert lines[1] == pytest.approx(lines[0], abs=1e-3)


def test_two_processes_train_what_one_does(tmp_path: Path, tiny_base: TinyBase) -> None:
    base, port = tiny_base("llama"), free_port()
    train(tmp_path / "one", prepare(tmp_path / "one", base))
    values = prepare(tmp_path / "two", base)
    children = [forked(partial(worker, rank, port, tmp_path / "two", values)) for rank in range(2)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    check_alike(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_accelerate_launches_two_processes(tmp_path: Path, tiny_base: TinyBase) -> None:
    base = tiny_base("llama")
    train(tmp_path / "one", prepare(tmp_path / "one", base))
    recipe = write_recipe(tmp_path / "two", prepare(tmp_path / "two", base))
    python = Path(sys.executable)
    launch = [python, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    port = ["--main_process_port", str(free_port())]
    command = [*launch, *port, python.with_name("multigraft"), "train", recipe, "--data-dir", tmp_path / "data"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "two/run/metrics.json").read_text())
    assert done.stdout.splitlines() == [f"{name} {value:.3f}" for name, value in metrics.items()]
    check_alike(tmp_path / "one", tmp_path / "two")
