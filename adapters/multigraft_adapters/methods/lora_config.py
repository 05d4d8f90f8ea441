"""PEFT's LoraConfig, read from JSON strictly: what changes the maths and is not supported is a problem."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from multigraft_adapters.artifact import CONFIG_FILE, Limits, listed, shown
from multigraft_adapters.methods.lora_targets import LoraSettings, Names, Pattern

ALL_LINEAR = "all-linear"
DEFAULT_RANK = 8
DEFAULT_ALPHA = 8
MAX_ALPHA = 1_000_000
MAX_ENTRIES = 2048
"""The cap of a list or a table of the config."""

READ_KEYS = frozenset(
    ("peft_type", "task_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")
    + ("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern")
    + ("bias", "init_lora_weights")
)
IGNORED_KEYS = frozenset(
    # where the adapter came from
    ("auto_mapping", "base_model_name_or_path", "revision", "peft_version", "inference_mode")
    # of training, or of how the base's weights lie in memory
    + ("lora_dropout", "fan_in_fan_out", "runtime_config")
    # parameters of what another key switches on, and that key is looked at
    + ("megatron_core", "qalora_group_size", "loftq_config", "eva_config", "corda_config", "lora_ga_config")
)
REFUSED_KEYS = {
    "use_dora": "DoRA is not supported",
    "lora_bias": "a bias of LoRA's B is not supported",
    "alora_invocation_tokens": "activated LoRA is not supported",
    "layer_replication": "replicated layers would change the shared base",
    "target_parameters": "LoRA on bare parameters is not supported",
    "trainable_token_indices": "trained tokens are not supported",
    "use_qalora": "QALoRA is not supported",
    "use_bdlora": "block-diagonal LoRA is not supported",
    "arrow_config": "Arrow routing is not supported",
    "kasa_config": "KaSA would change the shared base",
    "monteclora_config": "MonteCLoRA is not supported",
    "velora_config": "VeLoRA is not supported",
    "megatron_config": "Megatron's layers are not supported",
    "ensure_weight_tying": "tied adapters are not supported",
}
PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica")
"""How A and B may have begun, beside true and false. Other ways begin by changing the base."""

_PLAIN = re.compile(r"[A-Za-z0-9_.\-]+")
_FIRST_LAYER = re.compile(r".*?\.[^.]*\.(?P<index>\d+)\.")
_CLASSIFIER_NAMES = frozenset({"classifier", "score"})
"""What PEFT adds to modules_to_save when the task type is SEQ_CLS."""


def read_settings(config: Mapping[str, Any], limits: Limits, problems: list[str]) -> LoraSettings | None:
    """What a LoraConfig's JSON says; None, with every problem noted, when any of it cannot be honoured."""
    reader = _Reader(config)
    reader.refuse_unsupported()

    def rank_problem(value: Any) -> str | None:
        is_rank = type(value) is int and 1 <= value <= limits.max_rank
        return None if is_rank else f"{shown(value)} is not a rank from 1 to {limits.max_rank}"

    settings = LoraSettings(
        rank=reader.value("r", DEFAULT_RANK, rank_problem),
        alpha=reader.value("lora_alpha", DEFAULT_ALPHA, _alpha_problem),
        rslora=reader.value("use_rslora", False, _flag_problem),
        targets=reader.targets(),
        excluded=reader.names("exclude_modules"),
        saved=reader.saved_modules(),
        layers=reader.layers(),
        layer_patterns=reader.layer_patterns(),
        rank_patterns=reader.patterns("rank_pattern", rank_problem),
        alpha_patterns=reader.patterns("alpha_pattern", _alpha_problem),
    )
    problems += reader.problems
    return None if reader.problems else settings


class _Reader:
    """Reads one config key by key; null means absent. A wrong value is noted and read as if absent."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = {key: value for key, value in config.items() if value is not None}
        self.problems: list[str] = []

    def refuse_unsupported(self) -> None:
        known = READ_KEYS | IGNORED_KEYS | REFUSED_KEYS.keys()
        used = {key for key, value in self._config.items() if value is not False and value not in ("", [], {})}
        for key in sorted(used & REFUSED_KEYS.keys()):
            self._problem(key, REFUSED_KEYS[key])
        if unknown := sorted(used - known):
            self._problem(listed(unknown), "unknown, and may change the result")
        self.value("bias", "none", lambda bias: None if bias == "none" else "trained biases are not supported")
        self.value("init_lora_weights", True, _init_problem)

    def value(self, key: str, default: Any, problem_of: Callable[[Any], str | None]) -> Any:
        value = self._config.get(key, default)
        problem = problem_of(value)
        if problem is not None:
            self._problem(key, problem)
            return default
        return value

    def targets(self) -> Names | None:
        value = self._config.get("target_modules")
        if isinstance(value, str) and value.lower() == ALL_LINEAR:
            return None
        if not value:
            self._problem("target_modules", "is missing or empty")
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
            self._problem("layers_to_transform", f"{shown(value)} is not a list of layer numbers")
            return None
        if indexes and isinstance(self._config.get("target_modules"), str):
            self._problem("layers_to_transform", "needs target_modules to be a list of names")
        return frozenset(indexes) or None

    def layer_patterns(self) -> tuple[re.Pattern[str], ...]:
        value = self._config.get("layers_pattern") or []
        names = self._strings("layers_pattern", [value] if isinstance(value, str) else value)
        if names and self._config.get("layers_to_transform") is None:
            self._problem("layers_pattern", "needs layers_to_transform")
        plain = self._plain("layers_pattern", names)
        return tuple(re.compile(rf"(?:^|.*?\.){name}\.(?P<index>\d+)\.") for name in plain) or (_FIRST_LAYER,)

    def patterns(self, key: str, problem_of: Callable[[Any], str | None]) -> tuple[Pattern, ...]:
        table = self._config.get(key, {})
        if not isinstance(table, dict) or len(table) > MAX_ENTRIES:
            self._problem(key, f"is not a table of at most {MAX_ENTRIES} values by module name")
            return ()
        wrong = {name: problem for name, value in table.items() if (problem := problem_of(value)) is not None}
        for name, problem in wrong.items():
            self._problem(f"{key}: {shown(name)}", problem)
        plain = self._plain(key, [name for name in table if name not in wrong])
        return tuple(Pattern(name, re.compile(rf"(.*\.)?({name})$"), table[name]) for name in plain)

    def _plain(self, key: str, names: list[str]) -> list[str]:
        """The names that mean no more as a regular expression than they say; the others are problems.

        An uploaded expression could be made to match for hours. A leading ^ is PEFT's way to say a whole path.
        """
        plain = [name for name in names if _PLAIN.fullmatch(name.removeprefix("^"))]
        if expressions := sorted(set(names).difference(plain)):
            self._problem(key, f"regular expressions are not run, give module names: {listed(expressions)}")
        return plain

    def _strings(self, key: str, value: Any) -> list[str]:
        if not isinstance(value, list) or len(value) > MAX_ENTRIES:
            self._problem(key, f"is not a list of at most {MAX_ENTRIES} names")
            return []
        strings = [item for item in value if isinstance(item, str) and item]
        if len(strings) < len(value):
            self._problem(key, "holds something that is not a name")
        return strings

    def _problem(self, key: str, problem: str) -> None:
        self.problems.append(f"{CONFIG_FILE}: {key}: {problem}")


def _alpha_problem(value: Any) -> str | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and 0 < value <= MAX_ALPHA:
        return None
    return f"{shown(value)} is not a number above 0 and at most {MAX_ALPHA}"


def _flag_problem(value: Any) -> str | None:
    return None if isinstance(value, bool) else f"{shown(value)} is not true or false"


def _init_problem(value: Any) -> str | None:
    if isinstance(value, bool) or value in PLAIN_INITS:
        return None
    return (
        f"{shown(value)} begins by changing the base, which is shared: convert to plain LoRA when saving "
        "(PEFT: path_initial_model_for_weight_conversion)"
    )
