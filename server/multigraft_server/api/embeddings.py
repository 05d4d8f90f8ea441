"""`POST /v1/embeddings`, OpenAI's: by a feature-extraction task, or by the base (mean-pooled, normalised)."""

from __future__ import annotations

import base64
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from multigraft_server.answers import Answer, Values, read_pooled
from multigraft_server.api.context import PartsDep, whole_answer_headers
from multigraft_server.api.disconnect import unless_disconnected
from multigraft_server.api.openai_inputs import read_sequences
from multigraft_server.api.openai_schemas import EmbeddingBody
from multigraft_server.api.terms import AskingDep
from multigraft_server.calls import Call
from multigraft_server.engine.requests import PoolingParams
from multigraft_server.parts import Parts
from multigraft_server.predictions.embedding import check_dimensions, shape_vector

router = APIRouter()


@router.post("/v1/embeddings")
async def embed(body: EmbeddingBody, request: Request, asking: AskingDep, parts: PartsDep) -> Response:
    """Embed one text or several. `dimensions` cuts the vectors and gives them unit length again."""
    call = await parts.router.open(body.model, body.terms(asking))
    with call:
        answer = await unless_disconnected(request.receive, _embed(parts, call, body))
        return JSONResponse(answer, headers=whole_answer_headers(call))


async def _embed(parts: Parts, call: Call, body: EmbeddingBody) -> dict[str, Any]:
    body.refuse_unsupported()
    parts.router.check_type(call.target, "feature-extraction", "embeddings")
    check_dimensions(body.dimensions, parts.spec.hidden_size, "dimensions")
    sequences = await read_sequences(parts, body.input, "input")
    for tokens in sequences:
        parts.router.check_input_length(call.target, len(tokens.ids), "input")
    output = PoolingParams("head" if call.target.version else "embedding")
    with parts.engine.together():
        answers = [Answer(parts.engine, call, tokens, output) for tokens in sequences]
    vectors = await read_pooled(answers)
    num_tokens = sum(len(tokens.ids) for tokens in sequences)
    return {
        "object": "list",
        "data": [_entry(index, vector, body) for index, vector in enumerate(vectors)],
        "model": body.model,
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    }


def _entry(index: int, vector: Values, body: EmbeddingBody) -> dict[str, Any]:
    shaped = shape_vector(vector, body.dimensions, normalize=False)
    return {"object": "embedding", "index": index, "embedding": _encoded(shaped, body.encoding_format)}


def _encoded(vector: Values, encoding: str) -> list[float] | str:
    if encoding == "float":
        return [float(number) for number in vector]
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
