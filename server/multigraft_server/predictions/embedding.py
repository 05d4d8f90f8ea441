"""`feature-extraction`: pooled vectors, or one vector per token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from multigraft_adapters.errors import InvalidRequestError
from multigraft_server.answers import Answer, Values, read_pooled
from multigraft_server.calls import Call, Target
from multigraft_server.engine.requests import PoolingParams
from multigraft_server.parts import Parts
from multigraft_server.predictions.base import Parameters, Prepared, read_parameters, read_texts


class EmbeddingParameters(Parameters):
    """Hugging Face's. `pooling` `none` asks for every token's vector; `normalize` true for unit length, which
    is what a head that normalises gives anyway; `dimensions` for the first so many numbers, at unit length.
    """

    pooling: Literal["none"] | None = None
    normalize: bool | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    encoding_format: Literal["float"] | None = None
    truncate: Literal[False] | None = None
    truncation_direction: None = None
    prompt_name: None = None


class EmbeddingPredictor:
    """`inputs` is a text or a list of texts; the output is one vector, or a list of them."""

    async def prepare(self, parts: Parts, call: Call, inputs: Any, parameters: Mapping[str, Any]) -> Prepared:
        chosen = read_parameters(EmbeddingParameters, parameters)
        check_dimensions(chosen.dimensions, parts.spec.hidden_size, "parameters.dimensions")
        _check_normalize(call.target, chosen)
        texts, is_list = read_texts(inputs, max_entries=parts.settings.max_entries)
        rows = await parts.tokeniser.texts(texts)
        for tokens in rows:
            parts.router.check_input_length(call.target, len(tokens.ids))

        async def read(answers: Sequence[Answer]) -> list[Any]:
            vectors = [
                shape_vector(values, chosen.dimensions, normalize=bool(chosen.normalize)).tolist()
                for values in await read_pooled(answers)
            ]
            return vectors if is_list else vectors[0]

        output = PoolingParams("tokens" if chosen.pooling == "none" else "head")
        return Prepared([(tokens, output) for tokens in rows], read)


def check_dimensions(dimensions: int | None, size: int, param: str) -> None:
    """Raises InvalidRequestError when more dimensions are asked for than a vector has."""
    if dimensions is not None and dimensions > size:
        raise InvalidRequestError(f"{param}: a vector has {size} dimensions, not {dimensions}", param=param)


def shape_vector(values: Values, dimensions: int | None, *, normalize: bool) -> Values:
    """A vector (hidden,), or vectors (tokens, hidden), cut to `dimensions`; cut ones get unit length."""
    shaped = values if dimensions is None else values[..., :dimensions]
    return _unit(shaped) if normalize or dimensions is not None else shaped


def _unit(values: Values) -> Values:
    norms = np.linalg.norm(values, axis=-1, keepdims=True)
    unit: Values = values / np.maximum(norms, np.float32(1e-12))
    return unit


def _check_normalize(target: Target, chosen: EmbeddingParameters) -> None:
    head = target.version.manifest.head if target.version else None
    if chosen.normalize is False and chosen.pooling is None and head is not None and head.normalize:
        raise InvalidRequestError(
            f"the head of {target.task!r} normalises, so normalize: false cannot be had",
            param="parameters.normalize",
        )


PREDICTOR = EmbeddingPredictor()
