"""One key for everything but the health checks."""

from __future__ import annotations

import pytest

from tests.server.conftest import Serve
from tests.server.running import Served
from tests.server.test_problems import has_the_shape

KEY = "a-long-enough-key"


@pytest.fixture
def served(serve: Serve) -> Served:
    return serve(api_key=KEY)


def test_every_route_but_health_needs_the_key(served: Served) -> None:
    paths: dict[str, dict[str, object]] = served.app.openapi()["paths"] | {"/openapi.json": {"get": {}}}
    routes = [(method, path) for path, methods in paths.items() for method in methods]
    assert len(routes) > 15
    for method, path in routes:
        response = served.http.request(method, path)
        if path.startswith("/health/"):
            assert response.status_code == 200
        else:
            assert response.status_code == 401, path
            assert has_the_shape(response)["code"] == "invalid_api_key"
            assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "path", ["/nope", "//health/live", "/health/live/", "/health/../v1/tasks", "/HEALTH/live"]
)
def test_what_is_not_known_to_be_open_is_closed(served: Served, path: str) -> None:
    assert served.http.get(served.url + path).status_code == 401


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        f"Basic {KEY}",
        KEY,
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        f"Bearer {KEY} {KEY}",
        "Bearer é",
    ],
)
def test_a_wrong_key_is_refused(served: Served, header: str) -> None:
    headers = {b"authorization": header.encode()} if header else {}
    assert served.http.get("/v1/tasks", headers=headers).status_code == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_key_opens_every_route(served: Served, scheme: str) -> None:
    headers = {"authorization": f"{scheme} {KEY}"}
    assert served.http.get("/v1/tasks", headers=headers).status_code == 200
    assert served.http.get("/metrics", headers=headers).status_code == 200
    assert served.http.get("/nope", headers=headers).status_code == 404


def test_a_host_header_cannot_make_a_closed_path_look_open(served: Served) -> None:
    """CVE-2026-48710: a path that is rebuilt from the Host header is not the one that is routed."""
    for host in ("x/health/live?", "x/health/live#", "127.0.0.1/health/ready"):
        assert served.http.get("/v1/tasks", headers={"host": host}).status_code in (400, 401)


def test_the_key_is_asked_before_the_body_is_looked_at(served: Served) -> None:
    response = served.http.post("/v1/predict", content=b"{", headers={"content-type": "application/json"})
    assert response.status_code == 401
