"""The demo from the first process to the last table."""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from rich.console import Console

from multigraft_adapters.bases import check_data_dir
from multigraft_adapters.client import Client
from multigraft_adapters.commands.options import write_json
from multigraft_adapters.errors import UnsupportedBaseError
from multigraft_training.demo.asking import chat_pairs, fan_out_in_a_crowd
from multigraft_training.demo.background import Background, asking_in_background
from multigraft_training.demo.processes import choose_port, run_command, serving
from multigraft_training.demo.show import answers_table, chats_table, content, next_steps, summary

TASKS = ("topic", "urgency", "pirate")
STYLE = "pirate"
TEXT = "You charged my card twice and I need the money back today!"
QUESTIONS = ("How do I track my order?", "Do you sell umbrellas?", "What is the boiling point of water?")
WANTED_STEP_ADAPTERS = 3


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


def tell(options: DemoOptions, console: Console) -> bool:
    """Run the demo; returns whether everything it shows is as it must be.

    Without `exit` the server goes on until Ctrl-C. Raises SetupError when a process cannot do its part.
    """
    started = time.monotonic()
    folder = check_data_dir(options.data_dir / "demo")
    port = choose_port(options.port)
    log = folder / "server.log"
    console.print(f"Starting a server on {options.base}; its log is {log}. The first time, the base is unpacked.")
    arguments = ("--base", options.base, "--data-dir", str(options.data_dir), "--dtype", options.dtype)
    with serving(arguments, port, log, options.api_key) as url:
        base = _base_name(url, options)
        console.print(f"{base} is served at {url}. Now three tasks are trained, while it answers.")
        with asking_in_background(url, options.api_key, base) as background:
            _train_and_push(options, url, folder, console)
        is_right = _compare(options, url, base, background, started, console)
        if not options.exit:
            _stay(url, base, options, console)
    return is_right


def _base_name(url: str, options: DemoOptions) -> str:
    with Client(url, options.api_key) as client:
        base = client.engine()["base"]
    if base["family"] != "decoder":
        raise UnsupportedBaseError(f"the demo chats, and {base['name']!r} is an encoder: give a decoder as --base")
    return str(base["name"])


def _train_and_push(options: DemoOptions, url: str, folder: Path, console: Console) -> None:
    with as_file(files("multigraft_training.demo")) as here:
        for task in TASKS:
            console.rule(task, style="bold")
            output = folder / "runs" / task
            overrides = (f"base={options.base}", f"training.precision={options.dtype}", f"output={output}")
            recipe = str(here / "recipes" / f"{task}.yaml")
            run_command("train", recipe, *overrides, "--data-dir", str(options.data_dir))
            run_command("push", str(output / "adapter"), "--task", task, "--alias", "production", "--url", url)
    console.rule()


def _compare(
    options: DemoOptions, url: str, base: str, background: Background, started: float, console: Console
) -> bool:
    fan_outs = fan_out_in_a_crowd(url, options.api_key, TEXT, TASKS)
    pairs = chat_pairs(url, options.api_key, base, STYLE, QUESTIONS)
    widest = max(fan_outs, key=lambda fan_out: fan_out.step_adapters)
    console.print(answers_table(TEXT, widest))
    console.print(chats_table(base, STYLE, pairs))
    for sentence in summary(fan_outs, background, time.monotonic() - started):
        console.print(sentence)
    if options.json_file:
        write_json(content(fan_outs, pairs, background), options.json_file)
    have_answered = all(answer.error is None for fan_out in fan_outs for answer in fan_out.answers)
    was_mixed = widest.step_adapters >= WANTED_STEP_ADAPTERS
    return have_answered and was_mixed and background.failed == 0 and background.answered > 0


def _stay(url: str, base: str, options: DemoOptions, console: Console) -> None:
    console.print(next_steps(url, base, has_key=options.api_key is not None), soft_wrap=True)
    console.print("Ctrl-C ends the server.")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        console.print("The server ends.")
