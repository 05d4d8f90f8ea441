"""What is asked: prompts of so many words drawn by a seed, or the texts of a file in turn."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, TypeVar

from multigraft_loadtest.problems import CannotStartError
from multigraft_loadtest.words import WORDS

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Lengths:
    """Whole numbers from `least` to `most`, each as likely as the others; fixed when both are the same."""

    least: int
    most: int

    @classmethod
    def parse(cls, text: str) -> Lengths:
        """`75` or `8:512`. Raises CannotStartError."""
        least, _, most = text.partition(":")
        try:
            lengths = cls(int(least), int(most or least))
        except ValueError:
            raise CannotStartError(f"{text!r} is not a length: give a number, or two as LEAST:MOST") from None
        if not 1 <= lengths.least <= lengths.most:
            raise CannotStartError(f"{text!r} is not a length: numbers above 0, the first not above the second")
        return lengths

    def draw(self, draw: random.Random) -> int:
        return draw.randint(self.least, self.most)


def random_texts(lengths: Lengths, seed: int) -> Iterator[str]:
    """Endless texts of so many common words (about as many tokens) that share no beginning with their neighbours.

    The first words run through the list without repeating, so a prefix cache finds nothing.
    """
    draw = random.Random(f"texts {seed}")
    for first in cycle(draw.sample(WORDS, len(WORDS))):
        yield " ".join([first, *draw.choices(WORDS, k=lengths.draw(draw) - 1)])


def read_lines(file: Path, parse: Callable[[Any, str], T]) -> list[T]:
    """What `parse` makes of each line of a JSONL file and of where the line is; blank lines count for nothing.

    Raises CannotStartError for a file that cannot be read, a line that is no JSON, or no line at all.
    """
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CannotStartError(f"{file} cannot be read: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{file}:{number}"
            try:
                value = json.loads(line)
            except ValueError as error:
                raise CannotStartError(f"{where}: no JSON: {error}") from error
            found.append(parse(value, where))
    if not found:
        raise CannotStartError(f"{file} is empty")
    return found


def read_texts(file: Path) -> list[str]:
    """The texts of a JSONL file: each line a string, or an object with `prompt` or `text`.

    Raises CannotStartError.
    """
    return read_lines(file, _text)


def in_turn(texts: Sequence[str], seed: int) -> Iterator[str]:
    """The texts over and over, in an order that the seed shuffles once."""
    order = list(texts)
    random.Random(f"order {seed}").shuffle(order)
    return cycle(order)


def _text(value: Any, where: str) -> str:
    if isinstance(value, dict):
        value = value.get("prompt", value.get("text"))
    if not isinstance(value, str) or not value:
        raise CannotStartError(f'{where}: give a text as a string or as {{"prompt": ...}} or {{"text": ...}}')
    return value
