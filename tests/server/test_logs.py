"""The log as JSON: what a line tells of a request, of an error, and what no line ever holds."""

from __future__ import annotations

import io
import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from multigraft_server.backlog import MAX_ITEMS
from multigraft_server.logs import logging_as
from tests.server.conftest import Serve
from tests.server.test_serve import base, started

__all__ = ["base"]  # a fixture

PROMPT = "my-prompt-is-a-secret"
KEY = "the-servers-own-key"
Lines = Callable[[int], list[dict[str, Any]]]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What was logged: `lines(3)` waits for three of requests, written after their answers' last bytes."""
    stream = io.StringIO()
    with logging_as("json", stream):

        def read(num_requests: int) -> list[dict[str, Any]]:
            ends = time.monotonic() + 30
            while True:
                told = [json.loads(line) for line in stream.getvalue().splitlines()]
                if sum(line["event"] == "request" for line in told) >= num_requests:
                    return told
                assert time.monotonic() < ends, told
                time.sleep(0.01)

        yield read


def test_a_prediction_is_one_line_with_who_what_and_how_long(lines: Lines, serve: Serve) -> None:
    served = serve(api_key=KEY)
    served.http.headers["authorization"] = f"Bearer {KEY}"
    digest = served.add("style", "text-generation", seed=3)
    made = served.post("/v1/keys", {"name": "alice", "scopes": ["infer"]}).json()
    asked = {"inputs": PROMPT, "parameters": {"max_new_tokens": 3, "do_sample": False}}
    headers = {"authorization": f"Bearer {made['key']}", "x-request-id": "mine-1"}
    answer = served.http.post("/v1/tasks/style/predict", json=asked, headers=headers)
    assert answer.status_code == 200
    told = [line for line in lines(3) if line["event"] == "request"]
    (line,) = [one for one in told if one["request_id"] == "mine-1"]
    assert (line["method"], line["route"]) == ("POST", "/v1/tasks/{ref:path}/predict")
    assert (line["status"], line["error"], line["outcome"]) == (200, None, "ok")
    assert (line["key"], line["tenant"]) == (made["id"], None)
    assert (line["task"], line["version"], line["digest"]) == ("style", 1, digest)
    assert line["prompt_tokens"] == len(PROMPT)
    assert 1 <= line["generated_tokens"] <= 3
    assert 0 <= line["queue_seconds"] <= line["first_token_seconds"] <= line["seconds"]
    assert line["time"].endswith("Z") and line["level"] == "info"


def test_no_line_holds_a_prompt_or_a_secret(lines: Lines, serve: Serve) -> None:
    served = serve(api_key=KEY)
    served.http.headers["authorization"] = f"Bearer {KEY}"
    served.add("topic", "text-classification", seed=1)
    secret = served.post("/v1/keys", {"name": "bob", "scopes": ["infer"]}).json()["key"]
    served.predict("topic", PROMPT)
    served.predict(PROMPT, PROMPT)
    served.post("/v1/tasks/topic/predict", {"inputs": PROMPT, PROMPT: 1})
    served.http.get(f"/{PROMPT}?key={KEY}")
    served.http.post("/v1/predict", content=PROMPT, headers={"authorization": f"Bearer {secret}"})
    served.http.get("/v1/tasks", headers={"authorization": f"Bearer {PROMPT}"})
    text = json.dumps(lines(8))
    for hidden in (PROMPT, KEY, secret):
        assert hidden not in text


def test_a_request_for_several_tasks_is_one_line_with_each_prediction(lines: Lines, serve: Serve) -> None:
    served = serve()
    served.add("topic", "text-classification", seed=1)
    served.post("/v1/predict", {"inputs": "a", "tasks": ["topic", "nobody", "topic@1"]})
    (line,) = [one for one in lines(2) if one.get("route") == "/v1/predict"]
    assert [one["task"] for one in line["predictions"]] == ["topic", "topic"]
    assert [one["outcome"] for one in line["predictions"]] == ["ok", "ok"]


def test_a_refused_request_tells_its_code_and_probes_are_left_out(lines: Lines, serve: Serve) -> None:
    served = serve()
    served.predict("nobody", "a")
    served.http.get("/nowhere")
    for path in ("/health/live", "/health/ready", "/metrics"):
        assert served.http.get(path).status_code == 200
    told = [(one["status"], one["error"], one["route"]) for one in lines(2) if one["event"] == "request"]
    assert told == [
        (404, "task_not_found", "/v1/tasks/{ref:path}/predict"),
        (404, "route_not_found", None),
    ]


def test_what_breaks_is_a_line_with_its_stack_but_with_no_sentence_that_may_quote_a_caller() -> None:
    def broken(text: str) -> None:
        raise KeyError(text)

    stream = io.StringIO()
    with logging_as("json", stream):
        try:
            broken(PROMPT)
        except KeyError as error:
            logging.getLogger("multigraft_server.api").error("a request failed", exc_info=error)
        logging.getLogger("elsewhere").error("a write failed", exc_info=OSError(28, "No space left on device"))
    ours, theirs = map(json.loads, stream.getvalue().splitlines())
    assert (ours["level"], ours["event"]) == ("error", "a request failed")
    assert (ours["exception"]["type"], ours["exception"]["message"]) == ("builtins.KeyError", None)
    assert any(frame.endswith(" in broken") for frame in ours["exception"]["stack"])
    assert "No space left" in theirs["exception"]["message"]
    assert PROMPT not in stream.getvalue()


class Stalled(io.StringIO):
    """A reader of the log that takes nothing until it goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on = threading.Event()

    def write(self, text: str) -> int:
        assert self.goes_on.wait(60)
        return super().write(text)


def test_a_log_that_nobody_reads_holds_nobody_up_and_says_what_it_left_out() -> None:
    stream, count = Stalled(), 2 * MAX_ITEMS + 100
    with logging_as("json", stream):
        logger = logging.getLogger("multigraft_server.test")
        for number in range(count):
            logger.info("line", extra={"told": {"number": number}})
        stream.goes_on.set()
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    left_out = sum(line["lines"] for line in told if line["event"] == "log-lines-left-out")
    numbers = [line["number"] for line in told if line["event"] == "line"]
    assert left_out >= 100
    assert len(numbers) + left_out == count
    assert numbers == sorted(numbers)


def test_a_server_logs_that_it_is_ready_and_that_it_stops(base: Path, tmp_path: Path) -> None:
    options = ("--base", str(base), "--data-dir", str(tmp_path), "--port", "0", "--log-format", "json")
    with started(*options) as (process, url):
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    told = [json.loads(line) for line in errors.splitlines()]
    events = [line["event"] for line in told if line["logger"] == "multigraft_server.server"]
    assert events == ["ready", "stopping", "stopped"]
    assert next(line["url"] for line in told if line["event"] == "ready") == url
