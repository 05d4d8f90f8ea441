"""Aliases, rollback, listings, the engine's state, health and metrics."""

from __future__ import annotations

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest

from multigraft_adapters.registry import Registry, point_of
from tests.postgresql import PostgresServer
from tests.server.conftest import Serve
from tests.server.running import Served


@pytest.fixture
def served(serve: Serve) -> Served:
    """A server with two versions of `topic`, the first in production."""
    started = serve()
    started.add("topic", "text-classification", seed=1)
    started.add("topic", "text-classification", seed=2, alias=None)
    return started


def promote(served: Served, version: int, **headers: str) -> Any:
    return served.http.put(
        "/v1/tasks/topic/aliases/production",
        json={"version": version},
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def version_served(served: Served) -> str:
    return served.predict("topic", "where is it").headers["x-multigraft-version"]


def test_an_alias_moves_and_rolls_back(served: Served) -> None:
    moved = promote(served, 2)
    assert moved.json() == {"task": "topic", "alias": "production", "version": 2, "revision": 2}
    assert moved.headers["etag"] == '"2"'
    assert version_served(served) == "2"
    back = served.post("/v1/tasks/topic/rollback", {})
    assert back.json()["version"] == 1
    assert version_served(served) == "1"


def test_a_rollback_needs_no_body_and_can_name_an_alias(served: Served) -> None:
    served.http.put("/v1/tasks/topic/aliases/canary", json={"version": 1})
    served.http.put("/v1/tasks/topic/aliases/canary", json={"version": 2})
    promote(served, 2)
    assert served.http.post("/v1/tasks/topic/rollback").json()["alias"] == "production"
    assert served.post("/v1/tasks/topic/rollback", {"alias": "canary"}).json()["version"] == 1
    assert served.predict("topic@canary", "a").headers["x-multigraft-version"] == "1"


def test_a_rollback_without_an_earlier_state_is_a_conflict_that_is_not_retried(served: Served) -> None:
    response = served.http.post("/v1/tasks/topic/rollback")
    assert response.status_code == 409
    assert response.headers["x-should-retry"] == "false"
    assert response.json()["error"]["code"] == "conflict"


def test_a_stale_if_match_is_a_conflict_that_shows_the_present_state(served: Served) -> None:
    assert promote(served, 2, if_match='"1"').status_code == 200
    stale = promote(served, 1, if_match='"1"')
    assert stale.status_code == 409
    assert stale.headers["etag"] == '"2"'
    assert "version 2, revision 2" in stale.json()["error"]["message"]
    assert version_served(served) == "2"
    assert promote(served, 1, if_match="*").status_code == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [({"weights": {"1": 0.5}}, "weights"), ({}, None), ({"version": 0}, "version"), ({"version": "1"}, "version")],
)
def test_an_alias_body_that_names_no_version_is_a_400(served: Served, body: Any, param: str | None) -> None:
    response = served.http.put("/v1/tasks/topic/aliases/production", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_an_alias_cannot_point_at_what_is_not_there(served: Served) -> None:
    assert promote(served, 9).json()["error"]["code"] == "version_not_found"
    assert promote(served, 1, if_match="abc").status_code == 400
    missing = served.http.put("/v1/tasks/nobody/aliases/production", json={"version": 1})
    assert missing.json()["error"]["code"] == "task_not_found"


def test_tasks_tell_versions_aliases_and_where_adapters_are(served: Served) -> None:
    served.predict("topic", "where is it")
    served.rest()
    [task] = served.http.get("/v1/tasks").json()["tasks"]
    assert task == served.http.get("/v1/tasks/topic").json()
    assert [(version["version"], version["tier"]) for version in task["versions"]] == [(1, "device"), (2, "store")]
    assert task["aliases"] == [{"name": "production", "version": 1, "revision": 1}]


def test_a_version_tells_its_manifest(served: Served) -> None:
    version = served.http.get("/v1/tasks/topic/versions/2").json()
    assert version["task_type"] == "text-classification"
    assert version["manifest"]["method"]["name"] == "lora"
    assert served.http.get("/v1/tasks/topic/versions/9").json()["error"]["code"] == "version_not_found"
    assert served.http.get("/v1/tasks/nobody").json()["error"]["code"] == "task_not_found"


def test_the_engine_s_state_names_what_is_in_the_slots(served: Served) -> None:
    digest = served.predict("topic", "where is it").headers["x-multigraft-adapter"]
    served.rest()
    state = served.http.get("/v1/engine").json()
    assert state["alive"] is True
    assert state["slots"] == [{"slot": 1, "digest": digest, "versions": ["topic@1"]}]
    assert state["tiers"] == {"device": [digest], "host": [digest]}
    assert state["steps"] >= 1
    assert state["leases"] == 0


def test_the_engine_tells_what_memory_it_has_taken(served: Served) -> None:
    before = served.http.get("/v1/engine").json()["bytes"]
    parts = ("merged_weights", "banks", "heads", "kv_cache", "prefix_cache", "host")
    assert before == dict.fromkeys(parts, 0) | {"weights": before["weights"]}
    served.predict("topic", "where is it")
    served.http.post("/v1/completions", json={"model": "tiny-llama", "prompt": "it is", "max_tokens": 2})
    served.rest()
    after = served.http.get("/v1/engine").json()["bytes"]
    assert after["weights"] == before["weights"]
    assert after["banks"] > after["host"] > 0
    assert after["kv_cache"] > 0


def test_health_says_live_and_ready(served: Served) -> None:
    assert served.http.get("/health/live").json() == {"status": "live"}
    assert served.http.get("/health/ready").json() == {"status": "ready"}


def test_readiness_drops_when_the_engine_ends_and_liveness_stays(served: Served) -> None:
    assert served.predict("topic", "a").status_code == 200
    served.parts.engine.stop()
    ready = served.http.get("/health/ready")
    assert ready.status_code == 503
    assert ready.headers["retry-after"] == "1"
    assert ready.json()["error"]["code"] == "engine_stopped"
    assert served.http.get("/health/live").status_code == 200
    refused = served.predict("topic", "a")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    assert "x-request-id" in refused.headers


def test_metrics_name_what_the_design_names(served: Served) -> None:
    served.predict("topic", "where is it")
    served.post("/v1/completions", {"model": "tiny-llama", "prompt": "a", "max_tokens": 3, "ignore_eos": True})
    served.rest()
    text = served.http.get("/metrics").text
    assert served.http.get("/metrics").headers["content-type"].startswith("text/plain")
    for name in (
        "multigraft_request_duration_seconds_count",
        "multigraft_time_to_first_token_seconds_count",
        "multigraft_inter_token_seconds_count",
        "multigraft_queue_seconds_count",
        "multigraft_step_seconds_count{phase=",
        "multigraft_step_rows_count",
        "multigraft_step_adapters_count",
        'multigraft_tokens_total{kind="generated"} 3.0',
        'multigraft_requests_total{outcome="ok",task="topic"} 1.0',
        "multigraft_queue_depth 0.0",
        "multigraft_adapter_load_seconds_count{tier=",
        'multigraft_adapter_loads_total{outcome="ok",tier="device"} 1.0',
        'multigraft_adapters_resident{tier="device"} 1.0',
        "multigraft_leases 0.0",
        'task="topic",version="1"} 1.0',
        "vllm:num_requests_running 0.0",
        "vllm:num_requests_waiting 0.0",
        "vllm:kv_cache_usage_perc 0.0",
        "vllm:lora_requests_info{",
    ):
        assert name in text, name


def test_metrics_speak_openmetrics_when_asked(served: Served) -> None:
    response = served.http.get("/metrics", headers={"accept": "application/openmetrics-text"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")
    assert "\nvllm:num_requests_running 0.0\n" in response.text


def split(served: Served, **weights: float) -> Any:
    shares = {name.removeprefix("v"): weight for name, weight in weights.items()}
    return served.http.put("/v1/tasks/topic/aliases/production", json={"weights": shares})


def asked_by(served: Served, user: str) -> str:
    response = served.post("/v1/tasks/topic/predict", {"inputs": "a"}, headers={"x-multigraft-sticky": user})
    return response.headers["x-multigraft-version"]


def test_a_split_sends_each_key_always_to_one_version_and_rolls_back(served: Served) -> None:
    answer = split(served, v1=0.5, v2=0.5)
    assert answer.status_code == 200
    assert answer.json()["weights"] == {"1": 0.5, "2": 0.5}
    expected = {f"user {number}": "12"[point_of("topic", f"user {number}") >= 0.5] for number in range(12)}
    assert set(expected.values()) == {"1", "2"}
    for _ in range(2):
        assert {user: asked_by(served, user) for user in expected} == expected
    assert {version_served(served) for _ in range(40)} == {"1", "2"}
    both = {"requests": [{"task": "topic", "inputs": "a"}] * 2}
    results = served.post("/v1/predict", both, headers={"x-multigraft-sticky": "user 3"}).json()["results"]
    assert {str(result["version"]) for result in results} == {expected["user 3"]}
    split(served, v1=0.9, v2=0.1)
    told = [
        line for line in served.http.get("/metrics").text.splitlines() if line.startswith("multigraft_task_info")
    ]
    assert sorted(line.split()[-1] for line in told) == ["0.1", "0.9"]
    assert served.http.post("/v1/tasks/topic/rollback").json()["weights"] == {"1": 0.5, "2": 0.5}
    assert "weights" not in served.http.post("/v1/tasks/topic/rollback").json()


def test_openai_s_user_is_a_sticky_key_too_and_the_header_wins(serve: Serve) -> None:
    served = serve()
    for seed in (1, 2):
        served.add("vector", "feature-extraction", seed=seed)
    served.http.put("/v1/tasks/vector/aliases/production", json={"weights": {"1": 0.5, "2": 0.5}})
    users = [f"user {number}" for number in range(12)]
    expected = ["12"[point_of("vector", user) >= 0.5] for user in users]
    assert set(expected) == {"1", "2"}

    def version(user: str, **headers: str) -> str:
        body = {"model": "vector", "input": "a", "user": user}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return served.post("/v1/embeddings", body, headers=named).headers["x-multigraft-version"]

    assert [version(user) for user in users] == expected
    assert {version(user, x_multigraft_sticky=users[0]) for user in users} == {expected[0]}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"version": 1, "weights": {"1": 1.0}},
        {"weights": {}},
        {"weights": {"1": 0.5}},
        {"weights": {"01": 1.0}},
        {"weights": {"one": 1.0}},
        {"weights": {"1": "all"}},
        {"weights": {"1": 2, "2": -1}},
        {"weights": {"1": True}},
    ],
)
def test_what_is_no_version_and_no_split_is_refused(served: Served, body: dict[str, Any]) -> None:
    response = served.http.put("/v1/tasks/topic/aliases/production", json=body)
    assert response.status_code == 400, response.text
    assert version_served(served) == "1"


def test_an_alias_tells_its_history_and_can_be_removed(served: Served) -> None:
    split(served, v1=0.9, v2=0.1)
    told = served.http.get("/v1/tasks/topic/aliases/production")
    assert told.headers["etag"] == '"2"'
    states = [(state["version"], state.get("weights")) for state in told.json()["history"]]
    assert states == [(1, {"1": 0.9, "2": 0.1}), (1, None)]
    path = "/v1/tasks/topic/aliases/production"
    assert served.http.delete(path, headers={"if-match": '"1"'}).status_code == 409
    assert served.http.delete(path, headers={"if-match": '"2"'}).status_code == 200
    assert served.predict("topic", "a").status_code == 404
    assert promote(served, 2).json()["revision"] == 4


def test_of_many_promotions_at_once_one_wins_and_the_others_see_its_state(served: Served) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: promote(served, 2, if_match='"1"'), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7
    assert {answer.headers["etag"] for answer in answers} == {'"2"'}
    assert "version 2, revision 2" in next(a for a in answers if a.status_code == 409).json()["error"]["message"]


def test_a_stale_rollback_is_a_conflict(served: Served) -> None:
    promote(served, 2)
    stale = served.http.post("/v1/tasks/topic/rollback", headers={"if-match": '"1"'})
    assert stale.status_code == 409
    assert served.http.post("/v1/tasks/topic/rollback", headers={"if-match": '"2"'}).json()["version"] == 1


def test_a_version_that_an_alias_points_to_cannot_be_retired(served: Served) -> None:
    response = served.http.delete("/v1/tasks/topic/versions/1")
    assert response.status_code == 409
    assert "alias 'production'" in response.json()["error"]["message"]
    assert version_served(served) == "1"


def test_a_retired_version_is_not_found_and_not_promoted(served: Served) -> None:
    assert served.predict("topic@2", "a").status_code == 200
    retired = served.http.delete("/v1/tasks/topic/versions/2")
    assert retired.status_code == 200
    assert retired.json()["retired_at"] is not None
    gone = served.predict("topic@2", "a")
    assert gone.status_code == 404
    assert gone.json()["error"]["code"] == "version_not_found"
    assert "retired" in gone.json()["error"]["message"]
    assert promote(served, 2).status_code == 409
    listed = served.http.get("/v1/tasks/topic").json()["versions"]
    assert [version["retired_at"] is None for version in listed] == [True, False]
    assert served.http.delete("/v1/tasks/topic/versions/9").status_code == 404


def test_tags_are_shown_with_their_version(served: Served) -> None:
    path = "/v1/tasks/topic/versions/1/tags/dataset"
    assert served.http.put(path, json={"value": "reviews"}).json()["tags"] == {"dataset": "reviews"}
    assert served.http.get("/v1/tasks").json()["tasks"][0]["versions"][0]["tags"] == {"dataset": "reviews"}
    assert served.http.delete(path).json()["tags"] == {}
    assert served.http.put(path, json={"value": 1}).status_code == 400


def test_events_tell_who_did_what_and_when(served: Served) -> None:
    promote(served, 2, x_multigraft_actor="ann@laptop")
    events = served.http.get("/v1/events", params={"task": "topic"}).json()["events"]
    assert [(one["action"], one["actor"]) for one in events] == [
        ("set_alias", "ann@laptop"),
        ("add_version", "http"),
        ("set_alias", "http"),
        ("add_version", "http"),
    ]
    assert events[0]["detail"] == {"alias": "production", "version": 2, "previous": 1, "revision": 2}
    assert datetime.fromisoformat(events[0]["at"]).utcoffset() == timedelta(0)
    older = served.http.get("/v1/events", params={"before": events[1]["id"], "limit": 1}).json()["events"]
    assert older == [events[2]]
    assert served.http.get("/v1/events", params={"limit": 0}).status_code == 400
    assert served.http.get("/v1/events", params={"task": "nothing"}).json() == {"events": []}
    assert promote(served, 1, x_multigraft_actor="a" * 129).status_code == 400


def test_a_change_beside_the_server_reaches_it_within_a_second(served: Served) -> None:
    assert version_served(served) == "1"
    beside = Registry.open(served.parts.settings.data_dir, served.spec.name)
    beside.set_alias("topic", "production", 2)
    end = time.monotonic() + 1.0
    while version_served(served) != "2":
        assert time.monotonic() < end
    beside.close()


def test_a_locked_registry_refuses_changes_and_serves_on(served: Served) -> None:
    assert version_served(served) == "1"
    path = served.parts.settings.data_dir / "registry.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as other, closing(httpx.Client()) as asker:
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(1) as pool:
            refused = pool.submit(promote, served, 2)
            predict = f"{served.url}/v1/tasks/topic/predict"
            assert asker.post(predict, json={"inputs": "a"}).headers["x-multigraft-version"] == "1"
            answer = refused.result()
        other.execute("ROLLBACK")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "registry_unavailable"
    assert "locked" in answer.json()["error"]["message"]
    assert promote(served, 2).json()["revision"] == 2


def test_a_database_that_keeps_look_ups_waiting_holds_up_nobody_else(
    serve: Serve, postgres: PostgresServer
) -> None:
    place = postgres.new_place()
    served = serve(registry_url=place)
    served.add("topic", "text-classification")
    served.notice()
    assert version_served(served) == "1"

    def ask(ref: str) -> httpx.Response:
        return httpx.post(f"{served.url}/v1/tasks/{ref}/predict", json={"inputs": "a"}, timeout=60)

    with closing(psycopg.connect(place)) as other, ThreadPoolExecutor(4) as pool:
        other.execute("LOCK TABLE versions IN ACCESS EXCLUSIVE MODE")
        waiting = [pool.submit(ask, "topic@1") for _ in range(4)]
        assert [ask("topic").headers["x-multigraft-version"] for _ in range(3)] == ["1"] * 3
        assert not any(one.done() for one in waiting)
        answers = [one.result() for one in waiting]
    assert {answer.status_code for answer in answers} == {503}
    assert answers[0].json()["error"]["code"] == "registry_unavailable"
    assert ask("topic@1").status_code == 200
