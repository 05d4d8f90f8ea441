"""Keys: every route is closed without the right one; what each may, sees and uses."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from multigraft_adapters.registry.keys import SCOPES, Key, NewKey
from multigraft_server.access.limits import Bucket, Limits
from multigraft_server.api.auth import OPEN_PATHS
from multigraft_server.api.scopes import ANY, scope_of
from multigraft_server.app import ROUTERS
from tests.server.conftest import Serve
from tests.server.made import adapter_files
from tests.server.running import Served
from tests.server.test_problems import has_the_shape

OWN = "the-server-s-own-key"


@pytest.fixture
def served(serve: Serve) -> Iterator[Served]:
    served = serve(api_key=OWN)
    served.http.headers["authorization"] = f"Bearer {OWN}"
    yield served


def made(served: Served, *scopes: str, **more: Any) -> dict[str, Any]:
    response = served.post("/v1/keys", {"name": "a key", "scopes": list(scopes), **more})
    assert response.status_code == 201, response.text
    answer: dict[str, Any] = response.json()
    return answer


def client(served: Served, *scopes: str, **more: Any) -> httpx.Client:
    """One that has a new key."""
    headers = {"authorization": f"Bearer {made(served, *scopes, **more)['key']}"}
    return httpx.Client(base_url=served.url, headers=headers, timeout=60)


def uploads(served: Served, task_type: str = "text-classification", seed: int = 0) -> list[tuple[str, bytes]]:
    return [("file", part) for part in adapter_files(served.spec, task_type, seed=seed).items()]  # type: ignore[misc]


def routes() -> list[tuple[str, str]]:
    """Method and template of every route; never empty."""
    found = [
        (method, route.path)  # type: ignore[attr-defined]
        for router in ROUTERS
        for route in router.routes
        for method in route.methods  # type: ignore[attr-defined]
    ]
    assert len(found) > 25
    return [(method, path) for method, path in found if path not in OPEN_PATHS]


def asked(http: httpx.Client, method: str, template: str) -> int:
    """The status of a request to a route, with whatever its path asks for."""
    path = re.sub(r"\{number:int\}", "1", template)
    return http.request(method, re.sub(r"\{[^}]*\}", "x", path)).status_code


def test_every_route_is_closed_to_no_key_a_wrong_an_expired_a_revoked_one_and_one_for_something_else(
    served: Served,
) -> None:
    expired = made(served, "admin", expires_in=0.2)["key"]
    revoked = made(served, "admin")
    assert served.http.delete(f"/v1/keys/{revoked['id']}").status_code == 200
    time.sleep(0.25)
    wrong = [None, "x", f"{OWN}x", expired, revoked["key"], revoked["key"][:-1]]
    by_scope = {scope: made(served, scope)["key"] for scope in SCOPES}
    with httpx.Client(base_url=served.url) as http:
        for method, template in routes():
            for key in wrong:
                http.headers["authorization"] = f"Bearer {key}" if key else ""
                assert asked(http, method, template) == 401, (method, template, key)
            needed = scope_of(method, template)
            for scope, key in by_scope.items():
                http.headers["authorization"] = f"Bearer {key}"
                is_let_in = asked(http, method, template) != 403
                assert is_let_in == (needed in (scope, ANY) or scope == "admin"), (method, template, scope)


def test_a_server_without_keys_is_open_until_somebody_makes_one(serve: Serve) -> None:
    served = serve()
    assert served.http.get("/v1/tasks").status_code == 200
    key = made(served, "admin")["key"]
    assert served.http.get("/v1/tasks").status_code == 401
    assert served.http.get("/v1/tasks", headers={"authorization": f"Bearer {key}"}).status_code == 200


def test_a_secret_is_told_once_and_kept_nowhere(served: Served) -> None:
    key = made(served, "infer")
    listed = served.http.get("/v1/keys")
    assert [one["id"] for one in listed.json()["keys"]] == [key["id"]]
    assert key["key"] not in listed.text
    secret = key["key"].rpartition("-")[2].encode()
    files = [file for file in served.parts.settings.data_dir.rglob("*") if file.is_file()]
    assert files
    assert not [file for file in files if secret in file.read_bytes()]


def test_a_key_of_a_pattern_asks_and_sees_what_matches_and_nothing_else_exists_for_it(served: Served) -> None:
    served.add("shop-tone", "text-classification", seed=1)
    served.add("bank-tone", "text-classification", seed=2)
    with client(served, "infer:shop-*") as http:
        assert http.post("/v1/tasks/shop-tone/predict", json={"inputs": "a"}).status_code == 200
        assert [task["name"] for task in http.get("/v1/tasks").json()["tasks"]] == ["shop-tone"]
        assert [model["id"] for model in http.get("/v1/models").json()["data"]] == ["shop-tone"]
        for method, path, body in (
            ("POST", "/v1/tasks/{}/predict", {"inputs": "a"}),
            ("POST", "/v1/embeddings", {"model": "{}", "input": "a"}),
            ("GET", "/v1/models/{}", None),
            ("GET", "/v1/tasks/{}", None),
            ("GET", "/v1/tasks/{}/versions/1", None),
        ):
            answers = []
            for task in ("bank-tone", "bank-zone"):
                sent = None if body is None else {key: value.format(task) for key, value in body.items()}
                answer = http.request(method, path.format(task), json=sent)
                assert answer.status_code == 404
                answers.append(has_the_shape(answer)["message"].replace(task, "TASK"))
            assert answers[0] == answers[1]
        mixed = [{"task": task, "inputs": "a"} for task in ("shop-tone", "bank-tone", "shop-bank-tone")]
        results = http.post("/v1/predict", json={"requests": mixed}).json()["results"]
        assert "output" in results[0]
        errors = [result["error"] for result in results[1:]]
        assert {error["code"] for error in errors} == {"task_not_found"}
        assert len({error["message"] for error in errors}) == 1 and "bank" not in errors[0]["message"]


def test_a_tenant_sees_its_own_tasks_only(served: Served) -> None:
    served.add("common", "text-classification", seed=1)
    scopes = ("infer", "upload", "promote")
    with client(served, *scopes, tenant="acme") as acme, client(served, *scopes, tenant="bolt") as bolt:
        upload = "/v1/tasks/tone/versions?alias=production"
        assert acme.post(upload, files=uploads(served)).status_code == 201
        assert acme.post("/v1/tasks/tone/predict", json={"inputs": "a"}).status_code == 200
        assert [task["name"] for task in acme.get("/v1/tasks").json()["tasks"]] == ["tone"]
        assert bolt.get("/v1/tasks").json()["tasks"] == []
        for path in ("/v1/tasks/tone", "/v1/tasks/tome", "/v1/tasks/common"):
            assert bolt.get(path).status_code == 404
        assert bolt.post("/v1/tasks/tone/predict", json={"inputs": "a"}).status_code == 404
        assert bolt.post("/v1/tasks/tone/rollback", json={}).status_code == 404
        assert bolt.post(upload, files=uploads(served, seed=1)).status_code == 409
        assert {task["name"] for task in served.http.get("/v1/tasks").json()["tasks"]} == {"common", "tone"}


def test_tenants_share_no_cached_prefixes_whatever_salt_they_send(served: Served) -> None:
    body = {"model": served.spec.name, "prompt": "word " * 40, "max_tokens": 1}

    def cached(http: httpx.Client, **more: str) -> int:
        usage = http.post("/v1/completions", json=body | more).json()["usage"]
        count: int = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        return count

    with client(served, "infer", tenant="acme") as acme, client(served, "infer", tenant="bolt") as bolt:
        assert cached(acme) == 0
        assert cached(acme) > 0
        assert cached(bolt) == 0
        assert cached(bolt, cache_salt="acme\0") == 0
        assert cached(served.http, cache_salt="acme\0") == 0


def test_a_promotion_by_upload_takes_the_scope_for_it(served: Served) -> None:
    with client(served, "upload") as http:
        assert http.post("/v1/tasks/tone/versions?alias=production", files=uploads(served)).status_code == 403
        assert http.post("/v1/tasks/tone/versions", files=uploads(served)).status_code == 201


def test_requests_per_minute_and_at_once_are_limited_and_told(served: Served) -> None:
    with client(served, "infer", requests_per_minute=2) as http:
        first = http.get("/v1/models")
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert http.get("/v1/models").status_code == 200
        refused = http.get("/v1/models")
        assert refused.status_code == 429
        assert has_the_shape(refused)["code"] == "rate_limit_exceeded"
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    with client(served, "infer", max_concurrent=1) as http, ThreadPoolExecutor(4) as threads:
        body = {"model": served.spec.name, "prompt": "a", "max_tokens": 60, "ignore_eos": True}
        statuses = list(threads.map(lambda _: http.post("/v1/completions", json=body).status_code, range(4)))
        assert 200 in statuses and 429 in statuses
        assert http.post("/v1/completions", json=body).status_code == 200


def test_tokens_per_minute_are_those_read_and_generated(served: Served) -> None:
    with client(served, "infer", tokens_per_minute=30) as http:
        body = {"model": served.spec.name, "prompt": "one two three", "max_tokens": 40, "ignore_eos": True}
        assert http.post("/v1/completions", json=body).status_code == 200
        refused = http.post("/v1/completions", json=body)
        assert refused.status_code == 429
        assert refused.headers["x-ratelimit-limit-tokens"] == "30"
        assert http.get("/v1/models").status_code == 200
    limited = served.counted(task=served.spec.name, outcome="limited")
    assert limited == 1


def test_every_change_names_its_key(served: Served) -> None:
    key = made(served, "upload", "promote")
    headers = {"authorization": f"Bearer {key['key']}", "x-multigraft-actor": "eve"}
    done = served.http.post("/v1/tasks/tone/versions?alias=production", files=uploads(served), headers=headers)
    assert done.status_code == 201
    served.http.delete(f"/v1/keys/{key['id']}")
    events = served.http.get("/v1/events").json()["events"]
    actors = {event["action"]: event["actor"] for event in events}
    assert actors["add_version"] == f"eve, key {key['id']} a key"
    assert actors["create_key"] == actors["revoke_key"] == "http"


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"scopes": []}, "scopes"),
        ({"scopes": ["everything"]}, "scopes"),
        ({"scopes": ["upload:x"]}, "scopes"),
        ({"scopes": ["infer:"]}, "scopes"),
        ({"scopes": ["infer:A"]}, "scopes"),
        ({"name": ""}, "name"),
        ({"tenant": "Not a name"}, "tenant"),
        ({"tenant": "acme", "scopes": ["metrics"]}, "tenant"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"expires_in": -1}, "expires_in"),
    ],
)
def test_what_no_key_can_be_is_refused(served: Served, wrong: dict[str, Any], param: str) -> None:
    response = served.post("/v1/keys", {"name": "a", "scopes": ["infer"]} | wrong)
    assert response.status_code == 400
    assert has_the_shape(response)["param"] == param
    assert served.http.get("/v1/keys").json()["keys"] == []


def test_a_key_that_is_not_there_cannot_be_revoked(served: Served) -> None:
    assert has_the_shape(served.http.delete("/v1/keys/nope"))["code"] == "key_not_found"


def test_a_bucket_refills_evenly_and_not_beyond_its_capacity() -> None:
    now = [0.0]
    bucket = Bucket(60, lambda: now[0])
    bucket.take(90)
    assert bucket.seconds_until(1) == pytest.approx(31)
    now[0] = 45.0
    assert bucket.level() == pytest.approx(15)
    now[0] = 10.0  # the clock went back
    assert bucket.level() == pytest.approx(15)
    now[0] = 10_000.0
    assert bucket.level() == 60


def test_what_ends_is_free_again_and_what_was_refused_has_cost_nothing() -> None:
    now = [0.0]
    limits = Limits(NewKey("a", ("infer",), requests_per_minute=2, max_concurrent=1), lambda: now[0])
    with limits.admitted(), pytest.raises(Exception, match="at once"), limits.admitted():
        pass
    with limits.admitted():
        assert limits.headers()["x-ratelimit-remaining-requests"] == "0"
    with pytest.raises(Exception, match="per minute"), limits.admitted():
        pass
    now[0] = 30.0
    with limits.admitted():
        pass


def test_a_key_says_nothing_of_its_hash(served: Served) -> None:
    key, secret = served.parts.registry.keys.create(NewKey("a", ("infer",)))
    assert isinstance(key, Key)
    assert key.secret_hash not in repr(key) and secret not in repr(key)
