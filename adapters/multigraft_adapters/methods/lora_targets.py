"""Which modules a LoraConfig names, and their ranks and scalings: PEFT's rules, without its regular expressions.

Paths here are those inside the model that PEFT wrapped: a task model's begin with the backbone's name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from multigraft_adapters.artifact import CONFIG_FILE, shown


@dataclass(frozen=True, slots=True)
class Names:
    """Modules as PEFT names them: a name stands for itself and for every path that ends with it.

    `pattern` takes the place of the names where PEFT was given a string, which it matches as a regular
    expression against the whole path.
    """

    names: frozenset[str] = frozenset()
    pattern: re.Pattern[str] | None = None

    def match(self, path: str) -> bool:
        return self.match_exactly(path) or bool(self.matching(path))

    def match_exactly(self, path: str) -> bool:
        return path in self.names or (self.pattern is not None and self.pattern.fullmatch(path) is not None)

    def matching(self, path: str) -> set[str]:
        """The names that name the module at `path`."""
        parts = path.split(".")
        return {name for i in range(len(parts)) if (name := ".".join(parts[i:])) in self.names}

    def unmatched(self, paths: Iterable[str]) -> set[str]:
        """The names that name none of the modules at `paths`."""
        if self.pattern is not None:
            return set() if any(self.match(path) for path in paths) else {self.pattern.pattern}
        return set(self.names).difference(*(self.matching(path) for path in paths))


@dataclass(frozen=True, slots=True)
class Pattern:
    """One entry of rank_pattern or alpha_pattern: the value of the modules that its key matches."""

    key: str
    regex: re.Pattern[str]
    value: float


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """What of a LoraConfig decides the maths.

    `targets` None is all-linear, `layers` None is every layer. Of several patterns that match, the first holds.
    """

    rank: int
    alpha: float
    rslora: bool
    targets: Names | None
    excluded: Names
    saved: frozenset[str]
    layers: frozenset[int] | None
    layer_patterns: tuple[re.Pattern[str], ...]
    rank_patterns: tuple[Pattern, ...]
    alpha_patterns: tuple[Pattern, ...]

    def declares(self, path: str) -> bool:
        """Whether PEFT puts LoRA on the linear module at `path`."""
        if self.excluded.match(path) or self.saved.intersection(path.split(".")):
            return False
        if self.targets is None or self.targets.match_exactly(path):
            return True
        return self.targets.match(path) and self._is_in_layers(path)

    def unmatched(self, paths: Iterable[str]) -> list[str]:
        """What `target_modules` names, and is none of the modules at `paths`, sorted."""
        return sorted(self.targets.unmatched(paths) - self.saved) if self.targets is not None else []

    def rank_of(self, path: str) -> int:
        return int(_value_of(path, self.rank_patterns, self.rank))

    def scaling_of(self, path: str) -> float:
        """What B A is multiplied with: alpha / r, or rsLoRA's alpha / sqrt(r)."""
        alpha, rank = _value_of(path, self.alpha_patterns, self.alpha), self.rank_of(path)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank

    def pattern_problems(self, paths: Iterable[str]) -> list[str]:
        """The tables whose values at `paths` depend on the order of their keys, which JSON does not keep."""
        paths = list(paths)
        tables = {"rank_pattern": self.rank_patterns, "alpha_pattern": self.alpha_patterns}
        return [
            f"{CONFIG_FILE}: {table}: which of its keys holds for {shown(path)} depends on their order"
            for table, patterns in tables.items()
            for path in [path for path in paths if _depends_on_order(path, patterns)][:1]
        ]

    def _is_in_layers(self, path: str) -> bool:
        if self.layers is None:
            return True
        matches = (pattern.match(path) for pattern in self.layer_patterns)
        match = next((match for match in matches if match is not None), None)
        return match is not None and int(match["index"]) in self.layers


def _value_of(path: str, patterns: Sequence[Pattern], default: float) -> float:
    return next((pattern.value for pattern in patterns if pattern.regex.match(path)), default)


def _depends_on_order(path: str, patterns: Sequence[Pattern]) -> bool:
    by_key = sorted(patterns, key=lambda pattern: pattern.key)
    return _value_of(path, patterns, 0) != _value_of(path, by_key, 0)
