"""What became of each request. Times are seconds since the start of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from multigraft_loadtest.workload import Request

Fate = Literal["right", "wrong", "failed", "lost"]
"""An answer that is not what was asked for, or by another adapter, is wrong. One with an error's status, or in
which an error came, failed. One that never came, or broke off, is lost."""


@dataclass(slots=True)
class Record:
    """One request and its answer.

    `intended_s` is when it was meant to be sent: in an open loop its arrival, however late it was sent, so that no
    waiting is omitted; in a closed loop the moment at which its client was free. `events_s` are the times at which
    pieces of a stream came. `code` is the status, or a word for what went wrong.
    """

    request: Request
    intended_s: float
    sent_s: float = 0.0
    ended_s: float = 0.0
    events_s: list[float] = field(default_factory=list)
    tokens: int = 0
    prompt_tokens: int = 0
    fate: Fate = "lost"
    code: str = ""
    problem: str = ""
    adapter: str | None = None
    version: str | None = None
    headed_s: float = 0.0
    """When the answer's head came: by then the version was chosen."""
    outputs: list[Any] = field(default_factory=list)
    """A whole answer's outputs, or a stream's pieces of text, if the client keeps them."""

    @property
    def total_s(self) -> float:
        """End to end."""
        return self.ended_s - self.intended_s

    @property
    def first_s(self) -> float | None:
        """Time to the first token of a stream."""
        return self.events_s[0] - self.intended_s if self.events_s else None

    @property
    def per_token_s(self) -> float | None:
        """Mean time per token after the first, (end to end - first) / (tokens - 1); None of fewer than two."""
        if self.tokens < 2 or not self.events_s:
            return None
        return (self.ended_s - self.events_s[0]) / (self.tokens - 1)

    @property
    def texts(self) -> int:
        """How many texts a classification, or an embedding, answered."""
        return len(self.request.texts) if self.request.kind != "generation" else 0


@dataclass(frozen=True, slots=True)
class Run:
    """All records of a run, and the seconds from its start to its last answer."""

    records: Sequence[Record]
    elapsed_s: float
    lag_s: float = 0.0
    """How late a request of an open loop was sent at most, for want of a free processor."""
