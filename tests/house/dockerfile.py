"""A small reader of the Dockerfile: its stages, and the chain of stages that a set of arguments builds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: `word` is `RUN`, `COPY`, ...; `text` is the rest, continuation lines joined."""

    word: str
    text: str


@dataclass(frozen=True, slots=True)
class Stage:
    """One `FROM`: the image or stage it starts from, its name (empty for the last), its instructions."""

    base: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        """The texts of the stage's instructions of one word."""
        return [instruction.text for instruction in self.instructions if instruction.word == word]


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """The arguments before the first `FROM` with their defaults, and the stages in order."""

    arguments: Mapping[str, str]
    stages: list[Stage]

    def chain(self, name: str, **overrides: str) -> list[Stage]:
        """The stages that the stage `name` is built on, first to last, with the arguments filled in."""
        by_name = {stage.name: stage for stage in self.stages}
        chain: list[Stage] = []
        while name in by_name:
            chain.insert(0, by_name[name])
            name = fill(by_name[name].base, {**self.arguments, **overrides})
        return chain


def fill(text: str, values: Mapping[str, str]) -> str:
    """`text` with each `${NAME}` or `$NAME` replaced; KeyError for a name without a value."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda match: values[match[1] or match[2]], text)


def read_dockerfile(path: Path) -> Dockerfile:
    """The parsed file; comments are dropped."""
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for instruction in instructions_of(path.read_text("utf-8")):
        if instruction.word == "FROM":
            base, _, name = instruction.text.partition(" AS ")
            stages.append(Stage(base, name))
        elif stages:
            stages[-1].instructions.append(instruction)
        else:
            name, _, default = instruction.text.partition("=")
            arguments[name] = default
    return Dockerfile(arguments, stages)


def instructions_of(text: str) -> list[Instruction]:
    """The instructions in order."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    return [Instruction(*line.split(maxsplit=1)) for line in joined.splitlines()]
