"""More texts of the same labels: words replaced, inserted, swapped, deleted."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from multigraft_training.examples import Example, TextExample
from multigraft_training.objectives.neighbours import Neighbours
from multigraft_training.recipe_objectives import AugmentationPart
from multigraft_training.report import Report

Neighbouring = Neighbours | dict[str, list[str]]


def augmented(
    examples: Sequence[Example], part: AugmentationPart | None, base: Path, seed: int, report: Report
) -> list[Example]:
    """The examples, each text or pair of them followed by its changed copies; without a part as they are.

    Words are replaced by neighbours among the base's own embeddings, and how many have some is told.
    """
    if part is None:
        return list(examples)
    known: Neighbouring = {}
    if part.replace or part.insert:
        known = Neighbours(base)
        texts = [
            text for one in examples if isinstance(one, TextExample) for text in (one.text, one.text_pair or "")
        ]
        words = {word for text in texts for word in text.split()}
        found = sum(bool(known.get(word)) for word in words)
        report.note(
            f"augmentation: {found} of {len(words)} different words have neighbours in the base's vocabulary"
        )
    more: list[Example] = []
    for index, example in enumerate(examples):
        chooser = random.Random(f"{seed}/augmentation/{index}")
        more += [example, *_copies(example, part, known, chooser)]
    report.note(f"augmentation: {len(more)} train examples from {len(examples)}")
    return more


def change(
    words: Sequence[str], operation: str, share: float, known: Neighbouring, chooser: random.Random
) -> list[str]:
    """The words with one operation on `n = max(1, round(share * words))` of them.

    The four of "EDA", Wei and Zou 2019, 1901.11196: `replace` n words by neighbours of theirs, `insert` n times a
    neighbour of a random word at a random place, `swap` n times two words' places, `delete` each word with the
    probability `share`, one staying. EDA takes synonyms from WordNet; `known` gives a word's neighbours.
    """
    count = max(1, round(share * len(words)))
    changed = list(words)
    if operation == "delete":
        kept = [word for word in words if chooser.random() >= share]
        return kept or [chooser.choice(words)]
    if operation == "swap":
        for _ in range(count if len(words) > 1 else 0):
            one, other = chooser.sample(range(len(words)), 2)
            changed[one], changed[other] = changed[other], changed[one]
        return changed
    able = [place for place, word in enumerate(words) if known.get(word)]
    if operation == "replace":
        for place in chooser.sample(able, min(count, len(able))):
            changed[place] = chooser.choice(known.get(words[place]) or [words[place]])
        return changed
    for _ in range(count if able else 0):
        word = words[chooser.choice(able)]
        changed.insert(chooser.randint(0, len(changed)), chooser.choice(known.get(word) or [word]))
    return changed


def _copies(
    example: Example, part: AugmentationPart, known: Neighbouring, chooser: random.Random
) -> list[TextExample]:
    """The copies that differ from the example: an operation that found nothing to change gives none. Of a pair
    either text is changed, drawn for each copy."""
    assert isinstance(example, TextExample)
    operations = [name for name in ("replace", "insert", "swap", "delete") if getattr(part, name)]
    copies = []
    for number in range(part.copies):
        operation = operations[number % len(operations)]
        is_second = example.text_pair is not None and chooser.random() < 0.5
        own = ((example.text_pair if is_second else example.text) or "").split()
        changed = change(own, operation, getattr(part, operation), known, chooser)
        if changed != own:
            text = " ".join(changed)
            copies.append(replace(example, text_pair=text) if is_second else replace(example, text=text))
    return copies
