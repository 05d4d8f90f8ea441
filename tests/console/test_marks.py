"""Marking parts of a text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from multigraft_server.console.marks import Mark, marked


def test_a_text_is_cut_at_its_marks() -> None:
    person, place = Mark(0, 5, "PER", 0.9), Mark(9, 14, "LOC", 0.8)
    pieces = marked("Alice in Paris.", [place, person])
    assert [(piece.text, piece.mark) for piece in pieces] == [
        ("Alice", person),
        (" in ", None),
        ("Paris", place),
        (".", None),
    ]


def test_of_marks_that_overlap_the_first_and_longest_is_shown() -> None:
    shown = marked("abcdef", [Mark(1, 2, "short"), Mark(1, 4, "long"), Mark(3, 6, "late"), Mark(5, 99, "beyond")])
    assert [(piece.text, piece.mark.label if piece.mark else "") for piece in shown] == [
        ("a", ""),
        ("bcd", "long"),
        ("e", ""),
        ("f", "beyond"),
    ]


marks = st.builds(Mark, st.integers(-3, 12), st.integers(-3, 12), st.just("x"))


@given(st.text(max_size=10), st.lists(marks))
def test_no_character_is_lost_or_doubled(text: str, marks: list[Mark]) -> None:
    assert "".join(piece.text for piece in marked(text, marks)) == text
