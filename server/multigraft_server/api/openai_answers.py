"""What chat and text completions share: rows in the engine, and the pieces of their answers as they come."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from fastapi import Request
from starlette.responses import JSONResponse, Response

from multigraft_server.answers import Answer, Piece, read_text
from multigraft_server.api.context import answer_headers, whole_answer_headers
from multigraft_server.api.disconnect import unless_disconnected
from multigraft_server.api.openai_schemas import SamplingBody
from multigraft_server.api.sse import open_stream
from multigraft_server.calls import Call
from multigraft_server.detokenise import Vocabulary
from multigraft_server.engine.requests import SamplingParams, Token
from multigraft_server.parts import Parts
from multigraft_server.tokenising import Tokens


class Reply(Protocol):
    """An answer in OpenAI's shape, to be told whole or piece by piece."""

    async def whole(self) -> dict[str, Any]: ...

    def chunks(self, call: Call) -> AsyncGenerator[bytes]: ...


async def respond(request: Request, call: Call, submitted: Awaitable[Reply], *, stream: bool) -> Response:
    """What a handler answers; the call is closed at its end, whichever way it ends."""
    with call.closed_on_error():
        reply = await submitted
        if stream:
            return await open_stream(request.receive, reply.chunks(call), call, answer_headers(call))
        answer = await unless_disconnected(request.receive, reply.whole())
    call.close()
    return JSONResponse(answer, headers=whole_answer_headers(call))


class Generation:
    """The answers to a request's prompts: one row in the engine each. `num_generated` counts their tokens."""

    def __init__(
        self, parts: Parts, call: Call, body: SamplingBody, rows: Sequence[tuple[Tokens, SamplingParams]]
    ) -> None:
        """Submits every row; raises what the engine raises."""
        self.vocabulary = parts.vocabulary
        self.ignores_eos = body.ignore_eos
        self.num_prompt = sum(len(tokens.ids) for tokens, _ in rows)
        self.num_generated = 0
        self._stops = body.stops
        with parts.engine.together():
            self._answers = [Answer(parts.engine, call, tokens, params) for tokens, params in rows]

    def __len__(self) -> int:
        return len(self._answers)

    async def pieces(self) -> AsyncGenerator[tuple[int, Piece]]:
        """Each piece with its prompt's index, in the order in which they come."""
        async with aclosing(self._text(0) if len(self) == 1 else self._texts()) as texts:
            async for index, piece in texts:
                self.num_generated += piece.token is not None
                yield index, piece

    async def _text(self, index: int) -> AsyncGenerator[tuple[int, Piece]]:
        detokeniser = self.vocabulary.detokeniser(self._stops, ignore_eos=self.ignores_eos)
        async with aclosing(read_text(self._answers[index], detokeniser)) as pieces:
            async for piece in pieces:
                yield index, piece

    async def _texts(self) -> AsyncGenerator[tuple[int, Piece]]:
        """Those of all prompts, each read by a task of its own."""
        arrived: asyncio.Queue[tuple[int, Piece | Exception]] = asyncio.Queue()
        readers = [asyncio.create_task(self._read(index, arrived)) for index in range(len(self))]
        try:
            open_answers = len(readers)
            while open_answers:
                index, piece = await arrived.get()
                if isinstance(piece, Exception):
                    raise piece
                open_answers -= piece.ending is not None
                yield index, piece
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    def usage(self) -> dict[str, Any]:
        """OpenAI's `usage`: all tokens, the one that ended an answer included."""
        cached = sum(answer.num_cached_tokens for answer in self._answers)
        return {
            "prompt_tokens": self.num_prompt,
            "completion_tokens": self.num_generated,
            "total_tokens": self.num_prompt + self.num_generated,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

    def is_told(self, token: Token | None) -> bool:
        """Whether log-probabilities tell of the token: not of the one that ended the text."""
        return token is not None and (self.ignores_eos or token.token_id not in self.vocabulary.eos_ids)

    async def _read(self, index: int, arrived: asyncio.Queue[tuple[int, Piece | Exception]]) -> None:
        try:
            async for found in self._text(index):
                arrived.put_nowait(found)
        except Exception as error:
            arrived.put_nowait((index, error))


def new_head(kind: str, prefix: str, model: str) -> dict[str, Any]:
    """The fields that begin an answer and each of its chunks."""
    return {
        "id": f"{prefix}-{random.getrandbits(128):032x}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": None,
    }


def token_logprob(vocabulary: Vocabulary, token_id: int, logprob: float | None) -> dict[str, Any]:
    """One token with its log-probability, as chat completions tell it."""
    text = vocabulary.text_of(token_id)
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
