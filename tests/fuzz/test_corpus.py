"""Every input of the corpus again: examples of what is read, and what has gone wrong once."""

from __future__ import annotations

import random
import time
import tracemalloc
from pathlib import Path

import pytest

from tests.fuzz.guided import CORPUS, MAX_BYTES, SECONDS_PER_INPUT
from tests.fuzz.mutating import mutated
from tests.fuzz.readers import READERS

INPUTS = sorted(CORPUS.glob("*/*"))
MAX_PEAK_BYTES = 64 * 1024 * 1024
FURTHER = 100
"""Inputs that are made of each reader's corpus in this test, without coverage: the fuzzers make more."""


def test_every_reader_has_a_corpus() -> None:
    assert {path.parent.name for path in INPUTS} == set(READERS)
    assert all(path.stat().st_size <= MAX_BYTES for path in INPUTS)


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_an_input_is_read_or_refused_within_bounds(path: Path) -> None:
    data, read = path.read_bytes(), READERS[path.parent.name]
    tracemalloc.start()
    began = time.process_time()
    try:
        read(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < SECONDS_PER_INPUT
    assert peak < MAX_PEAK_BYTES


@pytest.mark.parametrize("name", READERS)
def test_inputs_made_of_the_corpus_are_read_or_refused(name: str) -> None:
    chance = random.Random(1)
    known = [path.read_bytes() for path in INPUTS if path.parent.name == name]
    assert known
    for number in range(FURTHER):
        READERS[name](mutated(chance.choice(known), MAX_BYTES, number, spoiled))


def spoiled(part: bytes, max_size: int) -> bytes:
    """The bytes with some of them changed, cut out or doubled."""
    chance = random.Random(len(part))
    place = chance.randrange(len(part) + 1)
    new = bytes(chance.choices(range(256), k=chance.randrange(4)))
    return (part[:place] + new + part[place + chance.randrange(4) :])[:max_size]
