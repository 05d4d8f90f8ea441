"""Merging over HTTP: forced, ended, by the policy; it follows aliases, and no answer is ever another adapter's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from multigraft_adapters.errors import SetupError
from multigraft_server.engine.settings import EngineSettings
from multigraft_server.settings import load_settings
from tests.server.conftest import Serve
from tests.server.running import Served

ASK = {"prompt": "a b c", "max_tokens": 8, "temperature": 0, "ignore_eos": True}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def merge_of(served: Served) -> Any:
    return served.http.get("/v1/engine").json()["merge"]


def merged_digest(served: Served) -> str | None:
    merged = merge_of(served)["merged"]
    return merged["digest"] if merged else None


def text_of(served: Served, model: str) -> tuple[str, str]:
    """The adapter that answered, and what it said."""
    answer = served.post("/v1/completions", {"model": model, **ASK})
    assert answer.status_code == 200, answer.text
    return answer.headers["x-multigraft-adapter"], answer.json()["choices"][0]["text"]


def put_mode(served: Served, **body: Any) -> Any:
    return served.http.put("/v1/merge", json=body)


@pytest.fixture
def merging(serve: Serve) -> Served:
    """A server that merges only what it is told to, with the tasks `style` and `tone`."""
    served = serve(engine=EngineSettings(merge="auto"), merge="auto")
    served.add("style", "text-generation", seed=1)
    served.add("tone", "text-generation", seed=2)
    assert put_mode(served, mode="off").status_code == 200
    return served


def test_a_task_is_merged_until_its_merge_is_ended_and_answers_stay(merging: Served) -> None:
    before = {model: text_of(merging, model) for model in ("style", "tone", merging.spec.name)}
    assert merge_of(merging)["state"] == "idle"
    told = merging.http.post("/v1/tasks/style/merge", headers={"x-multigraft-actor": "eve"})
    assert told.json() == {"task": "style", "merged": True, "digest": before["style"][0]}
    assert {model: text_of(merging, model) for model in before} == before
    assert merge_of(merging)["merged"] == {"task": "style", "digest": before["style"][0]}
    assert merging.counted("multigraft_merged_info", task="style") == 1
    assert merging.counted("multigraft_merge_switches_total", direction="merge") == 1
    listed = merging.http.get("/v1/tasks").json()["tasks"]
    assert [task["versions"][0]["merged"] for task in listed] == [True, False]
    assert merging.http.delete("/v1/tasks/style/merge").json()["ended"]
    wait_until(lambda: merge_of(merging)["state"] == "idle")
    assert {model: text_of(merging, model) for model in before} == before
    assert not merging.http.delete("/v1/tasks/style/merge").json()["ended"]


def test_merges_leave_events_and_the_last_switch(merging: Served) -> None:
    merging.http.post("/v1/tasks/style/merge", headers={"x-multigraft-actor": "eve"})
    merging.http.delete("/v1/tasks/style/merge", headers={"x-multigraft-actor": "adam"})
    events = merging.http.get("/v1/events?task=style").json()["events"]
    assert [(event["actor"], event["action"]) for event in events[:2]] == [("adam", "end_merge"), ("eve", "merge")]
    last = merge_of(merging)["last_switch"]
    assert (last["task"], last["after"], last["reason"]) == ("style", None, "ended")


def test_another_task_that_is_forced_takes_the_place(merging: Served) -> None:
    first = merging.http.post("/v1/tasks/style/merge").json()["digest"]
    second = merging.http.post("/v1/tasks/tone/merge").json()["digest"]
    assert first != second
    wait_until(lambda: merged_digest(merging) == second)
    assert merge_of(merging)["task"] == "tone"


def test_a_merge_follows_the_production_version_and_no_answer_is_another_ones(merging: Served) -> None:
    old = merging.http.post("/v1/tasks/style/merge").json()["digest"]
    answers: dict[str, set[str]] = {}
    with asking(merging, "style", answers):
        wait_until(lambda: old in answers)
        new = merging.add("style", "text-generation", seed=3)
        wait_until(lambda: merged_digest(merging) == new and new in answers)
        assert merging.http.post("/v1/tasks/style/rollback").json()["version"] == 1
        wait_until(lambda: merged_digest(merging) == old)
    assert set(answers) == {old, new}
    put_mode(merging, mode="off")
    expected = {old: text_of(merging, "style@1")[1], new: text_of(merging, "style@2")[1]}
    assert answers == {digest: {text} for digest, text in expected.items()}
    assert expected[old] != expected[new]


@contextmanager
def asking(served: Served, model: str, answers: dict[str, set[str]]) -> Iterator[None]:
    """A client that goes on asking one task meanwhile; what it was answered, by adapter."""
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            adapter, text = text_of(served, model)
            answers.setdefault(adapter, set()).add(text)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(30)


def test_the_policy_merges_a_hot_task_and_follows_it(serve: Serve) -> None:
    served = serve(engine=EngineSettings(merge="auto"), merge="auto")
    old = served.add("style", "text-generation", seed=1)
    answers: dict[str, set[str]] = {}
    with asking(served, "style", answers):
        wait_until(lambda: merged_digest(served) == old)
        wait_until(lambda: merge_of(served)["measured_gain"] is not None)
        told = merge_of(served)
        assert told["mode"] == "auto" and told["share"] > 0.9 and told["predicted_gain"] > 0
        assert told["last_switch"]["reason"] == "worth it"
        new = served.add("style", "text-generation", seed=3)
        wait_until(lambda: merged_digest(served) == new and new in answers)
    events = served.http.get("/v1/events?task=style").json()["events"]
    assert {event["actor"] for event in events if event["action"] == "merge"} == {"policy"}
    assert {digest: len(texts) for digest, texts in answers.items()} == {old: 1, new: 1}


def test_a_server_can_be_started_with_a_task_pinned_that_comes_later(serve: Serve) -> None:
    served = serve(engine=EngineSettings(merge="pin"), merge="pin:style")
    assert merge_of(served)["mode"] == "pin"
    digest = served.add("style", "text-generation", seed=1)
    wait_until(lambda: merged_digest(served) == digest)


def test_where_merging_is_off_it_cannot_be_asked_for(decoder: Served) -> None:
    for answer in (decoder.http.post("/v1/tasks/style/merge"), put_mode(decoder, mode="auto")):
        assert answer.status_code == 409
        assert answer.json()["error"]["code"] == "merge_refused"
        assert "--merge auto" in answer.json()["error"]["message"]
    assert merge_of(decoder)["mode"] == "off"


@pytest.mark.parametrize(
    ("body", "param"),
    [({"mode": "pin"}, "task"), ({"mode": "auto", "task": "style"}, "task"), ({"mode": "now"}, "mode")],
)
def test_a_mode_that_makes_no_sense_is_refused(decoder: Served, body: dict[str, Any], param: str) -> None:
    answer = put_mode(decoder, **body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_what_cannot_be_merged_is_refused_with_the_reason_and_changes_nothing(merging: Served) -> None:
    digest = merging.http.post("/v1/tasks/style/merge").json()["digest"]
    assert merging.http.post("/v1/tasks/nobody/merge").status_code == 404
    merging.add("draft", "text-generation", seed=5, alias=None)
    refused = merging.http.post("/v1/tasks/draft/merge")
    assert refused.status_code == 409 and "no production version" in refused.json()["error"]["message"]
    wait_until(lambda: merged_digest(merging) == digest)
    assert merge_of(merging)["task"] == "style"


@pytest.mark.parametrize("text", ["on", "pin", "pin:", "pin:Not A Task"])
def test_a_setting_that_names_no_mode_is_refused(text: str) -> None:
    with pytest.raises(SetupError, match="merge"):
        load_settings({"merge": text})
