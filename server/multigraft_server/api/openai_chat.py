"""`POST /v1/chat/completions`, OpenAI's, whole or streamed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from multigraft_server.answers import Piece
from multigraft_server.api.context import PartsDep
from multigraft_server.api.openai_answers import Generation, new_head, respond, token_logprob
from multigraft_server.api.openai_schemas import ChatBody
from multigraft_server.api.sse import DONE, HOLE, EventTemplate, event
from multigraft_server.api.terms import AskingDep
from multigraft_server.calls import Call, Target
from multigraft_server.parts import Parts

router = APIRouter()


@router.post("/v1/chat/completions")
async def chat(body: ChatBody, request: Request, asking: AskingDep, parts: PartsDep) -> Response:
    """Continue a chat by a text-generation task or by the base, in the base's chat template.

    An answer that names no limit has as many tokens as the context leaves, at most the setting
    `default_chat_tokens`. A task's own prompt is the system message of a chat that has none.
    """
    call = await parts.router.open(body.model, body.terms(asking))
    return await respond(request, call, _submit(parts, call, body), stream=bool(body.stream))


async def _submit(parts: Parts, call: Call, body: ChatBody) -> _Reply:
    body.refuse_unsupported()
    parts.router.check_type(call.target, "text-generation", "chat")
    tokens = await parts.tokeniser.chat(_messages(call.target, body))
    default = parts.settings.default_chat_tokens
    limit = parts.router.answer_tokens(call.target, len(tokens.ids), body.limit, default, "messages")
    return _Reply(body, Generation(parts, call, body, [(tokens, body.sampling(limit, body.num_logprobs))]))


def _messages(target: Target, body: ChatBody) -> list[dict[str, str]]:
    messages = [message.for_template() for message in body.messages]
    prompt = target.version.manifest.prompt if target.version else None
    if prompt and all(message["role"] != "system" for message in messages):
        return [{"role": "system", "content": prompt}, *messages]
    return messages


class _Reply:
    """One chat's answer in OpenAI's shape."""

    def __init__(self, body: ChatBody, generation: Generation) -> None:
        self._body = body
        self._generation = generation

    async def whole(self) -> dict[str, Any]:
        """The answer as one object."""
        pieces = [piece async for _, piece in self._generation.pieces()]
        ending = pieces[-1].ending
        choice = {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "".join(piece.text for piece in pieces),
                "refusal": None,
            },
            "logprobs": self._logprobs(pieces),
            "finish_reason": ending.reason if ending else None,
        }
        head = new_head("chat.completion", "chatcmpl", self._body.model)
        return head | {"choices": [choice], "usage": self._generation.usage()}

    async def chunks(self, call: Call) -> AsyncGenerator[bytes]:
        """The answer as events; the first has the role, the last choice its finish reason."""
        head = new_head("chat.completion.chunk", "chatcmpl", self._body.model)
        if self._body.includes_usage:
            head["usage"] = None
        plain = EventTemplate(head | {"choices": [_choice({"content": HOLE}, None, None)]})
        role: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
        async with aclosing(self._generation.pieces()) as pieces:
            async for _, piece in pieces:
                if role:
                    yield event(head | {"choices": [_choice(role, None, None)]})
                    role = {}
                if piece.text and piece.ending is None and self._body.num_logprobs is None:
                    yield plain.event(piece.text)
                    continue
                for choice in self._choices(piece):
                    yield event(head | {"choices": [choice]})
        if self._body.includes_usage:
            yield event(head | {"choices": [], "usage": self._generation.usage()})
        call.complete()
        yield DONE

    def _choices(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """What a piece adds to the stream: its text, then its end; often only one of them."""
        logprobs = self._logprobs([piece])
        if piece.text or (logprobs and logprobs["content"]):
            yield _choice({"content": piece.text}, logprobs, None)
        if piece.ending is not None:
            yield _choice({}, None, piece.ending.reason)

    def _logprobs(self, pieces: list[Piece]) -> dict[str, Any] | None:
        if self._body.num_logprobs is None:
            return None
        vocabulary = self._generation.vocabulary
        content = [
            token_logprob(vocabulary, token.token_id, token.logprob)
            | {"top_logprobs": [token_logprob(vocabulary, *pair) for pair in token.top_logprobs]}
            for piece in pieces
            if (token := piece.token) is not None and self._generation.is_told(token)
        ]
        return {"content": content, "refusal": None}


def _choice(delta: dict[str, Any], logprobs: dict[str, Any] | None, reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
