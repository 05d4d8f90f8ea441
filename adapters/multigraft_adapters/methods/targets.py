"""Which modules one of PEFT's configs names: PEFT's rules, without its regular expressions.

Paths here are those inside the model that PEFT wrapped: a task model's begin with the backbone's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


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
class ModuleSettings:
    """Where a config puts a delta. `targets` None is all-linear, `layers` None is every layer."""

    targets: Names | None
    excluded: Names
    saved: frozenset[str]
    layers: frozenset[int] | None
    layer_patterns: tuple[re.Pattern[str], ...]

    def declares(self, path: str) -> bool:
        """Whether PEFT puts a delta on the linear module at `path`."""
        if self._is_left_out(path):
            return False
        if self.targets is None or self.targets.match_exactly(path):
            return True
        return self.targets.match(path) and self._is_in_layers(path)

    def unmatched(self, paths: Iterable[str]) -> list[str]:
        """What `target_modules` names, and is none of the modules at `paths`, sorted.

        Where PEFT was asked for all linear modules, its list also has the head's, which is saved or excluded.
        """
        names = self.targets.unmatched(paths) if self.targets is not None else set()
        return sorted(name for name in names if not self._is_left_out(name))

    def _is_left_out(self, path: str) -> bool:
        return self.excluded.match(path) or any(f".{name}." in f".{path}." for name in self.saved)

    def _is_in_layers(self, path: str) -> bool:
        if self.layers is None:
            return True
        matches = (pattern.match(path) for pattern in self.layer_patterns)
        match = next((match for match in matches if match is not None), None)
        return match is not None and int(match["index"]) in self.layers


def value_of(path: str, patterns: Sequence[Pattern], default: float) -> float:
    """The value of the first pattern that matches."""
    return next((pattern.value for pattern in patterns if pattern.regex.match(path)), default)


def depends_on_order(path: str, patterns: Sequence[Pattern]) -> bool:
    """Whether another order of the patterns would give the module at `path` another value."""
    by_key = sorted(patterns, key=lambda pattern: pattern.key)
    return value_of(path, patterns, 0) != value_of(path, by_key, 0)
