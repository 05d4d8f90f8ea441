"""Words that a base's own embeddings put close to a word."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModel

from multigraft_adapters.bases import load_tokenizer
from multigraft_adapters.bases.load import LOCAL_ONLY
from multigraft_adapters.bases.quiet import quiet_transformers

NUM_NEIGHBOURS = 5
MIN_SIMILARITY = 0.5
"""The least cosine of two words' centred embeddings; below it words have little in common."""


class Neighbours:
    """The nearest words of a word, by the cosine of the base's input embeddings, with their mean taken off.

    Only words that are one token of the base's vocabulary have neighbours. They are of a kind with the word, not
    always of its meaning: no dictionary of synonyms is shipped.
    """

    def __init__(self, base: Path) -> None:
        tokenizer = load_tokenizer(base)
        ids = {token_id: word for word, token_id in _whole_words(tokenizer).items()}
        self._words = list(ids.values())
        self._places = {word: place for place, word in enumerate(self._words)}
        self._vectors = _vectors(base, list(ids))
        self._found: dict[str, list[str]] = {}

    def get(self, word: str) -> list[str]:
        """The word's neighbours, nearest first; none for a word that the vocabulary has not as one token."""
        lower = word.lower()
        if lower not in self._found:
            self._found[lower] = self._nearest(lower)
        return self._found[lower]

    def _nearest(self, word: str) -> list[str]:
        place = self._places.get(word)
        if place is None:
            return []
        similarity = self._vectors @ self._vectors[place]  # (words,)
        similarity[place] = -1.0
        best = similarity.topk(min(NUM_NEIGHBOURS, len(self._words)))
        return [
            self._words[index]
            for value, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            if value >= MIN_SIMILARITY
        ]


def _whole_words(tokenizer: object) -> dict[str, int]:
    """The vocabulary's lower-case words of three letters and more, as they stand inside a text, with their ids."""
    ids: dict[str, int] = tokenizer.get_vocab()  # type: ignore[attr-defined]
    continues = any(token.startswith("##") for token in ids)
    begins = "" if continues else next((mark for mark in ("Ġ", "▁") if f"{mark}the" in ids), "Ġ")
    words = {token.removeprefix(begins): token_id for token, token_id in ids.items() if token.startswith(begins)}
    return {word: i for word, i in words.items() if len(word) > 2 and word.isalpha() and word == word.lower()}


def _vectors(base: Path, ids: list[int]) -> Tensor:
    """The tokens' embeddings, (tokens, hidden), centred on their mean and of length 1."""
    if not ids:
        return torch.zeros(0, 1)
    with quiet_transformers():
        model = AutoModel.from_pretrained(base, dtype=torch.float32, use_safetensors=True, **LOCAL_ONLY)
    chosen = model.get_input_embeddings().weight.detach()[torch.tensor(ids)]
    return torch.nn.functional.normalize(chosen - chosen.mean(dim=0), dim=-1)
