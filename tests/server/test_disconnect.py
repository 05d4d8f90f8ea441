"""A client that goes away frees its row within a step, whatever it had asked for."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from multigraft_server.engine.settings import EngineSettings
from multigraft_server.logs import REQUESTS
from tests.server.conftest import Serve
from tests.server.running import Served
from tests.server.test_bodies import connected

OWN_KEY = "the-server-s-own-key"
PAUSE_SECONDS = 0.05
TOKENS = 200
MESSAGES = [{"role": "user", "content": "hello"}]
LONG: dict[str, Any] = {"model": "tiny-llama", "max_tokens": TOKENS, "ignore_eos": True}
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "a chat": ("/v1/chat/completions", {**LONG, "messages": MESSAGES}),
    "a streamed chat": ("/v1/chat/completions", {**LONG, "messages": MESSAGES, "stream": True}),
    "completions": ("/v1/completions", {**LONG, "prompt": ["a", "b"]}),
    "streamed completions": ("/v1/completions", {**LONG, "prompt": ["a", "b"], "stream": True}),
    "a prediction": ("/v1/tasks/style/predict", {"inputs": "a", "parameters": {"max_new_tokens": TOKENS}}),
    "a streamed prediction": (
        "/v1/tasks/style/predict",
        {"inputs": "a", "parameters": {"max_new_tokens": TOKENS}, "stream": True},
    ),
    "a fan-out": (
        "/v1/predict",
        {"inputs": "a", "tasks": ["style", "style@1"], "parameters": {"max_new_tokens": TOKENS}},
    ),
}


@pytest.fixture
def served(serve: Serve) -> Served:
    started = serve(pause_seconds=PAUSE_SECONDS)
    started.add("style", "text-generation", seed=3)
    return started


def send(connection: socket.socket, path: str, body: dict[str, Any], key: str = "") -> None:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    head += f"authorization: Bearer {key}\r\n" if key else ""
    connection.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.002)


@pytest.mark.parametrize("asked", ASKED)
def test_a_client_that_goes_away_frees_its_rows_within_a_step(served: Served, asked: str) -> None:
    engine, leases = served.parts.engine, served.parts.leases
    with connected(served) as connection:
        send(connection, *ASKED[asked])
        wait_for(lambda: engine.snapshot().running > 0 and engine.snapshot().steps > 2)
        assert leases.total > 0
    left_at = engine.snapshot().steps
    wait_for(lambda: engine.snapshot().running == 0 and leases.total == 0)
    assert engine.snapshot().steps - left_at <= 3  # the step that ran, and one that had begun before the news
    leases.check_integrity()
    assert sum(served.counted(task=task, outcome="cancelled") for task in ("tiny-llama", "style")) >= 1


def test_a_client_that_goes_away_while_it_waits_in_the_queue_never_runs(serve: Serve) -> None:
    served = serve(pause_seconds=PAUSE_SECONDS, engine=EngineSettings(max_running_rows=1))
    engine = served.parts.engine
    with connected(served) as first:
        send(first, *ASKED["a chat"])
        wait_for(lambda: engine.snapshot().running == 1)
        with connected(served) as second:
            send(second, *ASKED["a streamed chat"])
            wait_for(lambda: engine.snapshot().waiting == 1)
        wait_for(lambda: engine.snapshot().waiting == 0)
        assert engine.snapshot().running == 1


def test_a_full_queue_is_a_503_that_says_when_to_come_again(serve: Serve) -> None:
    served = serve(pause_seconds=PAUSE_SECONDS, engine=EngineSettings(max_waiting_requests=1))
    with connected(served) as first:
        send(first, *ASKED["a chat"])
        wait_for(lambda: served.parts.engine.snapshot().running == 1)
        for path, body in (ASKED["a chat"], ASKED["a streamed chat"]):
            refused = served.post(path, body)
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["code"] == "overloaded"
        several = served.post("/v1/completions", {**LONG, "prompt": ["a", "b", "c"]})
        assert several.status_code == 503
        assert served.parts.leases.total == 1
    assert served.counted(task="tiny-llama", outcome="unavailable") == 3


def test_a_request_that_would_wait_too_long_is_refused_before_it_is_read_and_other_tasks_are_answered(
    serve: Serve,
) -> None:
    bounds = EngineSettings(max_running_rows=2, max_waiting_rounds=0.5)
    served = serve(pause_seconds=PAUSE_SECONDS, engine=bounds)
    for seed, task in enumerate(("hot", "cold")):
        served.add(task, "text-generation", seed=seed)
    served.notice()
    long = {"model": "hot", "prompt": ["a"] * 3, "max_tokens": TOKENS, "ignore_eos": True}
    with connected(served) as first:
        send(first, "/v1/completions", long)  # one of its three prompts waits
        wait_for(lambda: served.parts.engine.snapshot().running == 2)
        wait_for(lambda: served.parts.engine.snapshot().waiting == 1)
        for path, body in (("/v1/tasks/hot/predict", b"{"), ("/v1/completions", json.dumps(long).encode())):
            refused = served.http.post(path, content=body, headers={"content-type": "application/json"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
            assert refused.headers["retry-after"] == "1"
        assert served.post("/v1/tasks/hot@9/predict", {"inputs": "a"}).status_code == 404
        assert served.parts.leases.total == 1
        with connected(served) as second:
            send(second, "/v1/completions", {**long, "model": "cold", "prompt": "a"})
            wait_for(lambda: served.parts.engine.snapshot().waiting == 2)
    assert served.counted(task="hot", outcome="unavailable") == 2


def test_a_refusal_is_the_same_before_the_application_as_in_it(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    bounds = EngineSettings(max_running_rows=2, max_waiting_rounds=0.5)
    served = serve(pause_seconds=PAUSE_SECONDS, engine=bounds, retry_after_seconds=7)
    served.add("hot", "text-generation")
    served.notice()
    with connected(served) as first:
        send(
            first,
            "/v1/completions",
            {"model": "hot", "prompt": ["a"] * 3, "max_tokens": TOKENS, "ignore_eos": True},
        )
        wait_for(lambda: served.parts.engine.snapshot().waiting == 1)

        def refused(name: str) -> tuple[int, dict[str, str], bytes]:
            answer = served.http.post("/v1/tasks/hot/predict", content=b"{", headers={"x-request-id": name})
            return answer.status_code, {**answer.headers, "date": ""}, answer.content

        quick = refused("one")
        assert not caplog.records
        with caplog.at_level(logging.INFO, logger=REQUESTS.name):  # whoever is told of requests has them all
            slow = refused("one")
        (record,) = (one for one in caplog.records if one.name == REQUESTS.name)
        told = record.told.told()  # type: ignore[attr-defined]
        assert (told["status"], told["task"], told["outcome"]) == (503, "hot", "unavailable")
        assert quick == slow
        assert (quick[0], quick[1]["retry-after"], quick[1]["x-request-id"]) == (503, "7", "one")
    assert served.counted(task="hot", outcome="unavailable") == 2


def test_a_full_queue_tells_nobody_of_a_task_that_is_not_theirs(serve: Serve) -> None:
    bounds = EngineSettings(max_running_rows=2, max_waiting_rounds=0.5)
    served = serve(pause_seconds=PAUSE_SECONDS, engine=bounds, api_key=OWN_KEY)
    served.http.headers["authorization"] = f"Bearer {OWN_KEY}"
    served.add("hot", "text-generation")
    other = served.post("/v1/keys", {"name": "other", "scopes": ["infer:cold"]}).json()["key"]
    with connected(served) as first:
        long = {"model": "hot", "prompt": ["a"] * 3, "max_tokens": TOKENS, "ignore_eos": True}
        send(first, "/v1/completions", long, OWN_KEY)
        wait_for(lambda: served.parts.engine.snapshot().waiting == 1)
        answers = {
            key: served.post("/v1/tasks/hot/predict", {"inputs": "a"}, headers={"authorization": f"Bearer {key}"})
            for key in (OWN_KEY, other, "wrong")
        }
        assert [answer.status_code for answer in answers.values()] == [503, 404, 401]


def test_a_request_that_takes_too_long_is_a_504_and_a_stream_ends_with_an_error(serve: Serve) -> None:
    served = serve(pause_seconds=PAUSE_SECONDS, request_timeout_seconds=0.5)
    whole = served.post(*ASKED["a chat"])
    streamed = served.post(*ASKED["a streamed chat"])
    assert whole.status_code == 504
    assert whole.json()["error"]["code"] == "deadline_exceeded"
    last = [line for line in streamed.text.splitlines() if line][-1]
    assert streamed.status_code == 200
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
    assert served.counted(task="tiny-llama", outcome="deadline") == 2


def test_a_server_that_stops_ends_its_streams_with_an_error(serve: Serve) -> None:
    served = serve(pause_seconds=PAUSE_SECONDS)
    path, body = ASKED["a streamed chat"]
    with served.http.stream("POST", path, json=body) as response:
        lines = (line for line in response.iter_lines() if line)
        next(lines)
        served.parts.engine.stop()
        last = list(lines)[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "draining"


def test_a_client_that_does_not_read_its_stream_is_cut_off_and_frees_its_rows(serve: Serve) -> None:
    served = serve(stall_seconds=0.5)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        connection.connect(("127.0.0.1", int(served.url.rpartition(":")[2])))
        send(connection, "/v1/completions", {**LONG, "prompt": ["a"] * 64, "stream": True})
        wait_for(lambda: served.counted(task="tiny-llama", outcome="cancelled") == 1, 60)
        wait_for(lambda: served.parts.engine.snapshot().running == 0 and served.parts.leases.total == 0)
        with suppress(ConnectionError):  # what it had not read may still come, and then the end
            while connection.recv(65536):
                pass


def test_a_client_that_reads_slowly_gets_all_of_its_stream(serve: Serve) -> None:
    served = serve(stall_seconds=2.0)
    body = {**LONG, "prompt": ["a"] * 16, "stream": True}
    with served.http.stream("POST", "/v1/completions", json=body) as response:
        lines: list[str] = []
        for line in response.iter_lines():
            if line and len(lines) % 400 == 0:
                time.sleep(0.1)
            lines.append(line)
    assert "data: [DONE]" in lines
