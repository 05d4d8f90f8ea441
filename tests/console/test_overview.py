"""The overview, as a reader of its page sees it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest

from tests.console.people import OWN, log_in, made_key, visitor
from tests.server.conftest import Serve
from tests.server.running import Served


@pytest.fixture
def served(serve: Serve) -> Served:
    served = serve(api_key=OWN)
    served.http.headers["authorization"] = f"Bearer {OWN}"
    return served


@pytest.fixture
def person(served: Served) -> Iterator[httpx.Client]:
    with visitor(served) as http:
        log_in(http, OWN)
        yield http


def text_of(http: httpx.Client, path: str = "/console/overview/live") -> str:
    """What a page shows, without its tags."""
    response = http.get(path)
    assert response.status_code == 200
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", response.text))


def test_it_shows_what_a_task_s_requests_took(served: Served, person: httpx.Client) -> None:
    served.add("topic", "text-classification")
    assert "No task was asked yet" in text_of(person)
    served.predict("topic", "a")
    served.post("/v1/tasks/topic/predict", {"inputs": 3})
    served.rest()
    shown = text_of(person)
    assert re.search(r"topic 2 1 invalid \S+ m?s – – \S+ m?s \S+ m?s idle", shown)
    assert "topic@1" in shown
    assert "ready" in shown
    assert "1 of 16 in use" in shown


def test_the_page_holds_what_its_live_part_shows(served: Served, person: httpx.Client) -> None:
    served.add("topic", "text-classification")
    served.predict("topic", "a")
    served.rest()
    assert "Latency by task" in text_of(person, "/console/overview")
    assert "topic@1" in text_of(person, "/console/overview")


def test_who_may_not_read_metrics_begins_with_the_tasks(served: Served) -> None:
    with visitor(served) as http:
        log_in(http, made_key(served, "infer")["key"])
        assert http.get("/console/").headers["location"] == "/console/tasks"
        assert "Overview" not in http.get("/console/tasks").text
