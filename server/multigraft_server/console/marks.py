"""A text with parts of it marked: entities, answers. A template escapes it piece by piece."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mark:
    """A part of a text, in characters, from `start` up to `end`, and what is said of it."""

    start: int
    end: int
    label: str
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of the text; `mark` is None of what lies between marked parts."""

    text: str
    mark: Mark | None


def marked(text: str, marks: Iterable[Mark]) -> list[Piece]:
    """The whole text in pieces, in order.

    Of marks that overlap, the one that begins first is shown, of those that begin together the longest; empty ones
    and what lies beyond the text is left out.
    """
    pieces: list[Piece] = []
    position = 0
    for mark in sorted(marks, key=lambda mark: (mark.start, -mark.end)):
        end = min(mark.end, len(text))
        if mark.start < position or mark.start >= end:
            continue
        if mark.start > position:
            pieces.append(Piece(text[position : mark.start], None))
        pieces.append(Piece(text[mark.start : end], mark))
        position = end
    if position < len(text):
        pieces.append(Piece(text[position:], None))
    return pieces
