"""Tasks, versions, aliases and events by the console's forms: the registry's own changes, by the key, escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.console.people import OWN, log_in, made_key, visitor
from tests.server.conftest import Serve
from tests.server.running import Served

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
TASK = "/console/tasks/topic"


@pytest.fixture
def served(serve: Serve) -> Served:
    served = serve(api_key=OWN)
    served.http.headers["authorization"] = f"Bearer {OWN}"
    for seed in (1, 2, 3):
        served.add("topic", "text-classification", seed=seed, alias="production" if seed == 1 else None)
    return served


@pytest.fixture
def admin(served: Served) -> Iterator[httpx.Client]:
    with visitor(served) as http:
        log_in(http, OWN)
        yield http


def production(served: Served) -> dict[str, Any]:
    answer: dict[str, Any] = served.http.get("/v1/tasks/topic/aliases/production").json()
    return answer


def change(http: httpx.Client, ask: str, **fields: Any) -> str:
    """Send the form of a page that asks; what the page afterwards says."""
    page = http.get(f"{TASK}/{ask}").text
    form = re.search(r'<form method="post" action="(/console/tasks/[^"]+)".*?</form>', page, re.DOTALL)
    assert form
    hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form[0]))
    sent = http.post(form[1], data=hidden | {name.replace("_", "-"): value for name, value in fields.items()})
    assert sent.status_code == 303, sent.text
    said = re.search(r'<p class="message (\w+)"[^>]*>(.*?)</p>', http.get(sent.headers["location"]).text)
    assert said
    return html.unescape(f"{said[1]}: {re.sub('<[^>]*>', '', said[2])}")


def test_a_version_is_promoted_rolled_back_and_retired_by_the_key_of_the_session(served: Served) -> None:
    key = made_key(served, "promote", name="the operator")
    with visitor(served) as http:
        log_in(http, key["key"])
        assert change(http, "promote?version=2") == "done: Done. production of topic is version 2."
        assert production(served)["version"] == 2
        assert "back where it was" in change(http, "rollback?alias=production")
        assert production(served)["version"] == 1
        assert "Version 2 of topic is retired" in change(http, "versions/2/retire")
    events = served.http.get("/v1/events?limit=3").json()["events"]
    assert [event["action"] for event in events] == ["retire", "rollback", "set_alias"]
    assert {event["actor"] for event in events} == {f"console, key {key['id']} the operator"}


def test_an_alias_is_split_by_shares_that_add_up(served: Served, admin: httpx.Client) -> None:
    assert change(admin, "split", share_1="50", share_2="50").startswith("done")
    assert production(served)["weights"] == {"1": 0.5, "2": 0.5}
    for shares in ({"share_1": "50"}, {"share_1": "50", "share_2": "60"}, {"share_1": "x", "share_2": "100"}):
        assert change(admin, "split", **shares).startswith("refused")
    assert production(served)["weights"] == {"1": 0.5, "2": 0.5}
    assert change(admin, "split", share_1="33.3", share_2="33.3", share_3="33.4").startswith("done")
    assert sum(production(served)["weights"].values()) == pytest.approx(1)


def test_an_alias_that_is_new_is_made_and_removed(served: Served, admin: httpx.Client) -> None:
    assert change(admin, "promote?version=3&alias=canary").startswith("done")
    assert served.predict("topic@canary", "a").headers["x-multigraft-version"] == "3"
    assert change(admin, "unname?alias=canary").startswith("done")
    assert served.predict("topic@canary", "a").status_code == 404
    assert change(admin, "promote?version=2&alias=canary").startswith("done")


def test_what_somebody_else_moved_meanwhile_is_not_moved_again(served: Served, admin: httpx.Client) -> None:
    page = admin.get(f"{TASK}/promote?version=2").text
    served.http.put("/v1/tasks/topic/aliases/production", json={"version": 3})
    hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page))
    assert admin.post(f"{TASK}/promote", data=hidden).status_code == 303
    assert "refused" in admin.get(TASK).text
    assert production(served)["version"] == 3


def test_a_version_that_an_alias_names_is_not_retired(served: Served, admin: httpx.Client) -> None:
    said = change(admin, "versions/1/retire")
    assert said.startswith("refused")
    assert "production" in said


def test_a_task_is_pinned_and_let_go(served: Served, admin: httpx.Client) -> None:
    assert "stays in memory" in change(admin, "pin")
    assert served.http.get("/v1/tasks/topic").json()["pinned"]
    assert "may leave memory" in change(admin, "pin")
    assert not served.http.get("/v1/tasks/topic").json()["pinned"]


def test_two_versions_are_compared_field_by_field(served: Served, admin: httpx.Client) -> None:
    served.add("topic", "text-classification", seed=4, rank=4, alias=None, metrics={"accuracy": 0.9})
    page = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", admin.get(f"{TASK}/diff?a=1&b=4").text))
    assert "method.parameters.r 2 4 +2" in page
    assert "accuracy – 0.9 –" in page
    assert "it is one version" in admin.get(f"{TASK}/diff?a=1&b=1").text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("diff", 400),
        ("diff?a=x&b=1", 400),
        ("diff?a=1&b=9", 404),
        ("versions/9", 404),
        ("promote?version=9", 404),
        ("promote?version=1&alias=1", 400),
        ("promote?version=1&alias=%3Cb%3E", 400),
        ("rollback?alias=none", 404),
        ("../nope", 404),
    ],
)
def test_what_there_is_not_is_told_on_a_page(served: Served, admin: httpx.Client, path: str, status: int) -> None:
    response = admin.get(f"{TASK}/{path}")
    assert response.status_code == status
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "This did not work" in response.text
    assert "<b>" not in response.text


def test_who_may_not_promote_reads_only_and_another_tenant_sees_nothing(served: Served) -> None:
    with visitor(served) as http:
        log_in(http, made_key(served, "infer")["key"])
        assert "Promote" not in http.get(TASK).text
        assert http.get(f"{TASK}/promote?version=2").status_code == 403
        assert http.get("/console/events").status_code == 403
    with visitor(served) as http:
        log_in(http, made_key(served, "infer", "promote", tenant="acme")["key"])
        assert "topic" not in http.get("/console/tasks").text
        answers = [http.get(f"/console/tasks/{name}{rest}") for name in ("topic", "nope") for rest in ("", "/pin")]
        assert {answer.status_code for answer in answers} == {404}
        assert len({answer.text.replace("nope", "topic") for answer in answers[::2]}) == 1


def test_whatever_an_adapter_says_of_itself_is_shown_as_text(served: Served, admin: httpx.Client) -> None:
    served.add(
        "hostile",
        "text-classification",
        labels=(HOSTILE, "b"),
        metrics={HOSTILE: 0.5},
        base={"id": HOSTILE, "revision": HOSTILE, "fingerprint": served.spec.fingerprint},
        library_versions={HOSTILE: HOSTILE},
        data_hash=HOSTILE,
    )
    served.add("hostile", "text-classification", seed=2, alias=None)
    tag = served.http.put("/v1/tasks/hostile/versions/1/tags/note", json={"value": HOSTILE})
    assert tag.status_code == 200
    pages = ["hostile", "hostile/versions/1", "hostile/diff?a=1&b=2", "hostile/split"]
    for path in (*pages, "../events", "../overview", "../tasks"):
        text = admin.get(f"/console/tasks/{path}").text
        assert "<script>alert" not in text
        assert "<img src=x" not in text
    assert sum("&lt;script&gt;" in admin.get(f"/console/tasks/{path}").text for path in pages) == len(pages)


def test_events_are_told_page_by_page_and_by_task(served: Served, admin: httpx.Client) -> None:
    for number in range(60):
        served.http.put("/v1/tasks/topic/versions/1/tags/n", json={"value": f"value-{number}"})
    first = admin.get("/console/events").text
    assert "value-59" in first and "value-0<" not in first
    older = re.search(r'href="(/console/events\?before=\d+)">Older', html.unescape(first))
    assert older
    second = admin.get(older[1]).text
    assert "value-0<" in second and "Older" not in second
    assert "add version" not in admin.get("/console/events?task=nothing").text
    assert "Nothing has been changed of nothing" in admin.get("/console/events?task=nothing").text
