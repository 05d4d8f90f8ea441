"""The log as JSON: how a record becomes a line, of the server's log and of a worker's.

An error tells its kind and where it was raised, and its sentence only where that cannot quote what a caller sent.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from multigraft_adapters.errors import MultigraftError

TEXT_FORMAT = "%(levelname)s %(name)s: %(message)s"
"""Of a log that is text."""
_TELLING = (MultigraftError, OSError, RuntimeError, MemoryError)
"""Errors whose sentences are about files, memory and shapes; those of values and keys quote them."""
_ENCODER = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), default=str)
"""One for all lines: `json.dumps` would make one for each."""


class JsonFormatter(logging.Formatter):
    """A record as a line; what `extra={"told": {...}}` gave are fields of it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        return line_of(record, getattr(record, "told", {}))


def line_of(record: logging.LogRecord, told: Mapping[str, Any]) -> str:
    """The line of a record with these fields of its own."""
    event = {
        "time": _time(record.created),
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": record.getMessage(),
        **told,
    }
    if record.exc_info and record.exc_info[1] is not None:
        event["exception"] = _exception(record.exc_info[1])
    return _ENCODER.encode(event)


def _exception(error: BaseException) -> dict[str, Any]:
    kind = type(error)
    frames = traceback.extract_tb(error.__traceback__)
    told: dict[str, Any] = {
        "type": f"{kind.__module__}.{kind.__qualname__}",
        "message": str(error) if isinstance(error, _TELLING) else None,
        "stack": [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames],
    }
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return told if cause is None else told | {"cause": _exception(cause)}


def _time(seconds: float) -> str:
    whole, milliseconds = divmod(round(seconds * 1_000_000) // 1000, 1000)
    return f"{_second(whole)}.{milliseconds:03}Z"


@lru_cache(maxsize=2)
def _second(whole: int) -> str:
    """Most lines are of the second of the line before."""
    return datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")
