"""`multigraft loadtest`: a group of commands that measure a server over HTTP."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from multigraft_loadtest.inside import profile as measure_profile
from multigraft_loadtest.options import (
    comparison_options,
    faults_options,
    loop_options,
    merge_options,
    place_options,
    report_options,
    soak_options,
    storm_options,
    strict_option,
    task_options,
    traffic_options,
)
from multigraft_loadtest.problems import CannotStartError

VENV = click.Path(file_okay=False, resolve_path=True, path_type=Path)


@click.group()
def loadtest() -> None:
    """Measure a server over HTTP: throughput, latencies, fairness, and whether every answer was right.

    Each command starts a server of its own, and ends it, unless it is given a URL. The exit code is 1 when an
    answer was wrong, lost or failed.

    \b
    multigraft loadtest run                              8 random LoRAs on smollm2, 16 clients
    multigraft loadtest run --base minilm --texts snippets --clients 32 --html report.html
    multigraft loadtest run --rate 4 --cv 2 --popularity hot:0.9 --slo ttft=0.5,itl=0.1
    multigraft loadtest compare --quick                  against PEFT, and the base in process
    multigraft loadtest tax                              what each method costs
    multigraft loadtest swap-storm                       right answers while versions come and go
    multigraft loadtest merge                            what merging a hot task gains
    multigraft loadtest many                             more tasks than slots, cold ones, thousands of them
    multigraft loadtest faults                           what breaks when something breaks
    multigraft loadtest soak --minutes 10                whether the server grows
    multigraft loadtest overhead                         what metrics and logs cost
    multigraft loadtest profile --base minilm            where the time of a step goes
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


@loadtest.command()
@click.option("--vllm", type=VENV, help="vLLM's virtual environment (CPU build); else its rows are not measured.")
@click.option("--llama-cpp", type=VENV, help="llama.cpp's, with bin/llama-server and bin/to-gguf; the same.")
@click.option("--rows", metavar="NAMES", help="Only these rows, with commas.  [default: all]")
@strict_option
@comparison_options
def compare(**options: Any) -> None:
    """Start ours and the peers in turn on the same workloads, and print the ratios beside the targets.

    Rounds are interleaved, and while one is measured the others are paused; the table shows medians.
    SERVE_OPTIONS, behind --, go to our own servers.

    \b
    multigraft loadtest compare
    multigraft loadtest compare --vllm ~/venvs/vllm --llama-cpp ~/venvs/llama --json compare.json
    multigraft loadtest compare --rows g-own,g-first,c-base --quick
    """
    from multigraft_loadtest.compare import command
    from multigraft_loadtest.processes import ending_on_signals

    with ending_on_signals():
        report = command.compare(options)
    _finish(report, command.compare_table(report), options["json_file"])
    if options["strict"] and command.is_missed(report):
        raise click.exceptions.Exit(1)


@loadtest.command()
@click.option("--base", default="smollm2", show_default=True, help="A decoder generates, an encoder classifies.")
@comparison_options
def tax(**options: Any) -> None:
    """Measure what adapters cost: 8 tasks of each method, and all mixed, against the base alone.

    \b
    multigraft loadtest tax
    multigraft loadtest tax --base minilm --quick
    """
    from multigraft_loadtest.compare import command
    from multigraft_loadtest.processes import ending_on_signals

    with ending_on_signals():
        report = command.tax(options)
    _finish(report, command.tax_table(report), options["json_file"])


@loadtest.command()
@click.option(
    "--parts", metavar="NAMES", help="Only these of c, g, cold, registered; with commas.  [default: all]"
)
@click.option("--encoder", default="minilm", show_default=True, help="The base of C and of registered tasks.")
@click.option("--decoder", default="smollm2", show_default=True, help="The base of G and of cold adapters.")
@strict_option
@comparison_options
def many(**options: Any) -> None:
    """Measure what many tasks cost: 64 in use over 16 slots, first uses, 2,000 registered.

    The parts c and g ask two servers in turn, one with 16 slots and one with 64, with Zipf's shares.
    SERVE_OPTIONS, behind --, go to the servers.

    \b
    multigraft loadtest many --json many.json
    multigraft loadtest many --parts c,cold --quick
    """
    from multigraft_loadtest.goals import has_missed
    from multigraft_loadtest.many import command
    from multigraft_loadtest.processes import ending_on_signals

    with ending_on_signals():
        report = command.many(options)
    _finish(report, command.many_table(report), options["json_file"])
    if options["strict"] and has_missed(report["rows"]):
        raise click.exceptions.Exit(1)


@loadtest.command()
@click.option("--parts", metavar="NAMES", help="Only these of c, g, scrape; with commas.  [default: all]")
@click.option("--encoder", default="minilm", show_default=True, help="The base of C and of the scrape.")
@click.option("--decoder", default="smollm2", show_default=True, help="The base of G.")
@strict_option
@comparison_options
def overhead(**options: Any) -> None:
    """Measure what watching costs: metrics and a log of every request, against neither; a scrape of 500 tasks.

    The parts c and g ask two servers the same in turn, and tell the median of the pairs' ratios. SERVE_OPTIONS,
    behind --, go to the servers.

    \b
    multigraft loadtest overhead --json overhead.json
    multigraft loadtest overhead --parts scrape
    """
    from multigraft_loadtest import overhead as measuring
    from multigraft_loadtest.goals import has_missed
    from multigraft_loadtest.processes import ending_on_signals

    with ending_on_signals():
        report = measuring.overhead(options)
    _finish(report, measuring.overhead_table(report), options["json_file"])
    if options["strict"] and has_missed(report["rows"]):
        raise click.exceptions.Exit(1)


@loadtest.command()
@merge_options
@comparison_options
def merge(**options: Any) -> None:
    """Measure what merging a hot task gains: never, always and by the policy, over shares and in bursts.

    One server on each base goes from mode to mode, so that all sides have the same process and take turns;
    decoders generate (workload G), encoders classify (C). SERVE_OPTIONS, behind --, go to the servers.

    \b
    multigraft loadtest merge --json merge.json --svg merge.svg
    multigraft loadtest merge --quick --base minilm
    """
    from multigraft_loadtest.goals import has_missed
    from multigraft_loadtest.merge import command
    from multigraft_loadtest.processes import ending_on_signals

    with ending_on_signals():
        report = command.merge(options)
    if options["svg"] is not None:
        _write_file(options["svg"], command.draw(report))
    _finish(report, command.merge_tables(report), options["json_file"])
    if options["strict"] and has_missed(report["rows"]):
        raise click.exceptions.Exit(1)


@loadtest.command("swap-storm")
@storm_options
def swap_storm(**options: Any) -> None:
    """Ask by many clients while versions are uploaded, promoted, rolled back and evicted, and check every answer.

    The adapters are made so that the answer itself tells which version computed it. Each base has a storm in
    turn, two server processes on one registry for a part of it. SERVE_OPTIONS, behind --, go to the servers.

    \b
    multigraft loadtest swap-storm --minutes 5 --tasks 32 --clients 32 --slots 8 --html storm.html
    multigraft loadtest swap-storm --quick
    """
    from multigraft_loadtest.processes import ending_on_signals
    from multigraft_loadtest.storm import command, report, show

    with ending_on_signals():
        told = command.storm(options)
    _print(show.storm_tables(told), options["json_file"])
    write_json(told, options["json_file"])
    if options["html"] is not None:
        _write_file(options["html"], show.render_storm(told))
    raise click.exceptions.Exit(report.exit_code(told, is_strict=options["strict"]))


@loadtest.command()
@faults_options
def faults(**options: Any) -> None:
    """Break things under traffic, one after another: what each does to requests and data, and for how long.

    They are kill, stop, full-disk, corrupt-file, locked-registry, slow-store, stalled-clients, clock-jump (where
    libfaketime is installed), and flood, which is
    four times what the server can do. The exit code is 1 when an answer was wrong, a request or acknowledged data
    was lost, or the server did not recover. SERVE_OPTIONS, behind --, go to the server.

    \b
    multigraft loadtest faults --json faults.json
    multigraft loadtest faults --rows kill,flood --strict
    """
    from multigraft_loadtest.faults import command
    from multigraft_loadtest.processes import ending_on_signals

    with ending_on_signals():
        told = command.faults(options)
    _print(command.faults_tables(told), options["json_file"])
    write_json(told, options["json_file"])
    raise click.exceptions.Exit(command.exit_code(told, is_strict=options["strict"]))


@loadtest.command()
@soak_options
def soak(**options: Any) -> None:
    """Ask for minutes while versions come and go and jobs train, and tell whether the server grows.

    A swap storm through one server, with a worker that trains one job after another. Memory, threads and
    descriptors are sampled each second; after the first half a line is laid through them, and its slope's 95%
    interval must not lie above 0. The exit code is 1 when something grew, or an answer was wrong, lost or failed.
    SERVE_OPTIONS, behind --, go to the server.

    \b
    multigraft loadtest soak --minutes 10 --json soak.json
    """
    from multigraft_loadtest.processes import ending_on_signals
    from multigraft_loadtest.soak import command

    with ending_on_signals():
        told = command.soak(options)
    _print(command.soak_tables(told), options["json_file"])
    write_json(told, options["json_file"])
    raise click.exceptions.Exit(command.exit_code(told))


@loadtest.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def profile(options: tuple[str, ...]) -> None:
    """Where the time of a step goes, in process: linear layers, attention, deltas by method, heads, sampling.

    Starts a process with the engine in it; `--help` tells its options.
    """
    sys.exit(measure_profile(options))


def _finish(report: dict[str, Any], table: Any, json_file: str | None) -> None:
    """Print and write a comparison; exits with 1 when an answer of ours was wrong, lost or failed."""
    _print(table, json_file)
    write_json(report, json_file)
    for wrong in report["wrong"]:
        click.echo(wrong, err=True)
    if report["wrong"]:
        raise click.exceptions.Exit(1)


def _print(table: Any, json_file: str | None) -> None:
    """Show tables, unless JSON is all that is printed."""
    from rich.console import Console

    if json_file != "-":
        Console(highlight=False, markup=False, emoji=False).print(table)


def write(report: dict[str, Any], json_file: str | None, html: Path | None) -> None:
    """The report as tables, as JSON and as a page; JSON on the standard output replaces the tables.

    Raises CannotStartError.
    """
    from rich.console import Console

    from multigraft_loadtest.page import render
    from multigraft_loadtest.show import show_report

    if json_file != "-":
        show_report(Console(highlight=False, markup=False, emoji=False), report)
    write_json(report, json_file)
    if html is not None:
        _write_file(html, render(report))


def write_json(report: dict[str, Any], json_file: str | None) -> None:
    """The report as JSON, if it is asked for; raises CannotStartError."""
    from multigraft_loadtest.figures import rounded

    text = json.dumps(rounded(report), indent=2, ensure_ascii=False)
    if json_file == "-":
        click.echo(text)
    elif json_file is not None:
        _write_file(Path(json_file), text + "\n")


def _write_file(file: Path, content: str) -> None:
    try:
        file.write_text(content, "utf-8")
    except OSError as error:
        raise CannotStartError(f"{file} cannot be written: {error.strerror or error}") from error
