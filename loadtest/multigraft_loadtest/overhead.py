"""What watching costs: throughput with metrics and a log of requests, against neither; a scrape of many tasks."""

from __future__ import annotations

import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import permutations
from pathlib import Path
from typing import Any

import httpx
from rich.progress import track
from rich.table import Table

from multigraft_loadtest.compare.sides import Sides
from multigraft_loadtest.figures import median_interval
from multigraft_loadtest.goals import COLUMNS, cells, goal
from multigraft_loadtest.machine import describe_machine
from multigraft_loadtest.many.measured import Measured, Sizes
from multigraft_loadtest.many.registered import upload_small
from multigraft_loadtest.many.slots import Letter, adapters_of, rate, workload_of
from multigraft_loadtest.problems import CannotStartError, LoadTestError
from multigraft_loadtest.server import Server, serving
from multigraft_loadtest.show import titled
from multigraft_loadtest.snippets import load_snippets
from multigraft_loadtest.workload import Workload

PARTS = ("c", "g", "scrape")
WATCHED, UNWATCHED, TWIN = "watched", "unwatched", "unwatched twin"
SERVERS = {
    WATCHED: ("--metrics", "--log-format", "json"),
    UNWATCHED: ("--no-metrics", "--log-format", "text"),
    TWIN: ("--no-metrics", "--log-format", "text"),
}
LEAST_RATIO, MOST_SCRAPE_MS = 0.98, 100.0
TASKS, SCRAPED_TASKS, SCRAPES = 8, 500, 21
ROUNDS, QUICK_ROUNDS = 120, 2
C_REQUESTS, G_REQUESTS = 96, 16
"""Of a turn: about a second's."""


def overhead(options: Mapping[str, Any]) -> dict[str, Any]:
    """Measure the parts that are asked for; the report. Raises LoadTestError."""
    asked = options["parts"].split(",") if options["parts"] else PARTS
    if unknown := [name for name in asked if name not in PARTS]:
        raise CannotStartError(f"there is no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    rounds = options["rounds"] or (QUICK_ROUNDS if options["quick"] else ROUNDS)
    sizes = Sizes(rounds, TASKS, TASKS, C_REQUESTS, G_REQUESTS, 0, SCRAPED_TASKS)
    measured = Measured(options["data_dir"], options["serve_options"], options["seed"])
    started = datetime.now(UTC)
    if "c" in asked:
        texts = load_snippets(measured.data_dir) if options["encoder"] == "minilm" else ()
        _compare("C", options["encoder"], texts, sizes, measured)
    if "g" in asked:
        _compare("G", options["decoder"], (), sizes, measured)
    if "scrape" in asked:
        _scrape(options["encoder"], 20 if options["quick"] else SCRAPED_TASKS, measured)
    return {
        "title": "multigraft loadtest overhead",
        "command": shlex.join(["multigraft", *sys.argv[1:]]),
        "started": started.isoformat(timespec="seconds"),
        "rounds": rounds,
        "machine": describe_machine(),
        "rows": measured.rows,
        "wrong": measured.wrong,
    }


def overhead_table(report: Mapping[str, Any]) -> Table:
    """The goals, and what was reached."""
    table = titled(f"what watching costs, medians of {report['rounds']} rounds", *COLUMNS)
    for row in report["rows"]:
        table.add_row(*cells(row))
    return table


def _compare(letter: Letter, base: str, texts: Sequence[str], sizes: Sizes, measured: Measured) -> None:
    """Three servers in turn, on the same requests: a watched one, one that is not, and the latter's twin.

    Turns are short, so that what is compared happens within seconds: the machine's own speed drifts. What the twin
    is off by is what this measurement cannot tell apart.
    """
    adapters = adapters_of(letter, base, sizes.tasks)
    rates: dict[str, list[float]] = {name: [] for name in SERVERS}
    costs: dict[str, list[float]] = {name: [] for name in SERVERS}
    with ExitStack() as stack:
        sides, servers = Sides(), {}
        for name, options in SERVERS.items():
            measured.say(f"{letter}: starting multigraft on {base}, {name} ...")
            given = [*measured.serve_options, *options]
            server = stack.enter_context(serving(base, measured.data_dir, given, name.replace(" ", "-")))
            for adapter in adapters:
                server.upload(adapter.name, adapter.files, adapter.declaration)
            assert server.child is not None
            sides.add(server.child)
            servers[name] = server
        for number in track(range(sizes.rounds), f"{letter}: rounds", console=measured.console):
            names = [adapter.name for adapter in adapters]
            workload = workload_of(letter, names, texts, sizes, measured.seed + number, number == 0)
            for name in order_of(number):
                rate, cost = _turn(letter, name, servers[name], sides, workload, measured)
                rates[name].append(rate)
                costs[name].append(cost)
    if not all(map(all, rates.values())):
        raise LoadTestError(f"{letter}: no answer was right: {measured.wrong}")
    measured.rows += compared(letter, rates, costs)


def order_of(number: int) -> list[str]:
    """Who comes first, second and third in a round: each as often as the others, after each as often."""
    return list(list(permutations(SERVERS))[number % 6])


def compared(
    letter: Letter, rates: Mapping[str, Sequence[float]], costs: Mapping[str, Sequence[float]]
) -> list[dict[str, Any]]:
    """The rows of a report: medians of the rounds' ratios, with the interval that holds the median by 95%."""
    watched = _ratios(rates, WATCHED, [UNWATCHED, TWIN])
    cost = _ratios(costs, WATCHED, [UNWATCHED, TWIN])
    twin = _ratios(rates, TWIN, [UNWATCHED])
    low, high = median_interval(watched)
    return [
        goal(
            f"{letter}: throughput with metrics and JSON logs to that without",
            statistics.median(watched),
            LEAST_RATIO,
            at_least=True,
        ),
        goal(f"{letter}: its 95% interval, from", low),
        goal(f"{letter}: its 95% interval, to", high),
        goal(f"{letter}: throughput of two servers without, the one to the other", statistics.median(twin)),
        goal(f"{letter}: processor's time of a text or token, with to without", statistics.median(cost)),
    ]


def _ratios(figures: Mapping[str, Sequence[float]], name: str, others: Sequence[str]) -> list[float]:
    """Round by round, to the mean of the others."""
    means = (statistics.fmean(values) for values in zip(*(figures[other] for other in others), strict=True))
    return [one / mean for one, mean in zip(figures[name], means, strict=True)]


def _turn(
    letter: Letter, name: str, server: Server, sides: Sides, workload: Workload, measured: Measured
) -> tuple[float, float]:
    """A server's texts or tokens a second, and the processor's seconds that it spent on them all."""
    assert server.child is not None  # `serving` started it
    with sides.turn(server.child):
        before = server.child.cpu_seconds()
        run = measured.run(f"{letter}, {name}", server, server.target(), workload)
        return rate(run, letter), server.child.cpu_seconds() - before


def _scrape(base: str, tasks: int, measured: Measured) -> None:
    """`GET /metrics` of servers whose tasks have all been asked: with the usual cap of labels, or one for each."""
    for cap, target in ((None, MOST_SCRAPE_MS), (tasks, None)):
        labels = "the usual cap of labels" if cap is None else "a label for each"
        measured.say(f"scrape: {tasks} tasks, {labels} ...")
        with tempfile.TemporaryDirectory(prefix="multigraft-scrape-") as folder:
            config = Path(folder, "serve.toml")
            config.write_text("" if cap is None else f"max_task_labels = {cap}\n")
            options = [*measured.serve_options, "--metrics", "--config", str(config)]
            with serving(base, measured.data_dir, options, "scraped") as server:
                upload_small(base, server, tasks)
                seconds, size = _scrapes(server, tasks)
        measured.rows += [
            goal(f"scrape with {tasks} tasks, {labels}: median, ms", 1000 * seconds, target),
            goal(f"its size with {labels}, KiB", size / 1024),
        ]


def _scrapes(server: Server, tasks: int) -> tuple[float, int]:
    """The median of the times of `GET /metrics` in seconds after each task was asked once, and its bytes."""
    times, size = [], 0
    with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as http:
        for number in range(tasks):
            http.post(f"/v1/tasks/task-{number:05}/predict", json={"inputs": "a"}).raise_for_status()
        for _ in range(SCRAPES):
            began = time.perf_counter()
            size = len(http.get("/metrics").raise_for_status().content)
            times.append(time.perf_counter() - began)
    return statistics.median(times), size
