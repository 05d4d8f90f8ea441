"""What a caller may ask of routing and scheduling: a priority and a salt in the body, the rest in headers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header
from pydantic import BaseModel, Field

from multigraft_server.access.callers import Caller
from multigraft_server.api.auth import CallerDep
from multigraft_server.calls import Terms

MAX_KEY_CHARS = 256
Priority = Annotated[int, Field(ge=-(2**31), lt=2**31)]
CacheSalt = Annotated[str, Field(min_length=1, max_length=256)]


@dataclass(frozen=True, slots=True)
class Asking:
    """How long the answer is worth computing, the key that a split sticks to, and who asks: what headers say."""

    timeout_seconds: float | None
    sticky: str | None
    caller: Caller


async def _asking(
    caller: CallerDep,
    x_request_timeout: Annotated[
        float | None,
        Header(gt=0, allow_inf_nan=False, description="seconds that the answer is worth computing for"),
    ] = None,
    x_multigraft_sticky: Annotated[
        str | None,
        Header(max_length=MAX_KEY_CHARS, description="requests with one key get one version of a split alias"),
    ] = None,
) -> Asking:
    return Asking(x_request_timeout, x_multigraft_sticky, caller)


AskingDep = Annotated[Asking, Depends(_asking)]
"""What the headers `x-request-timeout` and `x-multigraft-sticky` say."""


class TermsBody(BaseModel):
    """The fields of a body that are about its scheduling, vLLM's. Lower priorities go first; only requests of one
    `cache_salt` share cached prefixes, so that nobody else can find out what a prompt begins with."""

    priority: Priority = 0
    cache_salt: CacheSalt | None = None

    def terms(self, asking: Asking) -> Terms:
        """All that was asked for."""
        caller = asking.caller
        salt = caller.salted(self.cache_salt or "")
        return Terms(self.priority, asking.timeout_seconds, salt, asking.sticky or None, caller)
