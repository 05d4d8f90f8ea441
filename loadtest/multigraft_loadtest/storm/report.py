"""What a storm says: one dictionary of plain values, which the table, the JSON file and the page show."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from multigraft_loadtest.figures import per_bin, spread, time_edges
from multigraft_loadtest.goals import goal, has_missed
from multigraft_loadtest.records import Record
from multigraft_loadtest.storm.judge import ASKED_FOR, judge
from multigraft_loadtest.storm.ledger import OTHER_PROCESS_SECONDS
from multigraft_loadtest.storm.merging import merges
from multigraft_loadtest.storm.observed import step_percentile
from multigraft_loadtest.storm.operations import Operation
from multigraft_loadtest.storm.phase import Outcome

MAX_PROBLEMS = 10
FULL_MINUTES = 5.0
LEAST_TEXTS, LEAST_MIXED = 50_000, 3_000
"""In a storm of five minutes: texts classified on an encoder, requests answered on a decoder."""

MOST_PAUSE = 3.0
"""A stream's longest pause during a change, in steps of the 99th percentile."""

MOST_GROWTH = 1.05
"""Resident bytes at the end, to those of when it was warm."""


def summarise_phase(outcome: Outcome, minutes: float) -> dict[str, Any]:
    """Every figure of one base; judges the answers first. `minutes` are of the storm on all bases."""
    judge(outcome.answers, outcome.ledger)
    records = [answer.record for answer in outcome.answers]
    right = [record for record in records if record.fate == "right" and record.code != ASKED_FOR]
    fates = Counter(ASKED_FOR if record.code == ASKED_FOR else record.fate for record in records)
    counts = {name: fates[name] for name in ("right", ASKED_FOR, "wrong", "failed", "lost")}
    told = {
        "base": outcome.plan.base,
        "elapsed_s": outcome.elapsed_s,
        "lag_s": outcome.lag_s,
        "requests": {"asked": len(records), **counts},
        "codes": dict(Counter(record.code for record in records).most_common()),
        "mismatched": counts["wrong"],
        "texts": sum(record.texts for record in right),
        "streams": sum(record.request.kind == "generation" for record in right),
        "tokens": sum(record.tokens for record in right),
        "by_second_process": sum(answer.process == 1 for answer in outcome.answers),
        "second_process_s": outcome.second,
        "problems": [record.problem for record in records if record.problem][:MAX_PROBLEMS]
        + outcome.problems[:MAX_PROBLEMS],
        "unexpected": len(outcome.problems),
        "operations": _operations(outcome.operations),
        "pause": _pauses(right, outcome),
        "total_s": spread([record.total_s for record in right]),
        "memory": _memory(outcome),
        "merges": _merges(outcome),
        "time_line": _time_line(right, outcome),
    }
    return told | {"rows": rows(told, minutes)}


def rows(told: Mapping[str, Any], minutes: float) -> list[dict[str, Any]]:
    """The targets of one base with what was reached."""
    share, requests, pause = minutes / FULL_MINUTES, told["requests"], told["pause"]
    found = [
        goal("wrong, lost and failed", sum(requests[name] for name in ("wrong", "lost", "failed")), 0),
        goal("operations answered otherwise than they must be", told["unexpected"], 0),
    ]
    if told["merges"] is not None:
        found.append(goal("adapters merged, by the first process", told["merges"], 1, at_least=True))
    if told["streams"]:
        found.append(
            goal("requests answered, streams among them", requests["right"], LEAST_MIXED * share, at_least=True)
        )
        found.append(goal("a stream's longest pause, to the 99th percentile of steps", pause["ratio"], MOST_PAUSE))
    else:
        found.append(goal("texts classified", told["texts"], LEAST_TEXTS * share, at_least=True))
    found.append(goal("resident bytes at the end, to when it was warm", told["memory"]["ratio"], MOST_GROWTH))
    return found


def is_right(report: Mapping[str, Any]) -> bool:
    """Whether there were answers, every one was right, and so was every operation."""
    phases = report["phases"]
    return bool(phases) and all(
        phase["requests"]["right"] > 0
        and not phase["unexpected"]
        and not any(phase["requests"][name] for name in ("wrong", "failed", "lost"))
        for phase in phases
    )


def is_missed(report: Mapping[str, Any]) -> bool:
    """Whether a target that was measured is missed."""
    return any(has_missed(phase["rows"]) for phase in report["phases"])


def exit_code(report: Mapping[str, Any], *, is_strict: bool) -> int:
    """1 when an answer was wrong, lost or failed, or, if it is strict, when a target is missed."""
    return int(not is_right(report) or (is_strict and is_missed(report)))


def _operations(operations: Sequence[Operation]) -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for operation in operations:
        found[operation.name]["refused" if operation.refused else "done"] += 1
    return {name: {"done": count["done"], "refused": count["refused"]} for name, count in sorted(found.items())}


def _pauses(right: Sequence[Record], outcome: Outcome) -> dict[str, Any]:
    """The longest time between two events of a stream: of all, and of those that overlap with a change."""
    changes = [operation for operation in outcome.operations if not operation.refused]
    gaps = [gap for record in right for gap in pairwise(record.events_s)]
    during = [gap for gap in gaps if _changed(changes, gap, OTHER_PROCESS_SECONDS)]
    begin, end = outcome.begin, outcome.end
    step = step_percentile(begin.steps, end.steps, 99) if begin and end else None
    longest = max(during, key=_length, default=None)
    return {
        "longest_s": max(map(_length, gaps), default=None),
        "longest_during_a_change_s": _length(longest) if longest else None,
        "then": sorted({one.name for one in _changed(outcome.operations, longest, 0.0)}) if longest else [],
        "step_p99_s": step,
        "ratio": _length(longest) / step if longest and step else None,
        "spread_s": spread([_length(gap) for gap in gaps]),
    }


def _changed(operations: Sequence[Operation], gap: tuple[float, float], after_s: float) -> list[Operation]:
    """The operations that were under way in this time, or had ended no longer than so many seconds before."""
    start, end = gap
    return [one for one in operations if one.sent_s <= end and start <= one.done_s + after_s]


def _length(gap: tuple[float, float]) -> float:
    return gap[1] - gap[0]


def _memory(outcome: Outcome) -> dict[str, Any]:
    """Of the first process; its registry, store and metrics grow with what is uploaded, its tiers do not."""
    begin, warm, end = outcome.begin, outcome.warm, outcome.end
    if begin is None or warm is None or end is None:
        return {"ratio": None}
    return {
        "begin_bytes": begin.resident_bytes,
        "warm_bytes": warm.resident_bytes,
        "end_bytes": end.resident_bytes,
        "ratio": end.resident_bytes / warm.resident_bytes if warm.resident_bytes else None,
        "engine": {name: seen.engine.get("bytes") for name, seen in (("warm", warm), ("end", end))},
        "idle_at_the_end": end.idle,
        "adapters": {tier: len(digests) for tier, digests in end.engine["tiers"].items()},
        "since_begin": {name: end.counts[name] - begin.counts[name] for name in end.counts},
    }


def _merges(outcome: Outcome) -> float | None:
    """How many adapters the first process merged; None where servers do not merge."""
    if not merges(outcome.plan.serve_options) or outcome.begin is None or outcome.end is None:
        return None
    return outcome.end.counts["merges"] - outcome.begin.counts["merges"]


def _time_line(right: Sequence[Record], outcome: Outcome) -> dict[str, Any]:
    edges = time_edges(outcome.elapsed_s)
    at = [record.ended_s for record in right]
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for operation in outcome.operations:
        spans[operation.name].append((operation.sent_s, operation.done_s))
    return {
        "edges_s": edges,
        "requests_per_s": per_bin(edges, at, [1.0] * len(right)),
        "texts_per_s": per_bin(edges, at, [record.texts for record in right]),
        "tokens_per_s": per_bin(edges, at, [record.tokens for record in right]),
        "operations": dict(sorted(spans.items())),
    }
