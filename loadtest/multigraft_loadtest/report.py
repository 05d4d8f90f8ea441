"""What a run says: one dictionary of plain values, which the table, the JSON file and the page show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from multigraft_loadtest.figures import histogram, jain, per_bin, percentiles_per_bin, spread, time_edges
from multigraft_loadtest.problems import CannotStartError
from multigraft_loadtest.records import Record, Run

FATES = ("right", "wrong", "failed", "lost")
MAX_PROBLEMS = 10
LIMITS: dict[str, Callable[[Record], float | None]] = {
    "ttft": lambda record: record.first_s,
    "itl": lambda record: record.per_token_s,
    "e2e": lambda record: record.total_s,
}
"""What `--slo` may limit: time to the first token, mean time between tokens, end to end; in seconds."""


def read_limits(text: str) -> dict[str, float]:
    """`ttft=0.5,itl=0.1` in seconds. Raises CannotStartError."""
    limits = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        try:
            limits[name] = float(value)
        except ValueError:
            limits[name] = 0.0
        if name not in LIMITS or not limits[name] > 0:
            raise CannotStartError(
                f"{part!r} is no limit: give seconds of {', '.join(LIMITS)}, as ttft=0.5,itl=0.1"
            )
    return limits


def summarise(run: Run, limits: Mapping[str, float]) -> dict[str, Any]:
    """Every figure of a run. Latencies, from the intended arrival, and throughput are of right answers."""
    right = [record for record in run.records if record.fate == "right"]
    kinds = sorted({record.request.kind for record in run.records})
    return {
        "elapsed_s": run.elapsed_s,
        "requests": _fates(run.records),
        "codes": dict(Counter(record.code for record in run.records).most_common()),
        "mismatched": sum(record.code == "adapter" for record in run.records),
        "problems": [record.problem for record in run.records if record.problem][:MAX_PROBLEMS],
        "lag_s": run.lag_s,
        "throughput": _throughput(right, run.elapsed_s),
        "goodput": _goodput(run, limits),
        "kinds": {kind: _kind([record for record in right if record.request.kind == kind]) for kind in kinds},
        "tasks": _tasks(run),
        "jain": jain([speed for _, speed in _speeds(right)]),
        "time_line": _time_line(right, run.elapsed_s),
    }


def is_clean(report: Mapping[str, Any]) -> bool:
    """Whether there were answers, and every one was right."""
    asked: int = report["requests"]["asked"]
    return asked > 0 and asked == report["requests"]["right"]


def _fates(records: Sequence[Record]) -> dict[str, int]:
    counted: Counter[str] = Counter(record.fate for record in records)
    return {"asked": len(records)} | {fate: counted[fate] for fate in FATES}


def _throughput(right: Sequence[Record], elapsed_s: float) -> dict[str, float]:
    def per_second(count: int) -> float:
        return count / elapsed_s if elapsed_s > 0 else 0.0

    return {
        "requests_per_s": per_second(len(right)),
        "output_tokens_per_s": per_second(sum(record.tokens for record in right)),
        "prompt_tokens_per_s": per_second(sum(record.prompt_tokens for record in right)),
        "texts_per_s": per_second(sum(record.texts for record in right)),
    }


def _goodput(run: Run, limits: Mapping[str, float]) -> dict[str, Any] | None:
    """Right answers within all limits. A limit says nothing of a request that has no such time."""
    if not limits:
        return None
    good = sum(record.fate == "right" and _is_within(record, limits) for record in run.records)
    rate = good / run.elapsed_s if run.elapsed_s > 0 else 0.0
    return {"limits": dict(limits), "requests_per_s": rate, "share": good / max(1, len(run.records))}


def _is_within(record: Record, limits: Mapping[str, float]) -> bool:
    times = ((LIMITS[name](record), limit) for name, limit in limits.items())
    return all(time is None or time <= limit for time, limit in times)


def _kind(right: Sequence[Record]) -> dict[str, Any]:
    """The latencies of one kind of request, with their histograms."""
    values = {
        "total": [record.total_s for record in right],
        "first_token": [record.first_s for record in right if record.first_s is not None],
        "per_token": [record.per_token_s for record in right if record.per_token_s is not None],
        "inter_token": [
            later - earlier
            for record in right
            for earlier, later in zip(record.events_s, record.events_s[1:], strict=False)
        ],
    }
    told = {name: found for name, found in values.items() if found}
    return {
        "requests": len(right),
        "prompt_tokens": sum(record.prompt_tokens for record in right),
        "output_tokens": sum(record.tokens for record in right),
        "texts": sum(record.texts for record in right),
        "latency_s": {name: spread(found) for name, found in told.items()},
        "histograms": {name: histogram(found) for name, found in told.items()},
    }


def _tasks(run: Run) -> dict[str, Any]:
    """Each task's requests, share of all requests, throughput, latencies and speed."""
    by_task: dict[str, list[Record]] = {}
    for record in run.records:
        by_task.setdefault(record.request.label, []).append(record)
    speeds = dict(_speeds([record for record in run.records if record.fate == "right"]))
    told = {}
    for task in sorted(by_task, key=lambda name: (-len(by_task[name]), name)):
        records = by_task[task]
        right = [record for record in records if record.fate == "right"]
        told[task] = {
            "requests": _fates(records),
            "share": len(records) / len(run.records),
            "throughput": _throughput(right, run.elapsed_s),
            "total_s": spread([record.total_s for record in right]),
            "first_token_s": spread([record.first_s for record in right if record.first_s is not None]),
            "speed": speeds.get(task),
        }
    return told


def _speeds(right: Sequence[Record]) -> list[tuple[str, float]]:
    """Each task's tokens and texts per second of its requests' waiting. Jain's index is over these: a task that is
    asked less often is not treated worse, one that waits longer for as much is."""
    work: Counter[str] = Counter()
    waited: dict[str, float] = {}
    for record in right:
        label = record.request.label
        work[label] += record.tokens + record.texts
        waited[label] = waited.get(label, 0.0) + record.total_s
    return [(task, work[task] / seconds) for task, seconds in sorted(waited.items()) if seconds > 0]


def _time_line(right: Sequence[Record], elapsed_s: float) -> dict[str, Any]:
    """The run in bins of time: answers, tokens and texts per second, and the latency of what ended in each."""
    edges = time_edges(elapsed_s)
    ended = [record.ended_s for record in right]
    tokens = [(at, record.tokens / len(record.events_s)) for record in right for at in record.events_s]
    return {
        "edges_s": edges,
        "requests_per_s": per_bin(edges, ended, [1.0] * len(ended)),
        "output_tokens_per_s": per_bin(edges, [at for at, _ in tokens], [weight for _, weight in tokens]),
        "texts_per_s": per_bin(edges, ended, [float(record.texts) for record in right]),
        "total_s": percentiles_per_bin(edges, ended, [record.total_s for record in right]),
    }
