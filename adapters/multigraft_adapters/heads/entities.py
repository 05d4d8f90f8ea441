"""From the logits of a text's tokens to the entities in it, by the rules of transformers' pipeline.

A label may begin with `B-` (an entity begins here) or `I-` (it goes on); its tag is the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np

from multigraft_adapters.windows import ReadText

Array = np.ndarray[Any, np.dtype[np.float32]]
Strategy = Literal["none", "simple", "first", "average", "max"]


class Entity(TypedDict):
    """What was found at characters start..end; a token with its place `index`, or with a strategy a group."""

    entity: NotRequired[str]
    entity_group: NotRequired[str]
    score: float
    index: NotRequired[int]
    word: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Token:
    piece: str
    scores: Array  # (labels,)
    index: int
    start: int
    end: int
    continues: bool
    """Whether it goes on with the word of the token before it."""


@dataclass(frozen=True, slots=True)
class _Labelled:
    """A token or a word with its label."""

    label: str
    score: float
    word: str
    start: int
    end: int
    index: int

    @property
    def begins(self) -> bool:
        return self.label.startswith("B-")

    @property
    def tag(self) -> str:
        return self.label[2:] if self.label.startswith(("B-", "I-")) else self.label


class EntityReader:
    """Reads entities with one tokenizer and one label map."""

    def __init__(self, tokenizer: Any, id2label: Mapping[int, str]) -> None:
        self._tokenizer = tokenizer
        self._labels = id2label
        # Only tokenizers of whole words mark the pieces that continue one.
        self._marks_pieces = bool(getattr(tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None))

    def read(
        self,
        text: str,
        windows: Sequence[tuple[ReadText, Array]],
        strategy: Strategy = "none",
        ignored: Collection[str] = ("O",),
    ) -> list[Entity]:
        """The entities of a text from its windows' logits, each (tokens, labels), in the order of the text.

        Labels and tags in `ignored` are left out. Where windows overlap, the longer entity stays, of equally long
        ones the surer.
        """
        found = [
            entity
            for window, logits in windows
            for entity in self._window(text, window, logits, strategy)
            if not {entity.get("entity"), entity.get("entity_group")} & set(ignored)
        ]
        return _without_overlaps(found) if len(windows) > 1 else found

    def _window(self, text: str, window: ReadText, logits: Array, strategy: Strategy) -> list[Entity]:
        tokens = self._tokens(text, window, logits)
        if strategy == "none":
            return [_as_token(self._label_token(token)) for token in tokens]
        if strategy == "simple":
            labelled = [self._label_token(token) for token in tokens]
        else:
            labelled = [self._label_word(word, strategy) for word in _words(tokens)]
        return [self._group(group) for group in _groups(labelled)]

    def _tokens(self, text: str, window: ReadText, logits: Array) -> list[_Token]:
        scores = _softmax(logits)
        pieces = self._tokenizer.convert_ids_to_tokens(list(window.ids))
        tokens = []
        for index in range(window.start, window.stop):
            start, end = window.offsets[index]
            is_unknown = window.ids[index] == self._tokenizer.unk_token_id
            piece = text[start:end] if is_unknown else pieces[index]
            continues = not is_unknown and self._continues(text, piece, start, end)
            tokens.append(_Token(piece, scores[index], index, start, end, continues))
        return tokens

    def _continues(self, text: str, piece: str, start: int, end: int) -> bool:
        if self._marks_pieces:
            return len(piece) != len(text[start:end])
        return start > 0 and " " not in text[start - 1 : start + 1]

    def _label_token(self, token: _Token) -> _Labelled:
        best = int(token.scores.argmax())
        return _Labelled(
            self._labels[best], float(token.scores[best]), token.piece, token.start, token.end, token.index
        )

    def _label_word(self, word: Sequence[_Token], strategy: Strategy) -> _Labelled:
        if strategy == "first":
            scores = word[0].scores
        elif strategy == "max":
            scores = max(word, key=lambda token: float(token.scores.max())).scores
        else:
            scores = np.stack([token.scores for token in word]).mean(axis=0)
        best = int(scores.argmax())
        text = self._text([token.piece for token in word])
        return _Labelled(self._labels[best], float(scores[best]), text, word[0].start, word[-1].end, word[0].index)

    def _group(self, group: Sequence[_Labelled]) -> Entity:
        return {
            "entity_group": group[0].label.split("-", 1)[-1],
            "score": float(np.mean([one.score for one in group])),
            "word": self._text([one.word for one in group]),
            "start": group[0].start,
            "end": group[-1].end,
        }

    def _text(self, pieces: list[str]) -> str:
        text: str = self._tokenizer.convert_tokens_to_string(pieces)
        return text


def _softmax(logits: Array) -> Array:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    scores: Array = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return scores


def _as_token(one: _Labelled) -> Entity:
    return {
        "entity": one.label,
        "score": one.score,
        "index": one.index,
        "word": one.word,
        "start": one.start,
        "end": one.end,
    }


def _words(tokens: Sequence[_Token]) -> list[list[_Token]]:
    words: list[list[_Token]] = []
    for token in tokens:
        if words and token.continues:
            words[-1].append(token)
        else:
            words.append([token])
    return words


def _groups(labelled: Sequence[_Labelled]) -> list[list[_Labelled]]:
    """Neighbours of one tag together, unless an entity begins."""
    groups: list[list[_Labelled]] = []
    for one in labelled:
        if groups and one.tag == groups[-1][-1].tag and not one.begins:
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _without_overlaps(entities: list[Entity]) -> list[Entity]:
    kept: list[Entity] = []
    for entity in sorted(entities, key=lambda entity: entity["start"]):
        if not kept or not kept[-1]["start"] <= entity["start"] < kept[-1]["end"]:
            kept.append(entity)
        elif _rank(entity) > _rank(kept[-1]):
            kept[-1] = entity
    return kept


def _rank(entity: Entity) -> tuple[int, float]:
    return entity["end"] - entity["start"], entity["score"]
