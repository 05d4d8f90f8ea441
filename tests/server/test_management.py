"""Aliases, rollback, listings, the engine's state, health and metrics."""

from __future__ import annotations

from typing import Any

import pytest

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
    [({"weights": {"1": 1.0}}, "weights"), ({}, None), ({"version": 0}, "version"), ({"version": "1"}, "version")],
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
    state = served.http.get("/v1/engine").json()
    assert state["alive"] is True
    assert state["slots"] == [{"slot": 1, "digest": digest, "versions": ["topic@1"]}]
    assert state["tiers"] == {"device": [digest], "host": [digest]}
    assert state["steps"] >= 1
    assert state["leases"] == 0


def test_the_engine_tells_what_memory_it_has_taken(served: Served) -> None:
    before = served.http.get("/v1/engine").json()["bytes"]
    assert before == dict.fromkeys(("banks", "heads", "kv_cache", "prefix_cache", "host"), 0) | {
        "weights": before["weights"]
    }
    served.predict("topic", "where is it")
    served.http.post("/v1/completions", json={"model": "tiny-llama", "prompt": "it is", "max_tokens": 2})
    after = served.http.get("/v1/engine").json()["bytes"]
    assert after["weights"] == before["weights"]
    assert after["banks"] > after["host"] > 0
    assert after["kv_cache"] > 0


def test_health_says_live_and_ready(served: Served) -> None:
    assert served.http.get("/health/live").json() == {"status": "live"}
    assert served.http.get("/health/ready").json() == {"status": "ready"}


def test_readiness_drops_when_the_engine_ends_and_liveness_stays(served: Served) -> None:
    served.parts.engine.stop()
    ready = served.http.get("/health/ready")
    assert ready.status_code == 503
    assert ready.headers["retry-after"] == "1"
    assert ready.json()["error"]["code"] == "engine_stopped"
    assert served.http.get("/health/live").status_code == 200
    assert served.predict("topic", "a").status_code == 503


def test_metrics_name_what_the_design_names(served: Served) -> None:
    served.predict("topic", "where is it")
    served.post("/v1/completions", {"model": "tiny-llama", "prompt": "a", "max_tokens": 3, "ignore_eos": True})
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
