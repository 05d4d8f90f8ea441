"""The socket that a server listens on. It imports nothing heavy, so that a wrong address is told at once."""

from __future__ import annotations

import socket

from multigraft_adapters.errors import BindError

SEND_BYTES = 256 * 1024
"""What the system keeps of an answer that its client does not read; the system's own bound is 16 times as much."""


def bind(host: str, port: int) -> socket.socket:
    """A socket on the address, not listening yet; raises BindError in one sentence.

    It is taken before the base is loaded, so that a port in use is known at once.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, proto)
    except OSError as error:
        raise BindError(f"the address {host} is not one of this machine: {error.strerror}") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)  # its connections inherit it
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise BindError(f"cannot listen on {host} port {port}: {error.strerror}") from None
    return bound


def url_of(bound: socket.socket) -> str:
    """The socket's address as a URL."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
