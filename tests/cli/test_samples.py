"""How far a server's answer may be from the stored one."""

from __future__ import annotations

from typing import Any

import pytest

from multigraft_adapters.commands.samples import compare


def scores(**by_label: float) -> list[dict[str, Any]]:
    return [{"label": label, "score": score} for label, score in by_label.items()]


@pytest.mark.parametrize(
    ("served", "agrees", "difference"),
    [
        ([scores(good=0.9, bad=0.1)], True, 0.0),
        (scores(good=0.9, bad=0.1), True, 0.0),
        ([scores(bad=0.11, good=0.89)], True, 0.01),
        ([scores(good=0.85, bad=0.15)], False, 0.05),
        ([scores(good=0.1, bad=0.9)], False, 0.8),
        ([scores(good=0.9)], False, None),
        ([scores(good=0.9, bad=0.1)] * 2, False, None),
        ({"generated_text": "good"}, False, None),
        ([], False, None),
        (None, False, None),
    ],
)
def test_scores_agree_within_the_tolerance(served: Any, agrees: bool, difference: float | None) -> None:
    comparison = compare("text-classification", [scores(good=0.9, bad=0.1)], served, 0.02)
    assert comparison.agrees is agrees
    assert comparison.difference == (None if difference is None else pytest.approx(difference))


def test_labels_closer_than_the_tolerance_may_change_places() -> None:
    stored, served = [scores(good=0.501, bad=0.499)], [scores(good=0.499, bad=0.501)]
    comparison = compare("text-classification", stored, served, 0.02)
    assert comparison.agrees
    assert comparison.note == "label 'bad', stored 'good'"
    assert not compare("text-classification", stored, served, 0.001).agrees


@pytest.mark.parametrize(
    ("served", "agrees", "difference"),
    [
        ([1.0, 0.0], True, 0.0),
        ([[1.0, 0.0]], True, 0.0),
        ([0.5, 0.0], True, 0.0),
        ([0.999, 0.04], True, 0.0008),
        ([0.0, 1.0], False, 1.0),
        ([1.0, 0.0, 0.0], False, None),
        ([0.0, 0.0], False, None),
        (["1", "0"], False, None),
    ],
)
def test_vectors_agree_by_their_cosine(served: Any, agrees: bool, difference: float | None) -> None:
    comparison = compare("feature-extraction", [1.0, 0.0], served, 0.02)
    assert comparison.agrees is agrees
    assert comparison.difference == (None if difference is None else pytest.approx(difference, abs=1e-4))


def test_the_worst_of_many_vectors_counts() -> None:
    stored = [[1.0, 0.0], [0.0, 1.0]]
    assert compare("feature-extraction", stored, stored).agrees
    assert not compare("feature-extraction", stored, [[1.0, 0.0], [1.0, 0.0]]).agrees


@pytest.mark.parametrize(
    ("served", "agrees", "difference"),
    [
        ("Dear friend, all is well", True, 0.0),
        ("Dear friend, all  is well\n", True, 0.0),
        ("Dear friend, all was well", True, 0.4),
        ("Dear you", True, 0.8),
        ("Hello friend, all is well", False, 1.0),
        ("", False, 1.0),
    ],
)
def test_texts_agree_by_their_first_word(served: str, agrees: bool, difference: float) -> None:
    stored = {"generated_text": "Dear friend, all is well"}
    for answer in ({"generated_text": served}, [{"generated_text": served}]):
        comparison = compare("text-generation", stored, answer)
        assert comparison.agrees is agrees
        assert comparison.difference == pytest.approx(difference)


ENTITIES = [{"entity_group": "PER", "score": 0.9, "word": "Ada", "start": 0, "end": 3}]


@pytest.mark.parametrize(
    ("served", "agrees", "difference"),
    [
        (ENTITIES, True, 0.0),
        ([ENTITIES[0] | {"score": 0.89}], True, 0.01),
        ([ENTITIES[0] | {"score": 0.5}], False, 0.4),
        ([ENTITIES[0] | {"entity_group": "LOC"}], False, 1.0),
        ([], False, 1.0),
        ({"answer": "Ada"}, False, None),
    ],
)
def test_entities_agree_by_what_they_are_and_where(served: Any, agrees: bool, difference: float | None) -> None:
    comparison = compare("token-classification", ENTITIES, served, 0.02)
    assert comparison.agrees is agrees
    assert comparison.difference == (None if difference is None else pytest.approx(difference))


def test_answers_to_a_question_agree_by_their_passage() -> None:
    stored = {"answer": "Ada", "score": 0.9, "start": 6, "end": 9}
    assert compare("question-answering", stored, stored | {"score": 0.91}).agrees
    assert not compare("question-answering", stored, stored | {"start": 16, "end": 19}).agrees
    assert not compare("question-answering", stored, None).agrees
