"""One bearer key for every route but the health checks."""

from __future__ import annotations

import hashlib
import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from multigraft_adapters.errors import AuthenticationError

OPEN_PATHS = frozenset({"/health/live", "/health/ready"})


class RequireKey:
    """Lets a request through when it has the key, or when it asks for an open path; without a key, all of them.

    Denies by default: the path is the one that the router sees (`scope["path"]`), never one built from the
    `Host` header. Raises AuthenticationError.
    """

    def __init__(self, app: ASGIApp, api_key: str | None) -> None:
        self._app = app
        self._expected = _digest(api_key) if api_key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" and self._expected and scope["path"] not in OPEN_PATHS:
            self._check(Headers(scope=scope).get("authorization", ""), self._expected)
        await self._app(scope, receive, send)

    def _check(self, header: str, expected: bytes) -> None:
        scheme, _, key = header.partition(" ")
        # Both digests have one length, so the comparison takes the same time for every key.
        if scheme.lower() != "bearer" or not hmac.compare_digest(_digest(key.strip()), expected):
            raise AuthenticationError(
                "a valid key is needed: send the header 'Authorization: Bearer <key>'", param="authorization"
            )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
