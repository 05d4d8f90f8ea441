"""Every error has one line in one table, and every answer that is not a success the one shape."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from multigraft_adapters import errors
from multigraft_server.api.problems import PROBLEMS, error_body, error_response
from tests.server.conftest import Serve
from tests.server.running import Served

ALLOWED_STATUSES = {400, 401, 403, 404, 405, 408, 409, 413, 429, 431, 499, 500, 502, 503, 504}


def every_class(
    kind: type[errors.MultigraftError] = errors.MultigraftError,
) -> Iterator[type[errors.MultigraftError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from every_class(child)


CLASSES = sorted(set(every_class()), key=lambda kind: kind.__name__)


def an_error(kind: type[errors.MultigraftError]) -> errors.MultigraftError:
    if issubclass(kind, errors.ProblemsError):
        return kind("it is wrong", ["one", "two"])
    if issubclass(kind, errors.RemoteError):
        return kind("it is wrong", status=400)
    return kind("it is wrong", param="field")


def has_the_shape(response: httpx.Response) -> dict[str, Any]:
    """The error of an answer, which must be in the one shape."""
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    assert list(response.json()) == ["error"]
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error, dict)
    return error


def test_there_are_many_classes() -> None:
    assert len(CLASSES) > 25


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_class_is_in_the_table(kind: type[errors.MultigraftError]) -> None:
    assert kind in PROBLEMS
    response = error_response(an_error(kind))
    assert response.status_code in ALLOWED_STATUSES
    assert error_body(an_error(kind))["error"]["code"] == kind.code


def test_the_table_names_nothing_else() -> None:
    assert set(PROBLEMS) == set(CLASSES)


def test_what_is_saturated_says_when_to_come_again_and_a_conflict_not_to() -> None:
    overloaded = error_response(errors.OverloadedError("full"), retry_after_seconds=7)
    conflict = error_response(errors.ConflictError("moved", revision=4))
    assert overloaded.headers["retry-after"] == "7"
    assert conflict.headers["x-should-retry"] == "false"
    assert conflict.headers["etag"] == '"4"'


def test_what_we_did_not_foresee_tells_nothing_of_the_inside() -> None:
    body = error_body(KeyError("a secret"))
    assert body["error"]["code"] == "internal_error"
    assert "secret" not in str(body)


ROUTES = [
    ("POST", "/v1/tasks/topic/predict"),
    ("POST", "/v1/predict"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/embeddings"),
    ("PUT", "/v1/tasks/topic/aliases/production"),
    ("POST", "/v1/tasks/topic/rollback"),
    ("POST", "/v1/tasks/topic/versions"),
]
BODIES: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{", "application/json"),
    "not UTF-8": (b'{"inputs": "\xff"}', "application/json"),
    "another content type": (b'{"inputs": "a"}', "text/plain"),
    "a list": (b"[1]", "application/json"),
    "a number": (b"1", "application/json"),
    "null": (b"null", "application/json"),
    "too deep": (b"[" * 100_000, "application/json"),
    "a huge number": (b'{"inputs": ' + b"9" * 10_000 + b"}", "application/json"),
    "an unknown field": (b'{"what": 1}', "application/json"),
}


BAD_REQUESTS = [
    (method, path, body)
    for method, path in ROUTES
    for body in BODIES
    if not (path.endswith("/rollback") and body == "null")  # rollback may lack its body, and null is none
]


@pytest.mark.parametrize(("method", "path", "body"), BAD_REQUESTS)
def test_every_route_answers_a_bad_body_with_a_400(decoder: Served, method: str, path: str, body: str) -> None:
    content, content_type = BODIES[body]
    response = decoder.http.request(method, path, content=content, headers={"content-type": content_type})
    assert response.status_code == 400, response.text
    has_the_shape(response)


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/tasks/", "/nope", "/docs", "/v1/tasks/topic/versions/x"])
def test_an_unknown_path_is_a_404_in_the_one_shape(decoder: Served, path: str) -> None:
    response = decoder.http.get(path)
    assert response.status_code == 404
    assert has_the_shape(response)["code"] in ("route_not_found", "task_not_found")


@pytest.mark.parametrize(("method", "path"), [*ROUTES[:5], ("POST", "/v1/models"), ("POST", "/health/live")])
def test_a_wrong_method_is_a_405_that_says_which_is_right(decoder: Served, method: str, path: str) -> None:
    response = decoder.http.request("DELETE", path)
    assert response.status_code == 405
    assert response.headers["allow"] in has_the_shape(response)["message"]


def test_an_adapter_that_cannot_be_loaded_is_a_500_of_its_task_alone(serve: Serve) -> None:
    served = serve()
    digest = served.add("topic", "text-classification")
    served.add("other", "text-classification", seed=5)
    for file in served.parts.settings.data_dir.glob(f"store/sha256/*/{digest.removeprefix('sha256:')}/*.json"):
        file.write_text("{}")
    broken = served.predict("topic", "a")
    assert broken.status_code == 500
    assert has_the_shape(broken)["code"] == "adapter_load_failed"
    assert served.predict("other", "a").status_code == 200


def test_what_fails_unforeseen_is_a_500_in_the_one_shape(serve: Serve) -> None:
    served = serve()
    served.add("topic", "text-classification")
    with closing(sqlite3.connect(served.parts.settings.data_dir / "registry.sqlite")) as registry, registry:
        registry.execute("UPDATE versions SET manifest = 'nonsense'")
    response = served.http.get("/v1/tasks")
    assert response.status_code == 500
    assert has_the_shape(response)["code"] == "internal_error"


def test_a_registry_that_is_gone_is_a_503_that_names_it(serve: Serve) -> None:
    served = serve()
    served.parts.registry.close()
    for file in served.parts.settings.data_dir.glob("registry.sqlite*"):
        file.unlink()
    response = served.http.get("/v1/tasks")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    problem = has_the_shape(response)
    assert problem["code"] == "registry_unavailable"
    assert "registry.sqlite" in problem["message"]


def test_a_caller_s_request_id_is_kept_when_it_is_a_plain_one(decoder: Served) -> None:
    kept = decoder.http.get("/nope", headers={"x-request-id": "abc-123"})
    replaced = decoder.http.get("/nope", headers={"x-request-id": "a b<script>"})
    assert kept.headers["x-request-id"] == "abc-123"
    assert replaced.headers["x-request-id"].startswith("req_")
