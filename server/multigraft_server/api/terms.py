"""What a caller may ask of the scheduling: a priority and a salt in the body, a deadline in a header."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header
from pydantic import BaseModel, Field

from multigraft_server.calls import Terms

Priority = Annotated[int, Field(ge=-(2**31), lt=2**31)]
CacheSalt = Annotated[str, Field(min_length=1, max_length=256)]


async def _timeout(
    x_request_timeout: Annotated[
        float | None,
        Header(gt=0, allow_inf_nan=False, description="seconds that the answer is worth computing for"),
    ] = None,
) -> float | None:
    return x_request_timeout


TimeoutDep = Annotated[float | None, Depends(_timeout)]
"""The seconds in the header `x-request-timeout`."""


class TermsBody(BaseModel):
    """The fields of a body that are about its scheduling, vLLM's. Lower priorities go first; only requests of one
    `cache_salt` share cached prefixes, so that nobody else can find out what a prompt begins with."""

    priority: Priority = 0
    cache_salt: CacheSalt | None = None

    def terms(self, timeout_seconds: float | None) -> Terms:
        """All that was asked for."""
        return Terms(self.priority, timeout_seconds, self.cache_salt or "")
