"""Reading answers: the events of a stream with their times, and whole answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from multigraft_loadtest.records import Record

Clock = Callable[[], float]


async def read_stream(parts: AsyncIterator[bytes], record: Record, clock: Clock) -> None:
    """Read server-sent events into the record: OpenAI's, or text-generation-inference's as LoRAX sends them."""
    rest, is_complete = b"", False
    async for part in parts:
        now = clock()
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                is_complete = _take(line[5:].strip(), record, now) or is_complete
    if record.code == "error event":
        return
    if is_complete:
        record.tokens = record.tokens or len(record.events_s)
        record.fate, record.code = "right", "200"
    else:
        record.code, record.problem = "broken off", "the stream ended before its last event"


async def read_whole(parts: AsyncIterator[bytes]) -> bytes:
    """A body that is not streamed."""
    return b"".join([part async for part in parts])


def read_outputs(body: bytes, record: Record) -> None:
    """A classification's or an embedding's answer: one output for each text."""
    try:
        answer = json.loads(body)
    except ValueError:
        record.fate, record.code, record.problem = "wrong", "no JSON", f"the answer is no JSON: {body[:80]!r}"
        return
    outputs = answer.get("data") if isinstance(answer, dict) else answer
    asked = len(record.request.texts)
    if isinstance(outputs, list) and len(outputs) == asked and all(outputs):
        record.fate, record.code, record.outputs = "right", "200", outputs
        usage = answer.get("usage", {}) if isinstance(answer, dict) else {}
        record.prompt_tokens = usage.get("prompt_tokens", 0)
    else:
        record.fate, record.code = "wrong", "outputs"
        record.problem = f"{asked} texts were answered by {str(outputs)[:80]}"


def error_text(body: bytes) -> str:
    """What an answer with an error's status says, in at most 200 characters."""
    try:
        error = json.loads(body)["error"]
        text = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError):
        text = body.decode("utf-8", "replace")
    return str(text)[:200]


def _take(data: bytes, record: Record, now: float) -> bool:
    """Take one event's data; whether it was the stream's last."""
    if data == b"[DONE]":
        return True
    try:
        event = json.loads(data)
    except ValueError:
        return _broken(record, f"an event is no JSON: {data[:80]!r}")
    if "error" in event:
        return _broken(record, str(event["error"])[:200])
    return _take_token(event, record, now) if "token" in event else _take_choice(event, record, now)


def _take_choice(event: dict[str, Any], record: Record, now: float) -> bool:
    choices = event.get("choices") or [{}]
    if text := choices[0].get("text") or (choices[0].get("delta") or {}).get("content"):
        record.events_s.append(now)
        record.outputs.append(text)
    if usage := event.get("usage"):
        record.tokens, record.prompt_tokens = usage["completion_tokens"], usage["prompt_tokens"]
    return False


def _take_token(event: dict[str, Any], record: Record, now: float) -> bool:
    record.events_s.append(now)
    if details := event.get("details"):
        record.tokens, record.prompt_tokens = details["generated_tokens"], details.get("prompt_tokens", 0)
    return event.get("generated_text") is not None


def _broken(record: Record, problem: str) -> bool:
    record.fate, record.code, record.problem = "failed", "error event", problem
    return False
