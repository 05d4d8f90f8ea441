"""Under which names a server answers, so that no page of the web can reach it through a browser."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from multigraft_adapters.errors import InvalidRequestError
from multigraft_server.access.keyring import Keyring


class Names:
    """The names under which a server answers.

    Where nobody needs a key the address is all that protects a server, and a page can have its own name lead to
    that address (DNS rebinding): its scripts then count as the server's own. So such a server answers to
    addresses, `localhost` and `trusted` alone. One with keys answers to every name, unless it has a list.
    """

    def __init__(self, keyring: Keyring, trusted: Sequence[str] | None) -> None:
        self._keyring = keyring
        self._trusted = None if trusted is None else frozenset(name.lower() for name in trusted)

    def has(self, name: str) -> bool:
        """Whether a name that `name_of` told is one of them."""
        is_bound = self._trusted is not None or self._keyring.is_open
        return not is_bound or is_own(name) or name in (self._trusted or ())


class KnownHosts:
    """Refuses a request whose `Host` is no name of this server. Raises InvalidRequestError."""

    def __init__(self, app: ASGIApp, names: Names) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            name = name_of(Headers(scope=scope).get("host", ""))
            if not self._names.has(name):
                raise InvalidRequestError(
                    f"this server does not answer to the name {name[:80]!r}: ask for it by its address, or have "
                    "its operator add the name to the setting trusted_hosts",
                    param="host",
                )
        await self._app(scope, receive, send)


def name_of(host: str) -> str:
    """The name or address in a `Host` header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].rstrip(".").lower()


@lru_cache(1024)
def is_own(name: str) -> bool:
    """Whether no name server was asked for it: an address, or this machine's own name for itself. Browsers always
    send one; who sends none is none."""
    if name in ("", "localhost") or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
