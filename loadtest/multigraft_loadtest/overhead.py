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
from pathlib import Path
from typing import Any

import httpx
from rich.table import Table

from multigraft_loadtest.compare.sides import Sides
from multigraft_loadtest.goals import COLUMNS, cells, goal
from multigraft_loadtest.machine import describe_machine
from multigraft_loadtest.many.measured import Measured, Sizes
from multigraft_loadtest.many.registered import upload_small
from multigraft_loadtest.many.slots import Letter, adapters_of, rate, workload_of
from multigraft_loadtest.problems import CannotStartError, LoadTestError
from multigraft_loadtest.server import Server, serving
from multigraft_loadtest.show import titled
from multigraft_loadtest.snippets import load_snippets

PARTS = ("c", "g", "scrape")
WATCHED = ("--metrics", "--log-format", "json")
UNWATCHED = ("--no-metrics", "--log-format", "text")
LEAST_RATIO, MOST_SCRAPE_MS = 0.98, 100.0
TASKS, SCRAPED_TASKS, SCRAPES = 8, 500, 21


def overhead(options: Mapping[str, Any]) -> dict[str, Any]:
    """Measure the parts that are asked for; the report. Raises LoadTestError."""
    asked = options["parts"].split(",") if options["parts"] else PARTS
    if unknown := [name for name in asked if name not in PARTS]:
        raise CannotStartError(f"there is no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    rounds, is_quick = options["rounds"] or (2 if options["quick"] else 10), options["quick"]
    sizes = Sizes(rounds, TASKS, TASKS, 64 if is_quick else 400, 16 if is_quick else 48, 0, SCRAPED_TASKS)
    measured = Measured(options["data_dir"], options["serve_options"], options["seed"])
    started = datetime.now(UTC)
    if "c" in asked:
        texts = load_snippets(measured.data_dir) if options["encoder"] == "minilm" else ()
        _compare("C", options["encoder"], texts, sizes, measured)
    if "g" in asked:
        _compare("G", options["decoder"], (), sizes, measured)
    if "scrape" in asked:
        _scrape(options["encoder"], 20 if is_quick else SCRAPED_TASKS, measured)
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
    table = titled(f"what watching costs, medians of {report['rounds']} pairs of rounds", *COLUMNS)
    for row in report["rows"]:
        table.add_row(*cells(row))
    return table


def _compare(letter: Letter, base: str, texts: Sequence[str], sizes: Sizes, measured: Measured) -> None:
    """Two servers in turn, on the same requests: the ratio of each pair of rounds, whichever of them was first."""
    adapters = adapters_of(letter, base, sizes.tasks)
    ratios: list[float] = []
    costs: list[float] = []
    with ExitStack() as stack:
        sides, servers = Sides(), {}
        for name, options in (("watched", WATCHED), ("unwatched", UNWATCHED)):
            measured.say(f"{letter}: starting multigraft on {base}, {name} ...")
            given = [*measured.serve_options, *options]
            server = stack.enter_context(serving(base, measured.data_dir, given, name))
            for adapter in adapters:
                server.upload(adapter.name, adapter.files, adapter.declaration)
            assert server.child is not None
            sides.add(server.child)
            servers[name] = server
        for number in range(sizes.rounds):
            seed, names = measured.seed + number, [adapter.name for adapter in adapters]
            workload = workload_of(letter, names, texts, sizes, seed, number == 0)
            rates: dict[str, float] = {}
            cpu: dict[str, float] = {}
            for name, server in list(servers.items())[:: 1 if number % 2 == 0 else -1]:
                assert server.child is not None
                with sides.turn(server.child):
                    before = server.child.cpu_seconds()
                    run = measured.run(f"{letter}, {name}", server, server.target(), workload)
                    rates[name] = rate(run, letter)
                    cpu[name] = server.child.cpu_seconds() - before  # on as many texts or tokens as the other's
            if not all(rates.values()):
                raise LoadTestError(f"{letter}: no answer was right: {measured.wrong}")
            ratios.append(rates["watched"] / rates["unwatched"])
            costs.append(cpu["watched"] / cpu["unwatched"])
            measured.say(
                f"  pair {number + 1}: {rates['unwatched']:.1f}/s, watched {ratios[-1]:.4f} of it by "
                f"{costs[-1]:.4f} of the processor's time"
            )
    what = f"{letter}: throughput with metrics and JSON logs to that without"
    measured.rows += [
        goal(what, statistics.median(ratios), LEAST_RATIO, at_least=True),
        goal(f"{letter}: the lowest and", min(ratios)),
        goal(f"{letter}: the highest of the pairs", max(ratios)),
        goal(f"{letter}: processor's time of a text or token, watched to not", statistics.median(costs)),
    ]


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
