"""The demo from the first process to the last table."""

from __future__ import annotations

import time

from rich.console import Console

from multigraft_adapters.commands.options import write_json
from multigraft_adapters.errors import UnsupportedBaseError
from multigraft_training.demo.asking import chat_pairs, fan_out_in_a_crowd
from multigraft_training.demo.background import Background, asking_in_background
from multigraft_training.demo.show import answers_table, chats_table, content, next_steps, summary
from multigraft_training.demo.stage import DemoOptions, Stage, on_stage, stay, train_and_push

TASKS = ("topic", "urgency", "pirate")
STYLE = "pirate"
TEXT = "You charged my card twice and I need the money back today!"
QUESTIONS = ("How do I track my order?", "Do you sell umbrellas?", "What is the boiling point of water?")
WANTED_STEP_ADAPTERS = 3


def tell(options: DemoOptions, console: Console) -> bool:
    """Run the demo; returns whether everything it shows is as it must be.

    Without `exit` the server goes on until Ctrl-C. Raises SetupError when a process cannot do its part.
    """
    started = time.monotonic()
    with on_stage(options, console) as stage:
        if stage.family != "decoder":
            raise UnsupportedBaseError(
                f"the demo chats, and {stage.base!r} is an encoder: give a decoder as --base, or --methods"
            )
        console.print(f"{stage.base} is served at {stage.url}. Now three tasks are trained, while it answers.")
        with asking_in_background(stage.url, options.api_key, stage.base) as background:
            for task in TASKS:
                console.rule(task, style="bold")
                train_and_push(stage, task, recipe=task)
            console.rule()
        is_right = _compare(stage, background, started, console)
        if not options.exit:
            stay(next_steps(stage.url, stage.base, has_key=options.api_key is not None), console)
    return is_right


def _compare(stage: Stage, background: Background, started: float, console: Console) -> bool:
    options = stage.options
    fan_outs = fan_out_in_a_crowd(stage.url, options.api_key, TEXT, TASKS)
    pairs = chat_pairs(stage.url, options.api_key, stage.base, STYLE, QUESTIONS)
    widest = max(fan_outs, key=lambda fan_out: fan_out.step_adapters)
    console.print(answers_table(TEXT, widest))
    console.print(chats_table(stage.base, STYLE, pairs))
    for sentence in summary(fan_outs, background, time.monotonic() - started):
        console.print(sentence)
    if options.json_file:
        write_json(content(fan_outs, pairs, background), options.json_file)
    have_answered = all(answer.error is None for fan_out in fan_outs for answer in fan_out.answers)
    was_mixed = widest.step_adapters >= WANTED_STEP_ADAPTERS
    return have_answered and was_mixed and background.failed == 0 and background.answered > 0
