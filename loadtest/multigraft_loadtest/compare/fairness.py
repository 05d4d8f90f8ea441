"""Fairness under load: what one hot task costs the others, against the same load spread evenly."""

from __future__ import annotations

from multigraft_loadtest.client import Client
from multigraft_loadtest.compare.results import Results
from multigraft_loadtest.compare.sides import Side, Sides
from multigraft_loadtest.compare.workloads import HOT, Sizes, open_loop
from multigraft_loadtest.figures import percentile
from multigraft_loadtest.report import is_clean, summarise
from multigraft_loadtest.workload import Traffic


def measure_fairness(
    name: str, side: Side, sides: Sides, traffic: Traffic, capacity_of: str, sizes: Sizes, results: Results
) -> None:
    """The ratio, in rounds that take turns: p95 end to end of all tasks but the first, when it has 90% of an open
    loop at 70% of the capacity, over the same when all have equal shares."""
    capacity = results.median(capacity_of, "requests_per_s")
    if capacity is None:
        results.notes[name] = f"the capacity ({capacity_of}) was not measured"
        return
    for number in range(sizes.rounds):
        p95 = {}
        for popularity in ("uniform", HOT):
            workload = open_loop(traffic, capacity, popularity, sizes.open_seconds, 7000 + number)
            with sides.turn(side.child):
                run = Client(side.url, side.target).run(workload)
            report = summarise(run, {})
            if not is_clean(report):
                results.wrong.append(f"{name}, {popularity}: {report['codes']} {report['problems'][:1]}")
            hot = traffic.tasks[0]
            others = [
                record.total_s for record in run.records if record.request.task != hot and record.fate == "right"
            ]
            if others:
                p95[popularity] = percentile(others, 95)
                results.say(f"  {name}, {popularity}: p95 of {len(others)} requests {p95[popularity]:.2f} s")
        if len(p95) == 2:
            results.add(name, ratio=p95[HOT] / p95["uniform"], hot_p95_s=p95[HOT], even_p95_s=p95["uniform"])
    even, hot_p95 = results.median(name, "even_p95_s"), results.median(name, "hot_p95_s")
    if even is not None and hot_p95 is not None:
        results.notes[name] = f"{hot_p95:.2f} s hot, {even:.2f} s even, at {0.7 * capacity:.2f} requests/s"
