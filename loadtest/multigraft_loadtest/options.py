"""The options of the commands, in the groups that they share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from multigraft_loadtest import popularity
from multigraft_loadtest.random_adapters import METHODS
from multigraft_loadtest.targets import NAMES

SNIPPETS = "snippets"
"""What `--texts` calls the movie-review snippets."""

F = TypeVar("F", bound=Callable[..., Any])


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, in their order."""

    def add(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return add


data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("multigraft-data"),
    show_default=True,
    help="Where unpacked bases and fetched texts are kept.",
)
json_option = click.option(
    "--json", "json_file", metavar="FILE", help="Write the report as JSON; - is the standard output."
)

place_options = _options(
    click.option("--url", envvar="MULTIGRAFT_URL", show_envvar=True, help="Drive this server; else start one."),
    click.option("--api-key", envvar="MULTIGRAFT_API_KEY", show_envvar=True, help="The server's key."),
    click.option(
        "--base", default="smollm2", show_default=True, help="The base; for another target, its model's name."
    ),
    data_dir_option,
    click.option(
        "--target", type=click.Choice(NAMES), default="multigraft", show_default=True, help="What it is."
    ),
    click.option(
        "--model", "template", default="{task}", show_default=True, help="A task's name at another target."
    ),
    click.option("--timeout", default=600.0, show_default=True, help="Seconds after which an answer is lost."),
)
task_options = _options(
    click.option("--task", "named", multiple=True, help="Ask this task; may be repeated.  [default: all]"),
    click.option(
        "--adapters", type=click.IntRange(0), help="Upload so many random ones first.  [default: 8, with --url 0]"
    ),
    click.option(
        "--method", "methods", multiple=True, type=click.Choice(list(METHODS)), help="Of these adapters; in turn."
    ),
    click.option("--rank", type=click.IntRange(1), default=16, show_default=True, help="Of random LoRAs."),
    click.option("--bare", "is_bare", is_flag=True, help="Ask the bare base alone."),
    click.option(
        "--popularity", default="uniform", show_default=True, help=f"Shares of the tasks: {popularity.HELP}."
    ),
)
traffic_options = _options(
    click.option(
        "--kind",
        type=click.Choice(["generation", "classification", "mixed"]),
        help="What is asked.  [default: what the base is for]",
    ),
    click.option(
        "--mix", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Classified, of mixed."
    ),
    click.option("--api", type=click.Choice(["completions", "chat"]), default="completions", show_default=True),
    click.option("--prompts", type=click.Path(path_type=Path), help="JSONL of prompts to generate from."),
    click.option("--words", default="75", show_default=True, help="Of a random prompt: a number or LEAST:MOST."),
    click.option("--tokens", default="64", show_default=True, help="Of an answer: a number or LEAST:MOST."),
    click.option("--texts", help=f"JSONL of texts to classify, or `{SNIPPETS}`.  [default: 25 random words]"),
    click.option("--texts-per-request", type=click.IntRange(1), default=8, show_default=True),
)
loop_options = _options(
    click.option("--clients", type=click.IntRange(1), help="Closed loop: so many clients.  [default: 16]"),
    click.option("--rate", type=click.FloatRange(0, min_open=True), help="Open loop: requests per second."),
    click.option(
        "--cv", type=click.FloatRange(0), default=1.0, show_default=True, help="Burstiness; 1 is Poisson."
    ),
    click.option("--trace", type=click.Path(path_type=Path), help="Open loop: JSONL of seconds since the start."),
    click.option("--requests", type=click.IntRange(1), help="End after so many.  [default: 200]"),
    click.option("--seconds", type=click.FloatRange(0, min_open=True), help="End after this time."),
    click.option("--warm-up", type=click.IntRange(0), default=1, show_default=True, help="Requests to each task."),
    click.option("--seed", default=0, show_default=True),
)
html_option = click.option(
    "--html", type=click.Path(dir_okay=False, path_type=Path), help="Write the report as a page."
)
soak_options = _options(
    click.option("--minutes", type=click.FloatRange(0.05), default=10.0, show_default=True),
    click.option("--base", default="minilm", show_default=True),
    click.option("--seed", default=0, show_default=True),
    data_dir_option,
    json_option,
    click.argument("serve_options", nargs=-1, type=click.UNPROCESSED),
)
strict_option = click.option("--strict", is_flag=True, help="Exit with 1 when a target is missed.")
serve_argument = click.argument("serve_options", nargs=-1, type=click.UNPROCESSED)
faults_options = _options(
    click.option("--base", default="minilm", show_default=True, help="An encoder."),
    click.option("--rows", metavar="NAMES", help="Only these faults, with commas.  [default: all]"),
    click.option("--quick", is_flag=True, help="A short flood: a first look, no measurement."),
    strict_option,
    data_dir_option,
    json_option,
    serve_argument,
)
report_options = _options(
    click.option(
        "--slo", default="", metavar="LIMITS", help="Limits of goodput, as ttft=0.5,itl=0.1,e2e=3 (seconds)."
    ),
    json_option,
    html_option,
)
comparison_options = _options(
    click.option("--quick", is_flag=True, help="One short round: a first look, no measurement."),
    click.option(
        "--rounds",
        type=click.IntRange(1),
        help="Of each measurement.  [default: 3, with --quick 1; of overhead 120 and 2]",
    ),
    click.option("--seed", default=0, show_default=True),
    data_dir_option,
    json_option,
    serve_argument,
)
merge_options = _options(
    click.option(
        "--base", "bases", multiple=True, help="A base; may be repeated.  [default: smollm2, then minilm]"
    ),
    click.option(
        "--switches", type=click.IntRange(0), help="Of the check of answers.  [default: 30, with --quick 10]"
    ),
    click.option(
        "--svg", type=click.Path(dir_okay=False, path_type=Path), help="Write the plot of gain over share."
    ),
    strict_option,
)
storm_options = _options(
    click.option("--minutes", type=click.FloatRange(0.05), default=5.0, show_default=True, help="On all bases."),
    click.option("--tasks", type=click.IntRange(2, 99), default=32, show_default=True),
    click.option("--clients", type=click.IntRange(1), default=32, show_default=True),
    click.option("--slots", type=click.IntRange(1), default=8, show_default=True, help="Of each server."),
    click.option(
        "--base", "bases", multiple=True, help="A base; may be repeated.  [default: minilm, then smollm2]"
    ),
    click.option(
        "--quick", is_flag=True, help="Some seconds with 12 tasks, 12 clients and 4 slots: a first look."
    ),
    click.option("--seed", default=0, show_default=True),
    strict_option,
    data_dir_option,
    json_option,
    html_option,
    serve_argument,
)
