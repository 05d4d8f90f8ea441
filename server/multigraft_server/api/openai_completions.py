"""`POST /v1/completions`, OpenAI's, whole or streamed, for one prompt or several."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from multigraft_server.answers import Piece
from multigraft_server.api.context import PartsDep
from multigraft_server.api.openai_answers import Generation, new_head, respond
from multigraft_server.api.openai_inputs import read_sequences
from multigraft_server.api.openai_schemas import CompletionBody
from multigraft_server.api.sse import DONE, HOLE, EventTemplate, event
from multigraft_server.api.terms import AskingDep
from multigraft_server.calls import Call
from multigraft_server.detokenise import Vocabulary
from multigraft_server.parts import Parts

DEFAULT_TOKENS = 16
"""OpenAI's default of `max_tokens`."""

router = APIRouter()


@router.post("/v1/completions")
async def complete(body: CompletionBody, request: Request, asking: AskingDep, parts: PartsDep) -> Response:
    """Continue one prompt or several, given as text or as tokens, by a text-generation task or by the base."""
    call = await parts.router.open(body.model, body.terms(asking))
    return await respond(request, call, _submit(parts, call, body), stream=bool(body.stream))


async def _submit(parts: Parts, call: Call, body: CompletionBody) -> _Reply:
    body.refuse_unsupported()
    parts.router.check_type(call.target, "text-generation", "completions")
    rows = []
    for tokens in await read_sequences(parts, body.prompt, "prompt"):
        limit = parts.router.answer_tokens(call.target, len(tokens.ids), body.max_tokens, DEFAULT_TOKENS, "prompt")
        rows.append((tokens, body.sampling(limit, body.logprobs)))
    return _Reply(body, Generation(parts, call, body, rows))


class _Reply:
    """The answers to one request's prompts in OpenAI's shape."""

    def __init__(self, body: CompletionBody, generation: Generation) -> None:
        self._body = body
        self._generation = generation
        self._choices = [_Choice(index, body, generation) for index in range(len(generation))]

    async def whole(self) -> dict[str, Any]:
        """The answer as one object, the choices in the order of the prompts."""
        async for index, piece in self._generation.pieces():
            self._choices[index].add(piece)
        head = new_head("text_completion", "cmpl", self._body.model)
        choices = [choice.take() for choice in self._choices]
        return head | {"choices": choices, "usage": self._generation.usage()}

    async def chunks(self, call: Call) -> AsyncGenerator[bytes]:
        """The answer as events, one per piece of one choice."""
        head = new_head("text_completion", "cmpl", self._body.model)
        if self._body.includes_usage:
            head["usage"] = None
        plain = [choice.template(head) for choice in self._choices]
        async with aclosing(self._generation.pieces()) as pieces:
            async for index, piece in pieces:
                choice, template = self._choices[index], plain[index]
                if template is not None and piece.text and piece.ending is None:
                    yield template.event(piece.text)
                    continue
                choice.add(piece)
                if choice.has_news:
                    yield event(head | {"choices": [choice.take()]})
        if self._body.includes_usage:
            yield event(head | {"choices": [], "usage": self._generation.usage()})
        call.complete()
        yield DONE


class _Choice:
    """One prompt's answer: gathers pieces until they are taken, all at the end or each as it comes."""

    def __init__(self, index: int, body: CompletionBody, generation: Generation) -> None:
        self._index = index
        self._tells_logprobs = body.logprobs is not None
        self._generation = generation
        self._pieces: list[Piece] = []
        self._offset = 0

    @property
    def has_news(self) -> bool:
        """Whether what was gathered says anything yet."""
        told = any(self._generation.is_told(piece.token) for piece in self._pieces)
        says = any(piece.text or piece.ending for piece in self._pieces)
        return says or (self._tells_logprobs and told)

    def add(self, piece: Piece) -> None:
        self._pieces.append(piece)

    def take(self) -> dict[str, Any]:
        """The gathered pieces as one choice; gathering begins anew."""
        pieces, self._pieces = self._pieces, []
        ending = pieces[-1].ending
        logprobs = self._logprobs(pieces) if self._tells_logprobs else None
        return self._told("".join(piece.text for piece in pieces), logprobs, ending.reason if ending else None)

    def template(self, head: dict[str, Any]) -> EventTemplate | None:
        """The event of a piece that is text and nothing else; None where each tells its log-probabilities."""
        if self._tells_logprobs:
            return None
        return EventTemplate(head | {"choices": [self._told(HOLE, None, None)]})

    def _told(self, text: str, logprobs: dict[str, Any] | None, reason: str | None) -> dict[str, Any]:
        return {"index": self._index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, pieces: list[Piece]) -> dict[str, Any]:
        vocabulary = self._generation.vocabulary
        told: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for piece in pieces:
            token = piece.token
            if token is not None and self._generation.is_told(token):
                told["tokens"].append(vocabulary.text_of(token.token_id))
                told["token_logprobs"].append(token.logprob)
                told["top_logprobs"].append(_top(vocabulary, token.top_logprobs))
                told["text_offset"].append(self._offset)
            self._offset += len(piece.text)
        return told


def _top(vocabulary: Vocabulary, pairs: tuple[tuple[int, float], ...]) -> dict[str, float]:
    return {vocabulary.text_of(token_id): logprob for token_id, logprob in reversed(pairs)}
