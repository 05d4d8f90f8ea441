"""Closed-loop streams over HTTP: so many clients, each waiting for its answer before it asks again."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx


@dataclass(frozen=True, slots=True)
class StreamResult:
    """One streamed completion: its tokens, seconds to the first, seconds in all, and the adapter that answered."""

    tokens: int
    first_s: float
    total_s: float
    adapter: str


@dataclass(frozen=True, slots=True)
class StreamReport:
    """What a run of streams gave. Rates are output tokens per second over the whole run."""

    tokens_per_s: float
    first_p50_s: float
    total_p50_s: float
    results: tuple[StreamResult, ...]


def run_streams(
    url: str, models: Sequence[str], prompts: Sequence[str], *, clients: int, max_tokens: int
) -> StreamReport:
    """Send every prompt as a streamed, greedy completion; prompt i goes to model i modulo their number."""
    return asyncio.run(_run(url, models, prompts, clients, max_tokens))


async def _run(
    url: str, models: Sequence[str], prompts: Sequence[str], clients: int, max_tokens: int
) -> StreamReport:
    waiting = list(enumerate(prompts))[::-1]
    results: list[StreamResult] = []

    async def client(session: httpx.AsyncClient) -> None:
        while waiting:
            index, prompt = waiting.pop()
            results.append(await _stream(session, models[index % len(models)], prompt, max_tokens))

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as session:
        started = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(clients)))
        elapsed = time.perf_counter() - started
    return StreamReport(
        tokens_per_s=sum(result.tokens for result in results) / elapsed,
        first_p50_s=statistics.median(result.first_s for result in results),
        total_p50_s=statistics.median(result.total_s for result in results),
        results=tuple(results),
    )


async def _stream(session: httpx.AsyncClient, model: str, prompt: str, max_tokens: int) -> StreamResult:
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    started, first_s, tokens = time.perf_counter(), 0.0, 0
    async with session.stream("POST", "/v1/completions", json=body) as response:
        if response.status_code != 200:
            raise RuntimeError(f"{model}: {response.status_code} {(await response.aread()).decode()}")
        async for line in response.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            first_s = first_s or time.perf_counter() - started
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise RuntimeError(f"{model}: {event['error']}")
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
        adapter = response.headers["x-multigraft-adapter"]
    return StreamResult(tokens, first_s, time.perf_counter() - started, adapter)
