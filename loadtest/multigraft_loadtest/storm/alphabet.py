"""What answers are spelled with: directions of hidden states that are told apart at once, and words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from multigraft_loadtest.problems import CannotStartError
from multigraft_loadtest.shapes import Shape
from multigraft_loadtest.storm.base_files import Array, BaseFiles

MAX_SYMBOLS = 128
MAX_WORDS = 512
CANDIDATES = 1024
MARGIN = 0.15
"""By how much of its own logit a word must lead, along its own direction, to be used."""

LEAST_NORM = 0.05
"""Where the last norm's weight is smaller, nothing is written against it."""


@dataclass(frozen=True, slots=True)
class Alphabet:
    """The same for all adapters of a base.

    `keys` (keys, hidden): orthogonal directions of mean 0 and mean square 1, by which one part of a delta speaks
    to the next. `signs` (symbols, hidden): patterns of 1 and -1. `pooled` (symbols, hidden): what the base's own
    pooler makes of the keys; empty for a decoder. `words`: texts of tokens, and `towards` (words, hidden) the
    states from which each is the likeliest next token; empty for an encoder.
    """

    keys: Array
    signs: Array
    pooled: Array
    words: Sequence[str]
    towards: Array

    @property
    def symbols(self) -> int:
        return len(self.signs)


def make_alphabet(shape: Shape, files: BaseFiles, seed: int) -> Alphabet:
    """Raises CannotStartError for a base with too few words."""
    draw = np.random.default_rng([seed, 1])
    count = min(MAX_SYMBOLS, shape.hidden // 2)
    signs = np.sign(draw.standard_normal((count, shape.hidden))).astype(np.float32)
    keys = _orthogonal(count, shape.hidden, draw)
    nothing = np.zeros((0, shape.hidden), np.float32)
    if shape.family == "encoder":
        return Alphabet(keys, signs, _pooled(shape, files, keys), (), nothing)
    words, towards = _words(files, draw)
    return Alphabet(keys, signs, nothing, words, towards)


def _orthogonal(count: int, size: int, draw: np.random.Generator) -> Array:
    """Orthogonal rows that are orthogonal to (1, ..., 1) too, since a layer norm takes the mean away."""
    columns = draw.standard_normal((size, count + 1))
    columns[:, 0] = 1.0
    basis, _ = np.linalg.qr(columns)
    rows: Array = (basis[:, 1:].T * np.sqrt(size)).astype(np.float32)
    return rows


def _pooled(shape: Shape, files: BaseFiles, keys: Array) -> Array:
    """BERT's pooler, tanh(W x + b), of the last layer norm's output when nothing but a key goes into it."""

    def read(name: str) -> Array:
        return files.tensor(name, f"bert.{name}")

    norm = f"encoder.layer.{shape.layers - 1}.output.LayerNorm"
    states = keys * read(f"{norm}.weight") + read(f"{norm}.bias")
    pooled: Array = np.tanh(states @ read("pooler.dense.weight").T + read("pooler.dense.bias"))
    return pooled


def _words(files: BaseFiles, draw: np.random.Generator) -> tuple[list[str], Array]:
    """Words, and the hidden states that go before the last norm; a state's own word leads by the margin.

    They are the directions (C + c I)^-1 e of the embeddings e, where C is the embeddings' second moment and c its
    mean eigenvalue: what all words have in common would lead otherwise.
    """
    embeddings = files.tensor("lm_head.weight", "model.embed_tokens.weight")
    norm = files.tensor("model.norm.weight")
    found = files.words()
    chosen = [found[place] for place in draw.permutation(len(found))[:CANDIDATES]]
    numbers = np.array([number for number, _ in chosen])
    moment = embeddings.T @ embeddings / len(embeddings)
    moment += np.eye(len(moment), dtype=np.float32) * np.trace(moment) / len(moment)
    towards = np.linalg.solve(moment, embeddings[numbers].T).T / np.where(abs(norm) < LEAST_NORM, 1.0, norm)
    towards = towards / np.sqrt(np.mean(towards**2, axis=1, keepdims=True))
    logits = (towards * norm) @ embeddings.T
    own = logits[np.arange(len(numbers)), numbers]
    logits[np.arange(len(numbers)), numbers] = -np.inf
    others = logits.max(axis=1) / np.where(own > 0, own, np.inf)
    leads = [int(place) for place in np.argsort(others, kind="stable") if own[place] > 0]
    leads = [place for place in leads if others[place] < 1 - MARGIN][:MAX_WORDS]
    if len(leads) < 2:
        raise CannotStartError(f"{files.folder}: only {len(leads)} words of this base can be told apart")
    return [chosen[place][1] for place in leads], towards[leads]
