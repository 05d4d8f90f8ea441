"""Hugging Face's inference payload: one task, one input for many tasks, many tasks with their own inputs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from multigraft_adapters.errors import InvalidRequestError, MultigraftError
from multigraft_server.answers import Answer
from multigraft_server.api.auth import without_other_names
from multigraft_server.api.context import STEP_ADAPTERS, PartsDep, answer_headers, whole_answer_headers
from multigraft_server.api.disconnect import unless_disconnected
from multigraft_server.api.problems import NOT_AN_OBJECT, error_body
from multigraft_server.api.schemas import IMAGE_AS_BODY, RAW, Entry, ManyBody, PredictBody, Predicted
from multigraft_server.api.sse import EventStream, event, open_stream
from multigraft_server.api.terms import Asking, AskingDep, TermsBody
from multigraft_server.calls import Call, Target
from multigraft_server.parts import Parts
from multigraft_server.predictions import Prepared, predictor_of
from multigraft_server.predictions.generation import GenerationRow, prepare_rows, stream_events

logger = logging.getLogger(__name__)

router = APIRouter()


@router.post("/v1/tasks/{ref:path}/predict", openapi_extra=IMAGE_AS_BODY)
async def predict(ref: str, sent: Predicted, request: Request, asking: AskingDep, parts: PartsDep) -> Response:
    """Answer one input, or a list of them, by one task; text generation may stream."""
    asks = sent if isinstance(sent, PredictBody) else TermsBody()
    call = await parts.router.open(ref, asks.terms(asking))
    with call.closed_on_error():
        body = sent if isinstance(sent, PredictBody) else _of_image(call.target, sent, request)
    if body.stream:
        return await _stream(parts, call, body, request)
    with call:
        output = await unless_disconnected(request.receive, _predict_one(parts, call, body))
        return JSONResponse(output, headers=whole_answer_headers(call))


@router.post("/v1/predict")
async def predict_many(body: ManyBody, request: Request, asking: AskingDep, parts: PartsDep) -> Response:
    """Answer one input by many tasks, or many predictions, in one go; each has its own output or error."""
    entries = body.entries()
    if len(entries) > parts.settings.max_entries:
        raise InvalidRequestError(
            f"{len(entries)} predictions were asked for, at most {parts.settings.max_entries} are taken",
            param="requests" if body.requests else "tasks",
        )
    outcomes = await predict_entries(parts, entries, asking, request)
    widest = max(one.step_adapters for one in outcomes)
    results = [one.result for one in outcomes]
    return JSONResponse({"results": results}, headers={STEP_ADAPTERS: str(widest)})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an entry: its line of `results`, the task type that answered (None: the base's, or no task
    did), the seconds from its arrival to its answer, and the most distinct adapters in a step that it was in."""

    result: dict[str, Any]
    task_type: str | None
    seconds: float
    step_adapters: int


async def predict_entries(
    parts: Parts, entries: Sequence[Entry], asking: Asking, request: Request
) -> list[Outcome]:
    """Every entry's outcome, in order; all are submitted at once. Raises RequestCancelledError when the caller of
    `request` has gone."""
    asked = [_Asked(entry, asking) for entry in entries]
    return await unless_disconnected(request.receive, _predict_all(parts.remembering(), asked))


def _of_image(target: Target, image: bytes, request: Request) -> PredictBody:
    """A body that is an image, as if it had come as JSON. Raises InvalidRequestError where none is taken."""
    if target.task_type != "image-classification":
        raise InvalidRequestError(NOT_AN_OBJECT)
    kind = request.headers.get("content-type", RAW).partition(";")[0].strip().lower()
    if kind != RAW and not kind.startswith("image/"):
        raise InvalidRequestError(
            f"a body is JSON or an image: {kind!r} is neither application/json nor image/... nor {RAW}",
            param="content-type",
        )
    return PredictBody(inputs=image)


async def _predict_one(parts: Parts, call: Call, body: PredictBody) -> Any:
    predictor = predictor_of(call.target)
    prepared = await predictor.prepare(parts, call, body.inputs, _parameters(call.target, body))
    with parts.engine.together():
        answers = prepared.submit(parts, call)
    return await prepared.read(answers)


def _parameters(target: Target, body: PredictBody) -> dict[str, Any]:
    """The parameters, wherever the body has them."""
    beside = body.model_extra or {}
    if beside and target.task_type != "feature-extraction":
        name = next(iter(beside))
        raise InvalidRequestError(f"there is no field {name!r}; parameters go into 'parameters'", param=name)
    given = body.parameters or {}
    twice = sorted(beside.keys() & given.keys())
    if twice:
        raise InvalidRequestError(f"{twice[0]!r} is given beside and inside 'parameters'", param=twice[0])
    return given | beside


async def _stream(parts: Parts, call: Call, body: PredictBody, request: Request) -> EventStream:
    with call.closed_on_error():
        if predictor_of(call.target) and call.target.task_type != "text-generation":
            raise InvalidRequestError(f"tasks of type {call.target.task_type} do not stream", param="stream")
        parameters = _parameters(call.target, body)
        rows, _ = await prepare_rows(parts, call, body.inputs, parameters, stream=True)
        answer = Answer(parts.engine, call, rows[0].tokens, rows[0].params)
        events = _events(parts, call, rows[0], answer)
    return await open_stream(request.receive, events, call, answer_headers(call))


async def _events(parts: Parts, call: Call, row: GenerationRow, answer: Answer) -> AsyncGenerator[bytes]:
    async with aclosing(stream_events(parts, row, answer)) as objects:
        async for one in objects:
            if one["details"] is not None:
                call.complete()
            yield event(one)


@dataclass(slots=True)
class _Asked:
    """One entry on its way: asked, prepared, submitted, answered, or failed at any of these."""

    entry: Entry
    asking: Asking
    call: Call | None = None
    prepared: Prepared | None = None
    answers: Sequence[Answer] = field(default=())
    error: Exception | None = None

    async def prepare(self, parts: Parts, calls: ExitStack) -> None:
        """Route, check and tokenise."""
        try:
            terms = self.entry.terms(self.asking)
            self.call = calls.enter_context(await parts.router.open(self.entry.task, terms))
            predictor = predictor_of(self.call.target)
            parameters = self.entry.parameters or {}
            self.prepared = await predictor.prepare(parts, self.call, self.entry.inputs, parameters)
        except Exception as error:
            self._fail(error)

    def submit(self, parts: Parts) -> None:
        """Hand the rows to the engine."""
        if self.call is None or self.prepared is None:
            return
        try:
            self.answers = self.prepared.submit(parts, self.call)
        except Exception as error:
            self._fail(error)

    async def outcome(self) -> Outcome:
        """What became of it."""
        began = self.call.arrival if self.call else time.monotonic()
        result = await self._result()
        seconds = time.monotonic() - began
        return Outcome(
            result,
            self.call.target.task_type if self.call else None,
            seconds,
            self.call.step_adapters if self.call else 1,
        )

    async def _result(self) -> dict[str, Any]:
        if self.error is None and self.call is not None and self.prepared is not None:
            try:
                output = await self.prepared.read(self.answers)
                self.call.close()
                return _result(self.call.target, output)
            except Exception as error:
                self._fail(error)
        assert self.error is not None  # what has no output has failed
        return {"task": self.entry.task, **error_body(self.error)}

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, MultigraftError):
            logger.error("a prediction failed", exc_info=error)
        self.error = without_other_names(error, self.asking.caller)
        if self.call is not None:
            self.call.close(error)


async def _predict_all(parts: Parts, asked: Sequence[_Asked]) -> list[Outcome]:
    """Submits all entries at once, so that one step of the engine can compute them together."""
    with ExitStack() as calls:
        await asyncio.gather(*(one.prepare(parts, calls) for one in asked))
        with parts.engine.together():
            for one in asked:
                one.submit(parts)
        return list(await asyncio.gather(*(one.outcome() for one in asked)))


def _result(target: Target, output: Any) -> dict[str, Any]:
    version = target.version.number if target.version else None
    return {"task": target.task, "version": version, "adapter": target.digest, "output": output}
