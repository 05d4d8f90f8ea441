"""One input to several tasks or versions, side by side."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from multigraft_adapters.errors import InvalidRequestError, MultigraftError
from multigraft_adapters.registry import PRODUCTION
from multigraft_server.api import embeddings, openai_chat
from multigraft_server.api.openai_schemas import ChatBody, EmbeddingBody
from multigraft_server.api.predict import Outcome, predict_entries
from multigraft_server.api.schemas import Entry
from multigraft_server.api.terms import Asking
from multigraft_server.calls import Target
from multigraft_server.console.outputs import Question, Shown, inputs_of, shown_of, vector_of
from multigraft_server.console.view import View, ViewDep

MAX_COLUMNS = 8
MAX_CHARS = 8_000
"""Of an input, which is a part of the page's address."""
USUAL_TOKENS = 128
SLOTS = 4
"""Fields for references on a page that asks fewer."""

router = APIRouter(prefix="/console")


@dataclass(frozen=True, slots=True)
class Column:
    """What one reference answered, or why not. A `chat` is filled by the browser, or whole where it has no
    scripts."""

    ref: str
    target: Target | None = None
    problem: str = ""
    shown: Shown | None = None
    is_chat: bool = False
    is_embedding_base: bool = False
    seconds: float | None = None
    version: int | None = None
    digest: str = ""
    step_adapters: int = 0


@router.get("/playground")
async def play(
    view: ViewDep,
    ref: Annotated[list[str] | None, Query()] = None,
    text: Annotated[str, Query(max_length=MAX_CHARS)] = "",
    second: Annotated[str, Query(max_length=MAX_CHARS)] = "",
    tokens: Annotated[int, Query(ge=1, le=4096)] = USUAL_TOKENS,
    whole: bool = False,
) -> Response:
    """The form and, where the address says what is asked, every answer."""
    refs = asked_ones(ref or ())
    columns: list[Column] = []
    if refs and text.strip():
        with _as_work(view):
            columns = await ask_all(view, refs, Question(text, second.strip()), tokens if whole else None)
    address = view.request.url.include_query_params(whole="true").query
    return await filled(view, refs, columns, text=text, second=second, tokens=tokens, whole_address=address)


def asked_ones(given: Iterable[str]) -> list[str]:
    """The references of a form, each once. Raises InvalidRequestError for more than fit side by side."""
    refs = list(dict.fromkeys(one.strip() for one in given if one.strip()))
    if len(refs) > MAX_COLUMNS:
        raise InvalidRequestError(f"at most {MAX_COLUMNS} are asked side by side", param="ref")
    return refs


async def filled(
    view: View,
    refs: Sequence[str],
    columns: Sequence[Column],
    *,
    text: str = "",
    second: str = "",
    picture: str = "",
    tokens: int = USUAL_TOKENS,
    whole_address: str = "",
) -> Response:
    """The page with its form filled in as it was asked, and the columns. `picture` is a data URL."""
    return view.page(
        "playground.html",
        at="playground",
        columns=columns,
        fields=[*refs, *[""] * max(1, SLOTS - len(refs))][:MAX_COLUMNS],
        known=await asyncio.to_thread(_references, view),
        text=text,
        second=second,
        picture=picture,
        tokens=tokens,
        whole_address=whole_address,
    )


@router.post("/playground/chat")
async def chat(body: ChatBody, view: ViewDep) -> Response:
    """The API's chat completions, for the page's scripts: whole or streamed."""
    return await openai_chat.chat(body, view.request, _asking(view), view.parts)


@contextmanager
def _as_work(view: View) -> Iterator[None]:
    """A page that asks is work, as a request to the API is, though it is a GET: it counts against the key's
    limits, and a server that ends takes none. Raises QuotaError, DrainingError."""
    limits = view.caller.limits
    with view.parts.drain.working(), limits.admitted() if limits else nullcontext():
        yield


def _asking(view: View) -> Asking:
    return Asking(None, None, view.caller)


async def ask_all(view: View, refs: Sequence[str], asked: Question, tokens: int | None = None) -> list[Column]:
    """A column for each reference. All that is no chat is asked at once, so that one step may compute it; chats
    are answered here when `tokens` says how long they may be, else by the browser."""
    columns = list(await asyncio.gather(*(asyncio.to_thread(_column, view, ref) for ref in refs)))
    entries: dict[int, Entry] = {}
    for place, column in enumerate(columns):
        if column.target is None or column.is_chat or column.is_embedding_base:
            continue
        try:
            inputs, parameters = inputs_of(column.target, asked)
        except InvalidRequestError as error:
            columns[place] = replace(column, problem=error.message)
            continue
        entries[place] = Entry(task=column.ref, inputs=inputs, parameters=parameters)
    outcomes = await predict_entries(view.parts, list(entries.values()), _asking(view), view.request)
    for place, outcome in zip(entries, outcomes, strict=True):
        columns[place] = _answered(columns[place], asked.text, outcome)
    for place, column in enumerate(columns):
        if column.is_embedding_base:
            columns[place] = await _embedded(view, column, asked)
        elif column.is_chat and tokens is not None:
            columns[place] = await _whole(view, column, asked.text, tokens)
    return columns


def _column(view: View, ref: str) -> Column:
    """The column of a reference before it is asked."""
    try:
        target = view.parts.router.resolve(ref, view.caller)
    except MultigraftError as error:
        return Column(ref, problem=view.told(error))
    is_base, spec = target.version is None and view.parts.spec.image is None, view.parts.spec
    return Column(
        ref,
        target,
        is_chat=target.task_type == "text-generation" or (is_base and spec.family == "decoder"),
        is_embedding_base=is_base and spec.family != "decoder",
        version=target.number if target.version else None,
        digest=target.digest,
    )


def _answered(column: Column, text: str, outcome: Outcome) -> Column:
    assert column.target is not None  # or it had not been asked
    result = outcome.result
    if "error" in result:
        return replace(column, problem=result["error"]["message"])
    return replace(
        column,
        shown=shown_of(column.target, text, result["output"]),
        seconds=outcome.seconds,
        version=result["version"],
        digest=result["adapter"],
        step_adapters=outcome.step_adapters,
    )


def _whole(view: View, column: Column, text: str, tokens: int) -> Awaitable[Column]:
    """The column of a chat, answered whole."""
    messages = [{"role": "user", "content": text}]
    asked = {"model": column.ref, "messages": messages, "max_tokens": tokens, "temperature": 0}
    answer = openai_chat.chat(ChatBody.model_validate(asked), view.request, _asking(view), view.parts)
    return _by_the_api(view, column, answer, lambda said: Shown(text=said["choices"][0]["message"]["content"]))


def _embedded(view: View, column: Column, asked: Question) -> Awaitable[Column]:
    """The column of a base that embeds."""
    texts = [asked.text, asked.second] if asked.second else [asked.text]
    body = EmbeddingBody(model=column.ref, input=texts)
    answer = embeddings.embed(body, view.request, _asking(view), view.parts)
    return _by_the_api(
        view, column, answer, lambda said: Shown(vector=vector_of([one["embedding"] for one in said["data"]]))
    )


async def _by_the_api(
    view: View, column: Column, answer: Awaitable[Response], show: Callable[[Any], Shown]
) -> Column:
    """The column with what a route of the API answers."""
    began = time.monotonic()
    try:
        response = await answer
    except MultigraftError as error:
        return replace(column, problem=view.told(error))
    number = response.headers["x-multigraft-version"]
    return replace(
        column,
        shown=show(json.loads(bytes(response.body))),
        seconds=time.monotonic() - began,
        version=int(number) if number.isdigit() else None,
        digest=response.headers["x-multigraft-adapter"],
    )


def _references(view: View) -> list[tuple[str, str]]:
    """What may be asked, with its task type: tasks by name, by alias and by version, and the base."""
    caller, spec = view.caller, view.parts.spec
    found = [(spec.name, "the base")] if spec.image is None and caller.may_infer_base(spec.name) else []
    for task in view.parts.registry.tasks():
        if not caller.may_infer(task.name):
            continue
        types = {version.number: version.task_type for version in task.versions if version.retired_at is None}
        for alias in task.aliases:
            name = task.name if alias.name == PRODUCTION else f"{task.name}@{alias.name}"
            found.append((name, types.get(alias.version, "")))
        found += [(f"{task.name}@{number}", types[number]) for number in sorted(types, reverse=True)]
    return found
