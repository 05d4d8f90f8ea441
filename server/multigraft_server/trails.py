"""What a request leaves behind: noted while it is answered, told once after its last byte.

Nothing here runs on a step's path, and nothing of what callers send is noted but ids and names that exist.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from multigraft_server.access.callers import ANYONE, Caller
from multigraft_server.calls import Call

TRAIL: ContextVar[Trail | None] = ContextVar("trail", default=None)
"""Of the request that is being answered, where anybody wants to be told of it."""


@dataclass(slots=True, eq=False)
class Trail:
    """One request from its first byte to its last. `began` and `ended` are seconds of `time.monotonic`,
    `began_ns` is nanoseconds since 1970; `status` is 0 while no answer has begun."""

    request_id: str
    method: str
    began: float = field(default_factory=time.monotonic)
    began_ns: int = field(default_factory=time.time_ns)
    ended: float = 0.0
    route: str | None = None
    task: str | None = None
    status: int = 0
    error: str | None = None
    caller: Caller = ANYONE
    calls: list[Call] = field(default_factory=list)
    span: Any = None
    """The request's own, where it is traced."""

    def end(self, scope: Mapping[str, Any]) -> None:
        """The last byte has left, or never will."""
        self.ended = time.monotonic()
        self.route = getattr(scope.get("route"), "path", None)
        self.task = scope.get("path_params", {}).get("task")
        self.caller = scope["state"].get("caller", ANYONE)

    def at_ns(self, moment: float) -> int:
        """A moment of `time.monotonic` in nanoseconds since 1970."""
        return self.began_ns + int((moment - self.began) * 1e9)

    def told(self) -> dict[str, Any]:
        """What a line of the log says of it; times in seconds."""
        told: dict[str, Any] = {
            "request_id": self.request_id,
            "method": self.method,
            "route": self.route,
            "status": self.status,
            "error": self.error,
            "key": self.caller.key_id,
            "tenant": self.caller.tenant,
            "seconds": _rounded(self.ended - self.began),
        }
        if len(self.calls) == 1:
            return told | _of_call(self.calls[0])
        if self.calls:
            return told | {"predictions": [_of_call(call) for call in self.calls]}
        return told if self.task is None else told | {"task": self.task}


def note_call(call: Call) -> None:
    """A prediction of the request that is being answered was routed."""
    trail = TRAIL.get()
    if trail is not None:
        trail.calls.append(call)


def note_error(code: str) -> None:
    """The request that is being answered ends with this error."""
    trail = TRAIL.get()
    if trail is not None:
        trail.error = code


def _of_call(call: Call) -> dict[str, Any]:
    target = call.target
    first_run = min([timing.started for timing in call.timings], default=call.first_token)  # of rows at their end
    return {
        "task": target.task,
        "version": target.number or None,
        "digest": target.digest,
        "outcome": call.outcome,
        "prompt_tokens": call.prompt_tokens,
        "generated_tokens": call.generated_tokens,
        "queue_seconds": _since(call.arrival, first_run),
        "first_token_seconds": _since(call.arrival, call.first_token),
        "prediction_seconds": _since(call.arrival, call.ended),
    }


def _since(begin: float, end: float | None) -> float | None:
    return None if end is None else _rounded(max(0.0, end - begin))


def _rounded(seconds: float) -> float:
    return round(seconds, 6)
