"""New inputs from old ones: bytes as libFuzzer changes them, or the values inside of JSON."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from tests.fuzz.readers import SEPARATOR

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 2**31, 2**63, 2**64, -(2**63), 10**40, 0.0, -0.5, 1e308, 5e-324),
    *("", "a", "\0", "\ud800", "é", "../x", "a" * 600, "[", "(" * 40, ".*", "null", "lora", "all-linear", "bias"),
    *([], {}, [[]], [None], [1, 2], {"": {}}, {"a": 1}, [1.5], ["layers.0"], {"0": "x", "1": "x"}),
)
DEPTHS = (65, 500, 5000)


def mutated(data: bytes, max_size: int, seed: int, as_bytes: Callable[[bytes, int], bytes]) -> bytes:
    """Another input: one of the parts changed, as JSON where it is that."""
    chance = random.Random(seed)
    parts = data.split(SEPARATOR)
    index = chance.randrange(len(parts))
    if chance.random() < 0.6:
        try:
            value = json.loads(parts[index])
            for _ in range(chance.choice((1, 1, 2, 4))):
                value = _changed(value, chance)
            parts[index] = json.dumps(value).encode()
            return SEPARATOR.join(parts)[:max_size]
        except (ValueError, RecursionError):
            pass
    if chance.random() < 0.02:
        depth = chance.choice(DEPTHS)
        parts[index] = chance.choice((b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth))
    else:
        parts[index] = as_bytes(parts[index], max(1, max_size - len(data) + len(parts[index])))
    return SEPARATOR.join(parts)[:max_size]


def _changed(value: Any, chance: random.Random) -> Any:
    """A copy of a JSON value with one change somewhere inside."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        return _changed_object(dict(value), chance)
    if isinstance(value, list) and value and chance.random() < 0.85:
        return _changed_list(list(value), chance)
    if isinstance(value, int) and chance.random() < 0.6:
        return value + chance.choice((-1, 1, 7, -value * 2, 10**9))
    return chance.choice(ODD)


def _changed_object(value: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    key = chance.choice(list(value))
    match chance.randrange(8):
        case 0:
            del value[key]
        case 1:
            value[str(chance.choice(ODD))[:80]] = value[key]
        case 2:
            value[str(chance.choice(ODD))[:80]] = chance.choice(ODD)
        case 3:
            other = chance.choice(list(value))
            value[key], value[other] = value[other], value[key]
        case _:
            value[key] = _changed(value[key], chance)
    return value


def _changed_list(value: list[Any], chance: random.Random) -> list[Any]:
    place = chance.randrange(len(value))
    match chance.randrange(5):
        case 0:
            del value[place]
        case 1:
            value.insert(place, chance.choice(ODD))
        case 2:
            value += value[: 1 + place]
        case _:
            value[place] = _changed(value[place], chance)
    return value
