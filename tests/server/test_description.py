"""`GET /openapi.json`: what every route answers, which errors it has, and that it needs a key."""

from __future__ import annotations

from typing import Any

import pytest

from multigraft_server.api.auth import OPEN_PATHS
from multigraft_server.api.openapi import ANSWERS
from tests.server.running import Served

Operation = dict[str, Any]


@pytest.fixture(scope="module")
def document(decoder: Served) -> dict[str, Any]:
    described: dict[str, Any] = decoder.http.get("/openapi.json").json()
    return described


@pytest.fixture(scope="module")
def operations(document: dict[str, Any]) -> dict[str, Operation]:
    return {
        f"{method.upper()} {path}": one for path, all in document["paths"].items() for method, one in all.items()
    }


def test_every_route_says_what_it_answers(operations: dict[str, Operation]) -> None:
    assert set(operations) == set(ANSWERS)
    for route, operation in operations.items():
        answers = [one for status, one in operation["responses"].items() if status.startswith("2")]
        assert answers, route
        schemas = [kind["schema"] for answer in answers for kind in answer["content"].values()]
        assert schemas and all(schemas), route


def test_every_error_has_the_one_shape(operations: dict[str, Operation]) -> None:
    assert operations
    for route, operation in operations.items():
        errors = {status: one for status, one in operation["responses"].items() if not status.startswith("2")}
        assert {"400", "503", "default"} <= set(errors), route
        assert "422" not in errors
        shapes = {one["content"]["application/json"]["schema"]["$ref"] for one in errors.values()}
        name = "VllmError" if route.endswith("_lora_adapter") else "ErrorBody"
        assert shapes == {f"#/components/schemas/{name}"}, route


def test_every_route_but_the_health_checks_needs_a_key(operations: dict[str, Operation]) -> None:
    closed = {route for route, operation in operations.items() if operation.get("security") == [{"key": []}]}
    assert {route.split()[1] for route in set(operations) - closed} == OPEN_PATHS
    assert {"401", "403"} <= set.intersection(*(set(operations[route]["responses"]) for route in closed))


def test_what_is_named_is_there(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    named = set(references(document))
    assert len(named) > 30
    assert not [name for name in named if name.removeprefix("#/components/schemas/") not in schemas]


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/files", "GET, POST"),
        ("/v1/tasks/topic/pin", "DELETE, POST"),
        ("/v1/tasks/topic/aliases/a", "DELETE, GET, PUT"),
    ],
)
@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "PATCH", "HEAD"])
def test_a_path_tells_all_the_methods_that_it_takes(decoder: Served, path: str, methods: str, method: str) -> None:
    response = decoder.http.request(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, methods)


def references(value: Any) -> list[str]:
    """Every `$ref` in a document."""
    if isinstance(value, list):
        return [found for one in value for found in references(one)]
    if not isinstance(value, dict):
        return []
    own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
    return own + [found for one in value.values() for found in references(one)]
