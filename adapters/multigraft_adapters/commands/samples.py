"""Compares a server's answer with the one that the trainer stored for the same input.

How far two right answers may differ depends on the task type, for the trainer and the server may compute in
different precisions:

- `text-classification`, `image-classification`: the largest difference of a label's score, as a share of it
  where it is a number above 1. The best label must be the same, unless the two are closer to each other than the
  tolerance.
- `token-classification`: the same entities at the same places; the largest difference of their scores.
- `question-answering`: the same passage; the difference of its scores.
- `feature-extraction`: one minus the cosine, of the worst vector.
- `text-generation`: the share of words after the first one that differs. Rounding may turn a greedy text at
  any word, from where it goes its own way; so only a text whose very first word differs disagrees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from multigraft_adapters.manifest import CLASSIFICATIONS

DEFAULT_TOLERANCE = 0.02


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whether an answer agrees with the stored one. `difference` is 0 for the same and 1 for nothing alike;
    None when the answers cannot be compared. `note` is a short remark for a person, empty for none.
    """

    agrees: bool
    difference: float | None
    note: str = ""


def compare(task_type: str, stored: Any, served: Any, tolerance: float = DEFAULT_TOLERANCE) -> Comparison:
    """Compares two outputs of one task type; an output of another shape does not agree."""
    try:
        if task_type in CLASSIFICATIONS:
            return _compare_scores(_rows(stored), _rows(served), tolerance)
        if task_type == "feature-extraction":
            return _compare_vectors(_rows(stored), _rows(served), tolerance)
        if task_type == "token-classification":
            return _compare_entities(stored, served, tolerance)
        if task_type == "question-answering":
            return _compare_entities([stored], [served], tolerance)
        return _compare_texts(_generated(stored), _generated(served))
    except (TypeError, KeyError, ValueError, AttributeError):
        return Comparison(False, None, "the server's answer has another shape than the stored one")


def _rows(output: Any) -> list[Any]:
    """The answers of an output: that of one input may come bare or as a list of one."""
    return output if output and isinstance(output[0], list) else [output]


def _compare_scores(stored: list[Any], served: list[Any], tolerance: float) -> Comparison:
    worst = Comparison(True, 0.0)
    for expected, answer in zip(stored, served, strict=True):
        worst = _worse(worst, _compare_row_scores(_scores(expected), _scores(answer), tolerance))
    return worst


def _compare_row_scores(stored: dict[str, float], served: dict[str, float], tolerance: float) -> Comparison:
    difference = max(abs(score - served[label]) / max(1.0, abs(score)) for label, score in stored.items())
    expected, answered = max(stored, key=stored.__getitem__), max(served, key=served.__getitem__)
    is_tie = served[answered] - served[expected] <= tolerance
    note = "" if expected == answered else f"label {answered!r}, stored {expected!r}"
    return Comparison(difference <= tolerance and is_tie, difference, note)


def _scores(entries: list[dict[str, Any]]) -> dict[str, float]:
    return {entry["label"]: float(entry["score"]) for entry in entries}


def _compare_entities(stored: list[dict[str, Any]], served: list[dict[str, Any]], tolerance: float) -> Comparison:
    expected, answered = _by_place(stored), _by_place(served)
    if expected.keys() != answered.keys():
        both = expected.keys() & answered.keys()
        return Comparison(False, 1.0, f"{len(both)} of {len(expected)} passages are the same, of {len(answered)}")
    difference = max((abs(score - answered[place]) for place, score in expected.items()), default=0.0)
    return Comparison(difference <= tolerance, difference)


def _by_place(entries: list[dict[str, Any]]) -> dict[tuple[Any, ...], float]:
    """The scores of passages by what they are and where."""
    names = ("entity_group", "entity", "answer", "start", "end")
    return {tuple(entry.get(name) for name in names): float(entry["score"]) for entry in entries}


def _compare_vectors(stored: list[Any], served: list[Any], tolerance: float) -> Comparison:
    worst = Comparison(True, 0.0)
    for expected, answer in zip(stored, served, strict=True):
        difference = 1.0 - _cosine(expected, answer)
        worst = _worse(worst, Comparison(difference <= tolerance, difference))
    return worst


def _cosine(left: list[float], right: list[float]) -> float:
    product = sum(a * b for a, b in zip(left, right, strict=True))
    norms = math.hypot(*left) * math.hypot(*right)
    if norms == 0.0:
        raise ValueError("a vector of zeros has no direction")
    return product / norms


def _generated(output: Any) -> list[str]:
    entries = output if isinstance(output, list) else [output]
    return [str(entry["generated_text"]) for entry in entries]


def _compare_texts(stored: list[str], served: list[str]) -> Comparison:
    worst = Comparison(True, 0.0)
    for expected, answer in zip(stored, served, strict=True):
        worst = _worse(worst, _compare_words(expected.split(), answer.split()))
    return worst


def _compare_words(stored: list[str], served: list[str]) -> Comparison:
    longest = max(len(stored), len(served))
    same = 0
    while same < min(len(stored), len(served)) and stored[same] == served[same]:
        same += 1
    if same == longest:
        return Comparison(True, 0.0)
    return Comparison(same > 0, 1.0 - same / longest, f"the first {same} of {longest} words agree")


def _worse(left: Comparison, right: Comparison) -> Comparison:
    rank = (not right.agrees, right.difference or 0.0) > (not left.agrees, left.difference or 0.0)
    return right if rank else left
