"""Who uses the console without a browser: a client that logs in and sends its forms."""

from __future__ import annotations

import re
from typing import Any

import httpx

from tests.server.running import Served

OWN = "the-server-s-own-key"


def visitor(served: Served) -> httpx.Client:
    """Someone with cookies of their own."""
    return httpx.Client(base_url=served.url, timeout=60)


def csrf(http: httpx.Client, path: str = "/console/login") -> str:
    """The token of the forms on a page."""
    found = re.search(r'name="csrf" value="([0-9a-f]{64})"', http.get(path).text)
    assert found
    return found[1]


def send(http: httpx.Client, path: str, fields: dict[str, Any], page: str = "/console/") -> httpx.Response:
    """A form sent from a page; what follows it is not followed."""
    token = csrf(http, http.get(page, follow_redirects=True).url.path)
    return http.post(path, data=fields | {"csrf": token})


def log_in(http: httpx.Client, key: str) -> httpx.Response:
    """The answer to a login with the key."""
    return http.post("/console/login", data={"key": key, "csrf": csrf(http)})


def made_key(served: Served, *scopes: str, **more: Any) -> dict[str, Any]:
    """A new key, made with the server's own."""
    body = {"name": "a key", "scopes": list(scopes), **more}
    response = served.post("/v1/keys", body, headers={"authorization": f"Bearer {OWN}"})
    assert response.status_code == 201, response.text
    answer: dict[str, Any] = response.json()
    return answer
