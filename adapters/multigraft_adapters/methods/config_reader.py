"""Reading PEFT's configs from JSON strictly: what changes the maths and is not supported is a problem."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from multigraft_adapters.artifact import CONFIG_FILE, listed, shown
from multigraft_adapters.methods.targets import Names, Pattern

ALL_LINEAR = "all-linear"
MAX_ENTRIES = 2048
"""The cap of a list or a table of the config."""

ORIGIN_KEYS = frozenset(("auto_mapping", "base_model_name_or_path", "revision", "peft_version", "inference_mode"))
"""Where the adapter came from."""

_PLAIN = re.compile(r"[A-Za-z0-9_.\-]+")
_FIRST_LAYER = re.compile(r".*?\.[^.]*\.(?P<index>\d+)\.")
_CLASSIFIER_NAMES = frozenset({"classifier", "score"})
"""What PEFT adds to modules_to_save when the task type is SEQ_CLS."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What one of PEFT's configs may hold: what is read, what changes nothing here, what is refused and why."""

    read: frozenset[str]
    ignored: frozenset[str]
    refused: Mapping[str, str] = field(default_factory=dict)


class ConfigReader:
    """Reads one config key by key; null means absent. A wrong value is noted and read as if absent."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = {key: value for key, value in config.items() if value is not None}
        self.problems: list[str] = []

    def refuse_unsupported(self, keys: Keys) -> None:
        """Note each key that may change the result and is not honoured."""
        known = keys.read | keys.ignored | keys.refused.keys()
        used = {key for key, value in self._config.items() if value is not False and value not in ("", [], {})}
        for key in sorted(used & keys.refused.keys()):
            self.problem(key, keys.refused[key])
        if unknown := sorted(used - known):
            self.problem(listed(unknown), "unknown, and may change the result")

    def value(self, key: str, default: Any, problem_of: Callable[[Any], str | None]) -> Any:
        value = self._config.get(key, default)
        problem = problem_of(value)
        if problem is not None:
            self.problem(key, problem)
            return default
        return value

    def has(self, key: str) -> bool:
        return key in self._config

    def targets(self) -> Names | None:
        value = self._config.get("target_modules")
        if isinstance(value, str) and value.lower() == ALL_LINEAR:
            return None
        if not value:
            self.problem("target_modules", "is missing or empty")
        return self.names("target_modules")

    def names(self, key: str) -> Names:
        value = self._config.get(key)
        if not isinstance(value, str) or not value:
            return Names(frozenset(self._strings(key, value or [])))
        plain = self._plain(key, [value])
        return Names(pattern=re.compile(value)) if plain else Names()

    def saved_modules(self) -> frozenset[str]:
        saved = frozenset(self._strings("modules_to_save", self._config.get("modules_to_save", [])))
        return saved | _CLASSIFIER_NAMES if self._config.get("task_type") == "SEQ_CLS" else saved

    def layers(self) -> frozenset[int] | None:
        value = self._config.get("layers_to_transform", [])
        indexes = value if isinstance(value, list) else [value]
        if len(indexes) > MAX_ENTRIES or not all(type(index) is int and index >= 0 for index in indexes):
            self.problem("layers_to_transform", f"{shown(value)} is not a list of layer numbers")
            return None
        if indexes and isinstance(self._config.get("target_modules"), str):
            self.problem("layers_to_transform", "needs target_modules to be a list of names")
        return frozenset(indexes) or None

    def layer_patterns(self) -> tuple[re.Pattern[str], ...]:
        value = self._config.get("layers_pattern") or []
        names = self._strings("layers_pattern", [value] if isinstance(value, str) else value)
        if names and self._config.get("layers_to_transform") is None:
            self.problem("layers_pattern", "needs layers_to_transform")
        plain = self._plain("layers_pattern", names)
        return tuple(re.compile(rf"(?:^|.*?\.){name}\.(?P<index>\d+)\.") for name in plain) or (_FIRST_LAYER,)

    def patterns(self, key: str, problem_of: Callable[[Any], str | None]) -> tuple[Pattern, ...]:
        table = self._config.get(key, {})
        if not isinstance(table, dict) or len(table) > MAX_ENTRIES:
            self.problem(key, f"is not a table of at most {MAX_ENTRIES} values by module name")
            return ()
        wrong = {name: problem for name, value in table.items() if (problem := problem_of(value)) is not None}
        for name, problem in wrong.items():
            self.problem(f"{key}: {shown(name)}", problem)
        plain = self._plain(key, [name for name in table if name not in wrong])
        return tuple(Pattern(name, re.compile(rf"(.*\.)?({name})$"), table[name]) for name in plain)

    def _plain(self, key: str, names: list[str]) -> list[str]:
        """The names that mean no more as a regular expression than they say; the others are problems.

        An uploaded expression could be made to match for hours. A leading ^ is PEFT's way to say a whole path.
        """
        plain = [name for name in names if _PLAIN.fullmatch(name.removeprefix("^"))]
        if expressions := sorted(set(names).difference(plain)):
            self.problem(key, f"regular expressions are not run, give module names: {listed(expressions)}")
        return plain

    def _strings(self, key: str, value: Any) -> list[str]:
        if not isinstance(value, list) or len(value) > MAX_ENTRIES:
            self.problem(key, f"is not a list of at most {MAX_ENTRIES} names")
            return []
        strings = [item for item in value if isinstance(item, str) and item]
        if len(strings) < len(value):
            self.problem(key, "holds something that is not a name")
        return strings

    def problem(self, key: str, problem: str) -> None:
        """Note what is wrong with a key."""
        self.problems.append(f"{CONFIG_FILE}: {key}: {problem}")


def flag_problem(value: Any) -> str | None:
    return None if isinstance(value, bool) else f"{shown(value)} is not true or false"
