"""What the tables should reach, beside what they did."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, median

from multigraft_training.bench.cells import Goal, Results

DELTAS = ("lora", "bottleneck", "prefix", "ia3")
QUALITY_DATA = ("movies", "tweets", "news")
STOCK_DATA = ("movies",)
STOCK = "lora by PEFT"

OFF_FULL = 0.5
PREFIX_OFF_FULL = 2.0
OFF_STOCK = 0.5
"""Points of accuracy."""

FASTER = 1.3
LESS_LOSS = 0.2
SHARE = 0.04
"""Of the full fine-tune's trainable parameters."""


def quality_goals(results: Results) -> list[Goal]:
    """The targets of the table of methods."""
    goals = [_best_delta(results), _prefix(results), _against_stock(results), _speed(results)]
    return [*goals, *_extracted(results)]


def instruction_goals(results: Results) -> list[Goal]:
    """The target of the table of instructions."""
    text = f"an instruction adapter lowers the loss on held-out answers by at least {LESS_LOSS:.0%}"
    base, own = (results.mean(row, "pirate") for row in ("base", "lora"))
    if base is None or own is None:
        return [Goal(text, "", None)]
    return [Goal(text, f"{1 - own / base:.1%}", 1 - own / base >= LESS_LOSS)]


def _points_below_full(results: Results, row: str) -> float | None:
    full, own = (results.average(name, QUALITY_DATA) for name in ("full", row))
    return None if full is None or own is None else (full - own) * 100


def _is_small(results: Results, row: str) -> bool:
    full, own = (results.mean(name, QUALITY_DATA[0], "trained") for name in ("full", row))
    return full is not None and own is not None and own <= SHARE * full


def _best_delta(results: Results) -> Goal:
    text = f"the best delta is at most {OFF_FULL} points below full, with at most {SHARE:.0%} of its parameters"
    below = {row: _points_below_full(results, row) for row in DELTAS if _is_small(results, row)}
    known = {row: points for row, points in below.items() if points is not None}
    if not known:
        return Goal(text, "", None)
    best = min(known, key=lambda row: known[row])
    return Goal(text, f"{best}: {_told(known[best])}", known[best] <= OFF_FULL)


def _prefix(results: Results) -> Goal:
    text = f"prefix tuning is at most {PREFIX_OFF_FULL} points below full"
    points = _points_below_full(results, "prefix")
    return Goal(text, "", None) if points is None else Goal(text, _told(points), points <= PREFIX_OFF_FULL)


def _against_stock(results: Results) -> Goal:
    text = f"our LoRA is at most {OFF_STOCK} points below PEFT's with the same settings, seed by seed"
    differences = paired(results, STOCK, "lora", STOCK_DATA)
    if not differences:
        return Goal(text, "", None)
    points = mean(differences) * 100
    told = f"{_told(points)} on average over {len(differences)} pairs"
    return Goal(text, told, points <= OFF_STOCK)


def paired(results: Results, one: str, other: str, data: Sequence[str]) -> list[float]:
    """What `one` has more than `other`, seed by seed, over the seeds that both have."""
    return [
        first - second
        for name in data
        for first, second in zip(
            results.values(one, name, "metric"), results.values(other, name, "metric"), strict=False
        )
    ]


def _speed(results: Results) -> Goal:
    text = f"LoRA trains {FASTER} times as many tokens of ragged texts in a CPU second as the Trainer with PEFT"
    ours, stock = (
        [value for name in STOCK_DATA for value in results.values(row, name, "tokens_per_cpu_second")]
        for row in ("lora", STOCK)
    )
    if not ours or not stock:
        return Goal(text, "", None)
    ratio = median(ours) / median(stock)
    return Goal(text, f"{ratio:.2f} times: {median(ours):,.0f} and {median(stock):,.0f}", ratio >= FASTER)


def _extracted(results: Results) -> list[Goal]:
    kept = [results.mean("full", name, "extracted") for name in QUALITY_DATA]
    full, known = results.average("full", QUALITY_DATA), [value for value in kept if value is not None]
    if full is None or len(known) < len(kept):
        return []
    return [Goal("(no target) a LoRA of rank 16 extracted from full", _told((full - mean(known)) * 100), None)]


def _told(points: float) -> str:
    return f"{abs(points):.2f} points {'below' if points > 0 else 'above'}"
