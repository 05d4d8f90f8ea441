"""The demo of the methods: an adapter of each, trained while the server answers, and all of them in one step."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

from rich.console import Console
from rich.table import Table

from multigraft_adapters.commands.options import short_digest, write_json
from multigraft_training.demo.asking import FanOut, fan_out_each
from multigraft_training.demo.background import Background, asking_in_background
from multigraft_training.demo.show import summary
from multigraft_training.demo.stage import DemoOptions, Stage, on_stage, stay, train_and_push

RECIPE = "topic"
INIT_TEXT = "A customer writes about an account, a bill, a product, a refund, the shipping, a technical problem."


@dataclass(frozen=True, slots=True)
class Lesson:
    """How a method is trained here: the recipe's `method`, the learning rates of delta and head, and the epochs by
    the base's family. A small encoder needs more of them and is as quick."""

    method: str
    learning_rate: float
    head_learning_rate: float
    epochs: Mapping[str, int]


FEW, MORE = {"decoder": 3, "encoder": 8}, {"decoder": 7, "encoder": 16}
LESSONS: dict[str, Lesson] = {
    "lora": Lesson("{name: lora, rank: 8, alpha: 16}", 2e-3, 2e-3, FEW),
    "ia3": Lesson("{name: ia3}", 2e-2, 2e-3, FEW),
    "bottleneck": Lesson("{name: bottleneck, placement: pfeiffer}", 5e-3, 2e-3, FEW),
    "prefix": Lesson("{name: prefix, virtual_tokens: 10}", 2e-2, 5e-3, MORE),
    "prompt": Lesson(f"{{name: prompt, virtual_tokens: 10, init_text: '{INIT_TEXT}'}}", 3e-2, 5e-3, MORE),
    "p-tuning": Lesson("{name: p-tuning, virtual_tokens: 10}", 5e-3, 5e-3, MORE),
}
PER_TOPIC = 3
"""How many texts of each topic are asked about."""


@dataclass(frozen=True, slots=True)
class Question:
    """A text that no adapter has seen, and what it is about."""

    text: str
    topic: str


def tell_methods(options: DemoOptions, console: Console) -> bool:
    """Run the demo of the methods; returns whether all of them answered, from one step, and no request failed.

    Without `exit` the server goes on until Ctrl-C. Raises SetupError when a process cannot do its part.
    """
    started = time.monotonic()
    with on_stage(options, console) as stage:
        console.print(
            f"{stage.base} is served at {stage.url}. Now {len(LESSONS)} methods learn one task, one by one, while "
            "it answers: which of six topics a support ticket is about."
        )
        is_decoder = stage.family == "decoder"
        with asking_in_background(stage.url, options.api_key, stage.base, chats=is_decoder) as background:
            pushed = {method: _teach(stage, method, console) for method in LESSONS}
            console.rule()
        is_right = _compare(stage, pushed, background, started, console)
        if not options.exit:
            stay(_next_steps(stage), console)
    return is_right


def task_of(method: str) -> str:
    """The task that a method's adapter is a version of."""
    return f"topic-{method}"


def questions() -> list[Question]:
    """Texts of the test split, as many of each topic."""
    lines = files("multigraft_training.demo").joinpath("data/topic-test.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    topics = sorted({row["label"] for row in rows})
    chosen = [[row for row in rows if row["label"] == topic][:PER_TOPIC] for topic in topics]
    return [Question(row["text"], row["label"]) for round_ in zip(*chosen, strict=True) for row in round_]


def methods_table(asked: Sequence[Question], fan_outs: Sequence[FanOut], pushed: Mapping[str, Any]) -> Table:
    """One row per method: what it answers in the widest step, how often it is right, how exact it is served."""
    shown, question = max(zip(fan_outs, asked, strict=True), key=lambda pair: pair[0].step_adapters)
    table = Table(title=f'One request, {shown.step_adapters} adapters in its step: "{question.text}"')
    for name in ("method", "digest", "answer", "right", f"of {len(asked)}", "off by"):
        table.add_column(name, overflow="fold")
    for index, (method, push) in enumerate(pushed.items()):
        answer = shown.answers[index]
        table.add_row(
            method,
            short_digest(answer.digest),
            answer.text if answer.error is None else f"failed: {answer.error}",
            "yes" if answer.label == question.topic else "no",
            str(num_right(asked, fan_outs, index)),
            f"{push['largest_difference']:.4f}",
        )
    return table


def num_right(asked: Sequence[Question], fan_outs: Sequence[FanOut], index: int) -> int:
    """How many questions the method at `index` of each fan-out answers rightly."""
    pairs = zip(asked, fan_outs, strict=True)
    return sum(fan_out.answers[index].label == question.topic for question, fan_out in pairs)


def _teach(stage: Stage, method: str, console: Console) -> Any:
    console.rule(method, style="bold")
    lesson = LESSONS[method]
    overrides = {
        "task.name": task_of(method),
        "method": lesson.method,
        "training.learning_rate": str(lesson.learning_rate),
        "training.batch_tokens": "256",
        "training.early_stopping": "null",
        "training.head_learning_rate": str(lesson.head_learning_rate),
        "training.epochs": str(lesson.epochs[stage.family]),
    }
    return train_and_push(stage, task_of(method), RECIPE, overrides)


def _compare(
    stage: Stage, pushed: Mapping[str, Any], background: Background, started: float, console: Console
) -> bool:
    asked = questions()
    fan_outs = fan_out_each(
        stage.url, stage.options.api_key, [question.text for question in asked], [task_of(m) for m in pushed]
    )
    console.print(methods_table(asked, fan_outs, pushed))
    console.print(
        f"The task of each is topic-<method>. `of {len(asked)}` is how many of such texts it gets right, `off by` "
        "the largest difference of a score between the server and the trained model; each adapter was also held "
        "against its method's reference formula before it was written."
    )
    for sentence in summary(fan_outs, background, time.monotonic() - started):
        console.print(sentence)
    if stage.options.json_file:
        write_json(_content(asked, fan_outs, pushed, background), stage.options.json_file)
    have_answered = all(answer.error is None for fan_out in fan_outs for answer in fan_out.answers)
    were_together = max(fan_out.step_adapters for fan_out in fan_outs) >= len(pushed)
    return have_answered and were_together and background.failed == 0 and background.answered > 0


def _content(
    asked: Sequence[Question], fan_outs: Sequence[FanOut], pushed: Mapping[str, Any], background: Background
) -> dict[str, Any]:
    methods = [
        {"method": method, "right": num_right(asked, fan_outs, index), "of": len(asked), "pushed": push}
        for index, (method, push) in enumerate(pushed.items())
    ]
    return {
        "methods": methods,
        "fan_outs": [asdict(fan_out) for fan_out in fan_outs],
        "background": {"answered": background.answered, "failed": background.failed},
    }


def _next_steps(stage: Stage) -> str:
    key = ' -H "authorization: Bearer $MULTIGRAFT_API_KEY"' if stage.options.api_key else ""
    tasks = ", ".join(f'"{task_of(method)}"' for method in LESSONS)
    return f"""\
The server runs at {stage.url}. Try, in another terminal:

curl {stage.url}/v1/predict{key} -H 'content-type: application/json' \\
  -d '{{"inputs": "You charged my card twice!", "tasks": [{tasks}]}}'
multigraft tasks --url {stage.url}
multigraft predict topic-prefix "You charged my card twice!" --url {stage.url}
"""
