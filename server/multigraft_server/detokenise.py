"""From token ids back to text, token by token, with stop strings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from multigraft_server.tokenising import plain_backend

REPLACEMENT = "\ufffd"
"""What a decoder puts for bytes that are not (yet) a character."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The base's tokenizer, as far as answers need it; an image base, which writes no text, has none.

    `special_ids` have no text of their own: ends of text and other marks. `end_id` stands for the end where a
    text was ended without a token.
    """

    tokenizer: Any
    eos_ids: frozenset[int]
    special_ids: frozenset[int]
    end_id: int

    @classmethod
    def of(cls, tokenizer: Any, eos_ids: Iterable[int]) -> Vocabulary:
        """The vocabulary of a base's tokenizer and the ids that end its texts."""
        ends = frozenset(eos_ids)
        special = ends | frozenset(tokenizer.all_special_ids if tokenizer else ())
        return cls(tokenizer, ends, special, min(ends or special, default=0))

    def detokeniser(self, stops: Sequence[str] = (), *, ignore_eos: bool = False) -> Detokeniser:
        """A detokeniser for one answer; the token that ends it has no text."""
        return Detokeniser(self.tokenizer, stops, frozenset() if ignore_eos else self.eos_ids)

    def text_of(self, token_id: int) -> str:
        """One token's text, marks included."""
        return str(self.tokenizer.decode([token_id], clean_up_tokenization_spaces=False))


class Detokeniser:
    """The text of one growing answer.

    `push` returns the text that a token makes final: incomplete characters, and text that may turn out to be
    the start of a stop string, are held back until it is clear or until `flush`. Once a stop string was met,
    `stopped` is true, and neither it nor anything behind it is returned.
    """

    def __init__(
        self, tokenizer: Any, stops: Sequence[str] = (), silent_ids: frozenset[int] = frozenset()
    ) -> None:
        self._tokenizer = tokenizer
        self._backend = plain_backend(tokenizer)
        self._stops = tuple(stops)
        self._silent_ids = silent_ids
        self._ids: list[int] = []
        # Tokens up to `_read` have been returned. Those from `_start` on are decoded together with the new
        # ones, for tokenizers whose spaces depend on what goes before; both lie between characters.
        self._start = 0
        self._read = 0
        self._held = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """Add a token; returns the text that is certain now."""
        if token_id in self._silent_ids:
            return ""
        self._ids.append(token_id)
        new = self._unread()
        if not new or new.endswith(REPLACEMENT):
            return ""
        return self._release(new)

    def flush(self) -> str:
        """The answer is over: returns what was held back."""
        if self.stopped:
            return ""
        text = self._release(self._unread())
        rest, self._held = self._held, ""
        return text + rest

    def _unread(self) -> str:
        known = self._decode(self._ids[self._start : self._read]) if self._read else ""
        return self._decode(self._ids[self._start :])[len(known) :]

    def _decode(self, ids: list[int]) -> str:
        if self._backend is not None:
            return str(self._backend.decode(ids, skip_special_tokens=True))
        text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)

    def _release(self, new: str) -> str:
        self._start, self._read = self._read, len(self._ids)
        text = self._held + new
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """How many of the text's last characters are the stop string's first ones."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
