"""The heads: one unit each, registered by its kind. A new head is one file and one line here."""

from __future__ import annotations

from functools import partial

from multigraft_adapters.heads.classification import (
    LabelScore,
    decode_classification,
    read_classification,
)
from multigraft_adapters.heads.embedding import EmbeddingHead, decode_embedding, read_embedding
from multigraft_adapters.heads.entities import Entity, EntityReader, Strategy
from multigraft_adapters.heads.generation import GenerationHead, read_generation
from multigraft_adapters.heads.head import HEAD_KINDS, Head, HeadKind, kind_for, register
from multigraft_adapters.heads.linear import HiddenWeights, LinearHead
from multigraft_adapters.heads.spans import Span, SpanRules, decode_spans, read_spans
from multigraft_adapters.heads.tokens import read_tokens

__all__ = [
    "HEAD_KINDS",
    "EmbeddingHead",
    "Entity",
    "EntityReader",
    "GenerationHead",
    "Head",
    "HeadKind",
    "HiddenWeights",
    "LabelScore",
    "LinearHead",
    "Span",
    "SpanRules",
    "Strategy",
    "decode_classification",
    "decode_embedding",
    "decode_spans",
    "kind_for",
    "register",
]

CLASSIFIER = ("classifier", "score")

register(
    HeadKind(
        "classification", ("text-classification",), CLASSIFIER, partial(read_classification, "text-classification")
    )
)
register(
    HeadKind("images", ("image-classification",), CLASSIFIER, partial(read_classification, "image-classification"))
)
register(HeadKind("tokens", ("token-classification",), CLASSIFIER, read_tokens))
register(HeadKind("spans", ("question-answering",), ("qa_outputs",), read_spans))
register(HeadKind("embedding", ("feature-extraction",), (), read_embedding))
register(HeadKind("generation", ("text-generation",), (), read_generation))
