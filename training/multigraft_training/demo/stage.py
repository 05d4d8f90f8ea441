"""Where a demo plays: a server of its own, and tasks that are trained and pushed to it while it answers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from rich.console import Console

from multigraft_adapters.bases import check_data_dir
from multigraft_adapters.client import Client
from multigraft_training.demo.processes import choose_port, run_command, serving


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the command was told."""

    base: str
    data_dir: Path
    dtype: str
    port: int | None
    api_key: str | None
    exit: bool
    json_file: str | None


@dataclass(frozen=True, slots=True)
class Stage:
    """A server that is ready; `base` is how it shows its base, `folder` keeps the runs."""

    options: DemoOptions
    url: str
    base: str
    family: str
    folder: Path


@contextmanager
def on_stage(options: DemoOptions, console: Console) -> Iterator[Stage]:
    """A server on the demo's base, ended with the block. Raises SetupError when it does not start."""
    folder = check_data_dir(options.data_dir / "demo")
    port = choose_port(options.port)
    log = folder / "server.log"
    console.print(f"Starting a server on {options.base}; its log is {log}. The first time, the base is unpacked.")
    arguments = ("--base", options.base, "--data-dir", str(options.data_dir), "--dtype", options.dtype)
    with serving(arguments, port, log, options.api_key) as url:
        with Client(url, options.api_key) as client:
            base = client.engine()["base"]
        yield Stage(options, url, str(base["name"]), str(base["family"]), folder)


def train_and_push(stage: Stage, task: str, recipe: str, overrides: Mapping[str, str] | None = None) -> Any:
    """Train a recipe of the demo's with what it overrides, push it as `task`; what `push` says of it.

    Raises SetupError when either fails.
    """
    options, output = stage.options, stage.folder / "runs" / f"{task}-{stage.base}"
    told = stage.folder / "pushed.json"
    given = {"base": options.base, "training.precision": options.dtype, "output": str(output), **(overrides or {})}
    with as_file(files("multigraft_training.demo")) as here:
        file = str(here / "recipes" / f"{recipe}.yaml")
        run_command(
            "train", file, *(f"{key}={value}" for key, value in given.items()), "--data-dir", str(options.data_dir)
        )
    adapter = str(output / "adapter")
    run_command("push", adapter, "--task", task, "--alias", "production", "--url", stage.url, "--json", str(told))
    return json.loads(told.read_text("utf-8"))


def stay(next_steps: str, console: Console) -> None:
    """Say what to try, and wait for Ctrl-C."""
    console.print(next_steps, soft_wrap=True)
    console.print("Ctrl-C ends the server.")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        console.print("The server ends.")
