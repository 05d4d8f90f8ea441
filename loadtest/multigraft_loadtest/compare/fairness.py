"""Fairness under load: what one hot task costs the others, against the same load spread evenly."""

from __future__ import annotations

from multigraft_loadtest.client import Client
from multigraft_loadtest.compare.results import Results
from multigraft_loadtest.compare.sides import Side, Sides
from multigraft_loadtest.compare.workloads import HOT, LOAD, Sizes, open_loop
from multigraft_loadtest.figures import percentile
from multigraft_loadtest.report import is_clean, summarise
from multigraft_loadtest.workload import Traffic, Workload

EVEN = "uniform"
SEGMENT_SECONDS = 15.0
"""How long one load lasts before the other has its turn: a machine that slows down slows both."""


def measure_fairness(
    name: str, side: Side, sides: Sides, traffic: Traffic, capacity_of: str, sizes: Sizes, results: Results
) -> None:
    """The ratio: p95 end to end of all tasks but the first, when that has 90% of an open loop at 70% of the
    capacity, over the same when all have equal shares.

    The two loads take turns, with the same arrivals. The percentiles are of all turns' requests together: the
    others of a hot task are a tenth of the load, too few in one turn.
    """
    capacity = results.median(capacity_of, "requests_per_s")
    if capacity is None:
        results.notes[name] = f"the capacity ({capacity_of}) was not measured"
        return
    others: dict[str, list[float]] = {EVEN: [], HOT: []}
    turns = max(1, round(sizes.rounds * sizes.open_seconds / SEGMENT_SECONDS))
    for number in range(turns):
        for popularity, latencies in others.items():
            workload = open_loop(traffic, capacity, popularity, SEGMENT_SECONDS, 7000 + number)
            latencies += _others(name, side, sides, workload, results)
        counts = ", ".join(f"{len(latencies)} {popularity}" for popularity, latencies in others.items())
        results.say(f"  {name}, turn {number + 1} of {turns}: so far others' requests: {counts}")
    if all(others.values()):
        even, hot = (percentile(others[popularity], 95) for popularity in (EVEN, HOT))
        results.add(name, ratio=hot / even, hot_p95_s=hot, even_p95_s=even)
        results.notes[name] = (
            f"{hot:.2f} s of {len(others[HOT])} hot, {even:.2f} s of {len(others[EVEN])} even, "
            f"at {LOAD * capacity:.2f} requests/s"
        )


def _others(name: str, side: Side, sides: Sides, workload: Workload, results: Results) -> list[float]:
    """The seconds that the right answers of all tasks but the first took."""
    with sides.turn(side.child):
        run = Client(side.url, side.target).run(workload)
    report = summarise(run, {})
    traffic = workload.traffic[0][0]
    if not is_clean(report):
        results.wrong.append(f"{name}, {traffic.popularity}: {report['codes']} {report['problems'][:1]}")
    hot = traffic.tasks[0]
    return [record.total_s for record in run.records if record.request.task != hot and record.fate == "right"]
