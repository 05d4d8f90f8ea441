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
    """The names under which a server answers, and the pages from which it may be asked.

    Where nobody needs a key the address is all that protects a server. A page can have its own name lead to that
    address (DNS rebinding): its scripts then count as the server's own. And forms and uploads of any page are sent
    without anybody's consent. So such a server answers to addresses, `localhost` and `trusted` alone, and to its
    own pages and those of this machine and of `trusted`. One with keys answers to every name, unless it has a
    list, and to every page: a browser does not know a key.
    """

    def __init__(self, keyring: Keyring, trusted: Sequence[str] | None) -> None:
        self._keyring = keyring
        self._trusted = None if trusted is None else frozenset(name.lower() for name in trusted)

    def has(self, name: str) -> bool:
        """Whether `name`, of a `Host`, is one of them. Browsers always send one; who sends none is none."""
        if self._trusted is None and not self._keyring.is_open:
            return True
        return name == "" or address_of(name) is not None or is_local(name) or name in (self._trusted or ())

    def lets_ask(self, origin: str, host: str) -> bool:
        """Whether pages of `origin`, as a browser tells it, may ask what they reach as `host`."""
        place = origin.partition("://")[2]
        name = name_of(place)
        is_own = place != "" and place == host
        return not self._keyring.is_open or is_own or is_local(name) or name in (self._trusted or ())


class KnownHosts:
    """Refuses a request whose `Host` is no name of this server, and one from a page that may not ask. Raises
    InvalidRequestError."""

    def __init__(self, app: ASGIApp, names: Names) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            host, origin = headers.get("host", ""), headers.get("origin")
            if not self._names.has(name_of(host)):
                raise _refused("host", host)
            if origin is not None and not self._names.lets_ask(origin, host):
                raise _refused("origin", origin)
        await self._app(scope, receive, send)


def _refused(param: str, given: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"this server does not answer to the {param} {given[:80]!r}: ask for it by its address, or have its "
        "operator add the name to the setting trusted_hosts",
        param=param,
    )


def name_of(host: str) -> str:
    """The name or address in a `Host` header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].rstrip(".").lower()


@lru_cache(1024)
def address_of(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a name is; None where it is none."""
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def is_local(name: str) -> bool:
    """Whether it is this machine's, whoever asks."""
    address = address_of(name)
    return name == "localhost" or name.endswith(".localhost") or (address is not None and address.is_loopback)
