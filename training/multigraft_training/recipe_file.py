"""A YAML file as values that remember their lines, with `key=value` overrides on top."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from multigraft_adapters.errors import InvalidRecipeError

MAX_DEPTH = 64
FieldPath = tuple[str, ...]
"""A field of a recipe: `("training", "epochs")`."""


@dataclass(slots=True)
class RecipeDocument:
    """The values of a recipe and where each was written: `name.yaml:7`, or the override that set it."""

    file: Path
    values: dict[str, Any]
    places: dict[FieldPath, str] = field(default_factory=dict)
    overridden: set[FieldPath] = field(default_factory=set)

    def place(self, path: FieldPath) -> str:
        """Where the field at `path` was written; for one that is not there, where its nearest parent was."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.places:
                return self.places[path[:end]]
        return self.file.name

    def get(self, path: FieldPath) -> Any:
        """The value at `path`, or None where there is none."""
        value: Any = self.values
        for key in path:
            if not isinstance(value, dict):
                return None
            value = value.get(key)
        return value

    def set(self, path: FieldPath, value: Any) -> None:
        """Put a value at `path`; what stands in the way and is no mapping is replaced."""
        parent = self.values
        for key in path[:-1]:
            child = parent.get(key)
            if not isinstance(child, dict):
                child = parent[key] = {}
            parent = child
        parent[path[-1]] = value


def read_document(file: Path, overrides: Iterable[str], problems: list[str]) -> RecipeDocument | None:
    """The recipe's values with the overrides applied; None, with problems noted, when it is no mapping."""
    document = _read(file, problems)
    if document is None:
        return None
    for override in overrides:
        _apply(document, override, problems)
    return document


class _Loader(yaml.SafeLoader):
    """YAML without anchors, with `5e-4` a number as in YAML 1.2, and with no error but YAML's own."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        problem = "it is nested too deeply" if self._depth > MAX_DEPTH else None
        if self.check_event(yaml.AliasEvent):
            problem = "anchors and aliases are not supported"
        if problem is not None:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, problem, mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # Numbers of thousands of digits, days that no month has, tags that do not fit what they stand before.
            problem = f"not a value of the kind {node.tag.rpartition(':')[2]!r}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+"), list("-+0123456789")
)


def _read(file: Path, problems: list[str]) -> RecipeDocument | None:
    try:
        text = file.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise InvalidRecipeError("the recipe cannot be read", [f"{file}: no such file"]) from None
    except OSError as error:
        raise InvalidRecipeError("the recipe cannot be read", [f"{file}: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise InvalidRecipeError("the recipe cannot be read", [f"{file}: is not UTF-8 text"]) from error
    document = RecipeDocument(file, {})
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        value = None if node is None else _value(loader, node, (), document, problems)
    except yaml.YAMLError as error:
        problems.append(_yaml_problem(file, error))
        return None
    if not isinstance(value, dict):
        problems.append(f"{file.name}:1: the recipe must be a mapping with base, task, data, ...")
        return None
    document.values = value
    return document


def _value(
    loader: _Loader, node: yaml.Node, path: FieldPath, document: RecipeDocument, problems: list[str]
) -> Any:
    document.places[path] = f"{document.file.name}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, child, (*path, str(i)), document, problems) for i, child in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    value: dict[str, Any] = {}
    for key_node, child in node.value:
        place = f"{document.file.name}:{key_node.start_mark.line + 1}"
        key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "?"
        if key in value:
            problems.append(f"{place}: {'.'.join((*path, key))}: appears twice")
        value[key] = _value(loader, child, (*path, key), document, problems)
        document.places[*path, key] = place
    return value


def _apply(document: RecipeDocument, override: str, problems: list[str]) -> None:
    key, equals, text = override.partition("=")
    parts = tuple(key.split("."))
    if not equals or not all(parts):
        problems.append(f"override {override!r}: write it as key=value, e.g. training.epochs=5")
        return
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        problems.append(f"override {override!r}: the value is not YAML")
        return
    document.set(parts, value)
    document.places[parts] = f"override {override!r}"
    document.overridden.add(parts)


def _yaml_problem(file: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = f":{mark.line + 1}" if mark else ""
    reason = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{file.name}{line}: not valid YAML: {reason}"
