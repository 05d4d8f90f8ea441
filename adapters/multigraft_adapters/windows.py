"""Texts that are longer than a base reads: tokens with their places in the text, cut into overlapping windows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

Range = tuple[int, int]

QUESTION_WINDOW = 384
"""Tokens of a window over a question's context, the question among them; fewer where a row may have no more."""
QUESTION_STRIDE = 128
"""Tokens that such windows share."""


@dataclass(frozen=True, slots=True)
class ReadText:
    """The tokens of a text, or of a pair of texts, with the special tokens that the base expects.

    Tokens start..stop are those of the text that may be cut; `offsets` are their characters in it, from and up to,
    and `words` the characters of the words that they belong to (None where the tokenizer knows no words).
    """

    ids: tuple[int, ...]
    type_ids: tuple[int, ...]
    offsets: tuple[Range, ...]
    words: tuple[Range | None, ...]
    start: int
    stop: int

    @property
    def num_around(self) -> int:
        """How many tokens are not the text's: special ones, and those of a pair's other text."""
        return len(self.ids) - (self.stop - self.start)

    def part(self, start: int, stop: int) -> ReadText:
        """The same with only the text's tokens start..stop, counted from its first one."""
        first, last = self.start + start, self.start + stop
        return replace(
            self,
            ids=self.ids[: self.start] + self.ids[first:last] + self.ids[self.stop :],
            type_ids=self.type_ids[: self.start] + self.type_ids[first:last] + self.type_ids[self.stop :],
            offsets=self.offsets[: self.start] + self.offsets[first:last] + self.offsets[self.stop :],
            words=self.words[: self.start] + self.words[first:last] + self.words[self.stop :],
            stop=self.start + stop - start,
        )


def read_text(tokenizer: Any, text: str) -> ReadText:
    """Tokenise a text with a fast tokenizer."""
    return _read(tokenizer(text, verbose=False).encodings[0], 0)


def read_question(tokenizer: Any, question: str, context: str) -> ReadText:
    """Tokenise a question with its context, the text that may be cut.

    The question comes first, or last with a tokenizer that pads on the left: so transformers' models are trained.
    """
    if tokenizer.padding_side == "right":
        return _read(tokenizer(question, context, verbose=False).encodings[0], 1)
    return _read(tokenizer(context, question, verbose=False).encodings[0], 0)


def _read(encoding: Any, sequence: int) -> ReadText:
    own = [index for index, of in enumerate(encoding.sequence_ids) if of == sequence]
    start, stop = (own[0], own[-1] + 1) if own else (len(encoding.ids), len(encoding.ids))
    offsets = [(begin, end) for begin, end in encoding.offsets]
    return ReadText(
        ids=tuple(encoding.ids),
        type_ids=tuple(encoding.type_ids),
        offsets=tuple(offsets),
        words=tuple(_words(encoding.word_ids, offsets, start, stop)),
        start=start,
        stop=stop,
    )


def num_windows(count: int, room: int, stride: int) -> int:
    """How many windows of `room` tokens, each with `stride` tokens of the one before, hold `count` tokens."""
    return 1 if count <= room else 1 + -(-(count - room) // (room - stride))


def cut(text: ReadText, size: int, stride: int) -> list[ReadText]:
    """The text in windows of at most `size` tokens, as transformers' tokenizers cut it.

    Neighbours share `stride` tokens, which are fewer than a window has room for.
    """
    count, room = text.stop - text.start, size - text.num_around
    if count <= room:
        return [text]
    starts = range(0, count, room - stride)
    windows = num_windows(count, room, stride)
    return [text.part(start, min(start + room, count)) for start in starts[:windows]]


def usual_stride(size: int, room: int) -> int:
    """How many tokens windows of `size` share, which have `room` for the context, where nobody says."""
    usual = min(size // 2, QUESTION_STRIDE)
    return usual if usual < room else room // 2


def _words(ids: list[int | None], offsets: list[Range], start: int, stop: int) -> list[Range | None]:
    """The characters of each token's word, for the tokens start..stop."""
    known: dict[int, Range] = {}
    for word, (begin, end) in zip(ids[start:stop], offsets[start:stop], strict=True):
        if word is not None:
            first, last = known.get(word, (begin, end))
            known[word] = (min(first, begin), max(last, end))
    own = [None if word is None else known[word] for word in ids[start:stop]]
    return [*[None] * start, *own, *[None] * (len(ids) - stop)]
