"""`text-generation`: Hugging Face's payload with text-generation-inference's parameters, streamed or whole."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from multigraft_adapters.errors import InvalidRequestError
from multigraft_server.answers import Answer, Ending, Piece, read_text
from multigraft_server.calls import Call
from multigraft_server.detokenise import Detokeniser
from multigraft_server.engine.requests import SamplingParams
from multigraft_server.parts import Parts
from multigraft_server.predictions.base import Parameters, Prepared, read_parameters, read_texts
from multigraft_server.tokenising import Tokens

DEFAULT_NEW_TOKENS = 100
"""What text-generation-inference takes when `max_new_tokens` is absent."""
MAX_SEED = 2**63 - 1

Stop = Annotated[str, Field(min_length=1, max_length=256)]


class GenerationParameters(Parameters):
    """text-generation-inference's. Greedy unless `do_sample`, or one of the sampling fields, says otherwise.

    The fields whose only value is null or false are known and not supported.
    """

    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    do_sample: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    stop: Annotated[list[Stop], Field(max_length=4)] | None = None
    return_full_text: bool | None = None
    details: bool | None = None
    decoder_input_details: Literal[False] | None = None
    watermark: Literal[False] | None = None
    best_of: Literal[1] | None = None
    adapter_id: None = None
    frequency_penalty: None = None
    grammar: None = None
    top_n_tokens: None = None
    truncate: None = None
    typical_p: None = None

    def sampling(self, max_tokens: int, *, logprobs: bool) -> SamplingParams:
        """The engine's parameters for an answer of at most `max_tokens`."""
        temperature = 1.0 if self.temperature is None else self.temperature
        hints = (self.temperature not in (None, 1.0), bool(self.top_k), self.top_p not in (None, 1.0))
        does_sample = any(hints) if self.do_sample is None else self.do_sample
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=temperature if does_sample else 0.0,
            top_p=self.top_p or 1.0,
            top_k=self.top_k or 0,
            repetition_penalty=self.repetition_penalty or 1.0,
            seed=self.seed,
            logprobs=0 if logprobs else None,
        )


@dataclass(frozen=True, slots=True)
class GenerationRow:
    """One prompt, ready to submit, and what is needed to write its answer."""

    prompt: str
    tokens: Tokens
    params: SamplingParams
    chosen: GenerationParameters

    def detokeniser(self, parts: Parts) -> Detokeniser:
        return parts.vocabulary.detokeniser(self.chosen.stop or ())

    @property
    def prefix(self) -> str:
        """What stands before the generated text in the answer."""
        return self.prompt if self.chosen.return_full_text else ""


class GenerationPredictor:
    """`inputs` is a text or a list of texts; the output is `{"generated_text"}`, or a list of them."""

    async def prepare(self, parts: Parts, call: Call, inputs: Any, parameters: Mapping[str, Any]) -> Prepared:
        rows, is_list = await prepare_rows(parts, call, inputs, parameters)

        async def read(answers: Sequence[Answer]) -> Any:
            pairs = zip(rows, answers, strict=True)
            outputs = [await _read_whole(parts, row, answer) for row, answer in pairs]
            return outputs if is_list else outputs[0]

        return Prepared([(row.tokens, row.params) for row in rows], read)


async def prepare_rows(
    parts: Parts, call: Call, inputs: Any, parameters: Mapping[str, Any], *, stream: bool = False
) -> tuple[list[GenerationRow], bool]:
    """The prompts' rows and whether they came as a list. Raises InvalidRequestError, ContextLengthError."""
    chosen = read_parameters(GenerationParameters, parameters)
    texts, is_list = read_texts(inputs, max_entries=parts.settings.max_entries)
    if stream and is_list:
        raise InvalidRequestError("a stream takes one text as inputs, not a list", param="inputs")
    rows = []
    for text, tokens in zip(texts, await parts.tokeniser.texts(texts), strict=True):
        num_prompt, wanted = len(tokens.ids), chosen.max_new_tokens
        limit = parts.router.answer_tokens(call.target, num_prompt, wanted, DEFAULT_NEW_TOKENS)
        params = chosen.sampling(limit, logprobs=stream or bool(chosen.details))
        rows.append(GenerationRow(text.text, tokens, params, chosen))
    return rows, is_list


async def _read_whole(parts: Parts, row: GenerationRow, answer: Answer) -> dict[str, Any]:
    pieces = [piece async for piece in read_text(answer, row.detokeniser(parts))]
    output: dict[str, Any] = {"generated_text": row.prefix + "".join(piece.text for piece in pieces)}
    if row.chosen.details:
        tokens = [piece for piece in pieces if piece.token is not None]
        output["details"] = _details(row, pieces[-1].ending, len(tokens)) | {
            "prefill": [],
            "tokens": [_token(parts, piece) for piece in tokens],
        }
    return output


async def stream_events(parts: Parts, row: GenerationRow, answer: Answer) -> AsyncGenerator[dict[str, Any]]:
    """One object per token; the last one has `generated_text` and `details`, as clients expect.

    A token that may be the last one waits until that is known: at most for the rest of its own step.
    """
    text, count = row.prefix, 0
    waiting: Piece | None = None
    async with aclosing(read_text(answer, row.detokeniser(parts))) as pieces:
        async for piece in pieces:
            if waiting is not None and piece.token is not None:
                yield _event(parts, count, waiting)
                waiting = None
            text += piece.text
            count += piece.token is not None
            if piece.ending is not None:
                last = Piece(waiting.text + piece.text, waiting.token) if waiting else piece
                ends = {"generated_text": text, "details": _details(row, piece.ending, count)}
                yield _event(parts, max(count, 1), last) | ends
            elif _may_be_last(parts, row, piece, count):
                waiting = piece
            else:
                yield _event(parts, count, piece)


def _may_be_last(parts: Parts, row: GenerationRow, piece: Piece, count: int) -> bool:
    return count == row.params.max_tokens or _is_special(parts, piece)


def _is_special(parts: Parts, piece: Piece) -> bool:
    return piece.token is not None and piece.token.token_id in parts.vocabulary.special_ids


def _event(parts: Parts, index: int, piece: Piece) -> dict[str, Any]:
    return {"index": index, "token": _token(parts, piece), "generated_text": None, "details": None}


def _token(parts: Parts, piece: Piece) -> dict[str, Any]:
    if piece.token is None:  # the text was complete before its end was known: what comes last is a mark
        return {"id": parts.vocabulary.end_id, "text": piece.text, "logprob": 0.0, "special": True}
    return {
        "id": piece.token.token_id,
        "text": piece.text,
        "logprob": piece.token.logprob,
        "special": _is_special(parts, piece),
    }


def _details(row: GenerationRow, ending: Ending | None, count: int) -> dict[str, Any]:
    assert ending is not None  # read_text's last piece has it
    return {
        "finish_reason": ending.cause,
        "generated_tokens": count,
        "input_length": len(row.tokens.ids),
        "seed": row.params.seed,
    }


PREDICTOR = GenerationPredictor()
