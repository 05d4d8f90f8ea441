"""`multigraft loadtest`: a group of commands that measure a server over HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from multigraft_loadtest.options import (
    loop_options,
    place_options,
    report_options,
    task_options,
    traffic_options,
)
from multigraft_loadtest.problems import CannotStartError


@click.group()
def loadtest() -> None:
    """Measure a server over HTTP: throughput, latencies, fairness, and whether every answer was right.

    Each command starts a server of its own, and ends it, unless it is given a URL. The exit code is 1 when an
    answer was wrong, lost or failed.

    \b
    multigraft loadtest run                              8 random LoRAs on smollm2, 16 clients
    multigraft loadtest run --base minilm --texts snippets --clients 32 --html report.html
    multigraft loadtest run --rate 4 --cv 2 --popularity hot:0.9 --slo ttft=0.5,itl=0.1
    """


@loadtest.command()
@place_options
@task_options
@traffic_options
@loop_options
@report_options
@click.argument("serve_options", nargs=-1, type=click.UNPROCESSED)
def run(**options: Any) -> None:
    """Send a workload, and report what became of it.

    SERVE_OPTIONS, behind --, go to the server that is started: `-- --slots 32`.

    A closed loop has so many clients, each with one request under way. An open loop sends at its own times, and
    counts a latency from the time at which a request was meant to be sent.

    \b
    multigraft loadtest run --base minilm --adapters 32 --texts snippets --requests 6250
    multigraft loadtest run --url http://127.0.0.1:8100 --popularity zipf:1.1 --rate 5 --seconds 60
    multigraft loadtest run --target vllm --url http://127.0.0.1:8000 --base my/model --task l0 --task l1
    """
    from multigraft_loadtest.processes import ending_on_signals
    from multigraft_loadtest.report import is_clean
    from multigraft_loadtest.run import report_of

    with ending_on_signals():
        report = report_of(options)
    write(report, options["json_file"], options["html"])
    if not is_clean(report):
        raise click.exceptions.Exit(1)


def write(report: dict[str, Any], json_file: str | None, html: Path | None) -> None:
    """The report as tables, as JSON and as a page; JSON on the standard output replaces the tables.

    Raises CannotStartError.
    """
    from rich.console import Console

    from multigraft_loadtest.figures import rounded
    from multigraft_loadtest.page import render
    from multigraft_loadtest.show import show_report

    text = json.dumps(rounded(report), indent=2, ensure_ascii=False)
    if json_file == "-":
        click.echo(text)
    else:
        show_report(Console(highlight=False, markup=False, emoji=False), report)
    for file, content in ((json_file, text + "\n"), (html, None)):
        if file is None or file == "-":
            continue
        try:
            Path(file).write_text(render(report) if content is None else content, "utf-8")
        except OSError as error:
            raise CannotStartError(f"{file} cannot be written: {error.strerror or error}") from error
