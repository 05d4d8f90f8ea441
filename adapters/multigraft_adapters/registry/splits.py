"""Where an alias points: at one version, or split over several by weight; and which of them a caller gets."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping

from multigraft_adapters.errors import InvalidRequestError

MAX_SPLIT = 16
"""How many versions an alias may be split over."""

Weights = tuple[tuple[int, float], ...]
"""Versions with their weights, by number; the weights add up to 1."""

_TOLERANCE = 1e-6


def weights_of(target: int | Mapping[int, float]) -> Weights:
    """The weights that a version, or a split, stands for.

    Raises InvalidRequestError (param `weights`) unless a split's weights are above 0 and add up to 1.
    """
    if isinstance(target, int):
        return ((target, 1.0),)
    if not 1 <= len(target) <= MAX_SPLIT:
        raise _invalid(f"a split has 1 to {MAX_SPLIT} versions, not {len(target)}")
    for number, weight in target.items():
        if not (math.isfinite(weight) and weight > 0):
            raise _invalid(f"the weight of version {number} must be above 0, not {weight}")
    total = math.fsum(target.values())
    if abs(total - 1) > _TOLERANCE:
        raise _invalid(f"the weights must add up to 1, not {total:g}")
    return tuple(sorted(target.items()))


def stored(weights: Weights) -> dict[str, float] | None:
    """The weights as the database has them: None for one version alone."""
    return {str(number): weight for number, weight in weights} if len(weights) > 1 else None


def restored(version: int, weights: Mapping[str, float] | None) -> Weights:
    """The weights that `stored` wrote beside the heaviest version."""
    if weights is None:
        return ((version, 1.0),)
    return tuple(sorted((int(number), weight) for number, weight in weights.items()))


def heaviest(weights: Weights) -> int:
    """The version with the largest weight, the newest of equals."""
    return max(weights, key=lambda share: (share[1], share[0]))[0]


def spelled(weights: Weights) -> str:
    """The weights in a sentence: `version 3`, or `3 (0.9) and 4 (0.1)`."""
    if len(weights) == 1:
        return f"version {weights[0][0]}"
    return "the split " + " and ".join(f"{number} ({weight:g})" for number, weight in weights)


def point_of(task: str, key: str) -> float:
    """Where in [0, 1) a caller's key falls: the same in every process and at all times, another in each task."""
    digest = hashlib.sha256(f"{task}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def chosen(weights: Iterable[float], point: float) -> int:
    """The index of the share that `point` falls into, over the cumulative weights.

    Shares are in the order of their versions, so that callers who got the newest keep it while its weight grows.
    """
    reached, index = 0.0, -1
    for index, weight in enumerate(weights):
        reached += weight
        if point < reached:
            return index
    return index  # of weights that add up to a little less than 1


def _invalid(problem: str) -> InvalidRequestError:
    return InvalidRequestError(problem, param="weights")
