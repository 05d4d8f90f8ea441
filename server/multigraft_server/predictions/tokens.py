"""`token-classification`: the entities in a text, or a label for each of its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from multigraft_adapters.errors import ContextLengthError, InvalidRequestError
from multigraft_adapters.heads import Entity, EntityReader, Strategy
from multigraft_adapters.windows import ReadText
from multigraft_server.answers import Answer
from multigraft_server.calls import Call
from multigraft_server.parts import Parts
from multigraft_server.predictions.base import (
    Parameters,
    Prepared,
    check_labels_exist,
    read_parameters,
    read_texts,
)
from multigraft_server.predictions.windows import Cut, cut_texts

OUTSIDE = "O"
"""The label of what is no entity, left out by default."""


class TokenParameters(Parameters):
    """Hugging Face's. `stride` has a text that is too long read in windows that share so many tokens."""

    aggregation_strategy: Strategy | None = None
    ignore_labels: list[str] | None = None
    stride: Annotated[int, Field(ge=0)] | None = None


class TokenPredictor:
    """`inputs` is a text or a list of texts; the output is one list of entities, or a list of them."""

    async def prepare(self, parts: Parts, call: Call, inputs: Any, parameters: Mapping[str, Any]) -> Prepared:
        chosen = read_parameters(TokenParameters, parameters)
        assert call.target.version is not None  # predictors serve tasks only
        id2label = call.target.version.manifest.id2label or {}
        strategy = chosen.aggregation_strategy or "none"
        ignored = [OUTSIDE] if chosen.ignore_labels is None else chosen.ignore_labels
        _check_labels(ignored, id2label)
        _check_stride(chosen, strategy)
        texts, is_list = read_texts(inputs, max_entries=parts.settings.max_entries)
        size = parts.router.longest_input(call.target)
        cuts = [
            _cut(text, size, chosen.stride, call)
            for text in await parts.tokeniser.read([one.text for one in texts])
        ]
        windowed = cut_texts(cuts, parts.settings.max_entries)
        reader = EntityReader(parts.tokeniser.tokenizer, id2label)

        async def read(answers: Sequence[Answer]) -> list[Any]:
            found = await windowed.answers(answers)

            def decode() -> list[list[Entity]]:
                return [
                    reader.read(text.text, windows, strategy, ignored)
                    for text, windows in zip(texts, found, strict=True)
                ]

            entities = await parts.tokeniser.run(decode)
            return entities if is_list else entities[0]

        return Prepared(windowed.rows(parts), read)


def _check_labels(ignored: Sequence[str], id2label: Mapping[int, str]) -> None:
    tags = {label[2:] for label in id2label.values() if label.startswith(("B-", "I-"))}
    check_labels_exist(ignored, {OUTSIDE, *id2label.values(), *tags}, "parameters.ignore_labels")


def _check_stride(chosen: TokenParameters, strategy: Strategy) -> None:
    if chosen.stride is not None and strategy == "none":
        raise InvalidRequestError(
            "parameters.stride: tokens in two windows have two labels; give an aggregation_strategy",
            param="parameters.stride",
        )


def _cut(text: ReadText, size: int, stride: int | None, call: Call) -> Cut:
    """How a text is cut; one that is too long is refused unless windows were asked for."""
    room = size - text.num_around
    if stride is not None and stride >= room:
        raise InvalidRequestError(
            f"parameters.stride: a window has room for {room} tokens, so they can share at most {room - 1}",
            param="parameters.stride",
        )
    if stride is None and len(text.ids) > size:
        raise ContextLengthError(
            f"the input has {len(text.ids)} tokens; {call.target.task!r} takes at most {size}: give a stride and "
            "an aggregation_strategy to have it read in overlapping windows",
            param="inputs",
        )
    return Cut(text, size, stride or 0)


PREDICTOR = TokenPredictor()
