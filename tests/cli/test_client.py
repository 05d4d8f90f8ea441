"""The client against a server's answers, good and bad."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from multigraft_adapters.artifact import ARTIFACT_FILES
from multigraft_adapters.client import Client, Pushed
from multigraft_adapters.errors import InvalidRequestError, RemoteError, ServerUnreachableError
from tests.cli.stub import Answer, StubServer, error, events

DIGEST = "sha256:" + "ab" * 32
HEADERS = {"X-Multigraft-Task": "topic", "X-Multigraft-Version": "3", "X-Multigraft-Adapter": DIGEST}
MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture
def client(server: StubServer) -> Iterator[Client]:
    with Client(server.url + "/", api_key="secret") as connected:
        yield connected


def chunk(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


def test_predict_sends_the_payload_and_returns_the_output(client: Client, server: StubServer) -> None:
    output = [[{"label": "good", "score": 0.9}]]
    server.answers["POST /v1/tasks/topic@3/predict"] = Answer(output, headers=HEADERS)
    answered, headers = client.predict("topic@3", "héllo", {"top_k": 1})
    assert answered == output
    assert headers["x-multigraft-adapter"] == DIGEST
    assert server.asked[0].json() == {"inputs": "héllo", "parameters": {"top_k": 1}}
    assert server.asked[0].headers["authorization"] == "Bearer secret"
    assert server.asked[0].headers["content-type"] == "application/json"


def test_a_reference_stays_one_part_of_the_path(client: Client, server: StubServer) -> None:
    with pytest.raises(RemoteError):
        client.predict("../tasks?a=b#c", "x")
    assert server.asked[0].path == "/v1/tasks/..%2Ftasks%3Fa%3Db%23c/predict"


def test_fan_out_asks_several_tasks_at_once(client: Client, server: StubServer) -> None:
    results = [{"task": "topic", "version": 1, "adapter": DIGEST, "output": []}]
    server.answers["POST /v1/predict"] = Answer({"results": results}, headers={"X-Some": "1"})
    answered, headers = client.fan_out(["topic", "style@2"], "hello")
    assert (answered, headers["x-some"]) == (results, "1")
    assert server.asked[0].json() == {"inputs": "hello", "tasks": ["topic", "style@2"]}


def test_chat_returns_the_completion(client: Client, server: StubServer) -> None:
    completion = {"choices": [{"message": {"role": "assistant", "content": "hi"}}]}
    server.answers["POST /v1/chat/completions"] = Answer(completion)
    assert client.chat("style", MESSAGES, max_tokens=4) == completion
    assert server.asked[0].json() == {"model": "style", "messages": MESSAGES, "max_tokens": 4}


def test_a_streamed_chat_yields_the_chunks_as_they_are(client: Client, server: StubServer) -> None:
    chunks = [chunk("one\u2028line \x85"), chunk("ünd\nmore"), chunk("")]
    server.answers["POST /v1/chat/completions"] = events(*chunks)
    assert list(client.chat("style", MESSAGES, stream=True)) == chunks
    assert server.asked[0].json()["stream"] is True


def test_comments_and_carriage_returns_of_a_stream_are_no_events(client: Client, server: StubServer) -> None:
    body = b': ping\r\n\r\nevent: x\r\ndata:{"a": 1}\r\n\r\ndata: [DONE]\r\n\r\n'
    server.answers["POST /v1/chat/completions"] = Answer(body)
    assert list(client.chat("style", MESSAGES, stream=True)) == [{"a": 1}]


@pytest.mark.parametrize(
    ("answer", "message", "count"),
    [
        (events(chunk("a"), {"error": {"message": "it broke", "code": "step_failed"}}), "it broke", 1),
        (events(chunk("a"), done=False), "ended before its answer was complete", 1),
        (events(chunk("a"), [1]), "not a JSON object", 1),
        (Answer(b"data: {half\n\n"), "not a JSON object", 0),
        (error("the queue is full", "overloaded", 503), "the queue is full", 0),
    ],
)
def test_a_stream_that_goes_wrong_raises_after_what_came(
    client: Client, server: StubServer, answer: Answer, message: str, count: int
) -> None:
    server.answers["POST /v1/chat/completions"] = answer
    seen = []
    with pytest.raises(RemoteError, match=message) as caught:
        for event in client.chat("style", MESSAGES, stream=True):
            seen.append(event)
    assert len(seen) == count
    assert caught.value.status == answer.status


def test_a_stream_may_be_closed_early(client: Client, server: StubServer) -> None:
    server.answers["POST /v1/chat/completions"] = events(*[chunk("a")] * 5)
    stream = client.chat("style", MESSAGES, stream=True)
    assert next(stream) == chunk("a")
    stream.close()  # type: ignore[attr-defined]
    assert list(client.chat("style", MESSAGES, stream=True)) == [chunk("a")] * 5


@pytest.mark.parametrize(("status", "created"), [(201, True), (200, False)])
def test_push_sends_the_three_files_and_names_the_others(
    client: Client, server: StubServer, artifact: Path, status: int, created: bool
) -> None:
    answer = {"task": "topic", "version": 3, "digest": DIGEST}
    server.answers["POST /v1/tasks/topic/versions"] = Answer(answer, status)
    pushed = client.push(artifact, "topic", alias="production")
    assert pushed == Pushed("topic", 3, DIGEST, created, ("README.md",))
    assert server.asked[0].path == "/v1/tasks/topic/versions?alias=production"
    expected = [("file", name, (artifact / name).read_bytes()) for name in ARTIFACT_FILES]
    assert sorted(server.asked[0].parts(), key=str) == sorted(expected, key=str)


def test_push_sends_what_a_foreign_adapter_lacks(client: Client, server: StubServer, artifact: Path) -> None:
    server.answers["POST /v1/tasks/topic/versions"] = Answer({"task": "topic", "version": 1, "digest": DIGEST})
    client.push(artifact, "topic", declaration={"task_type": "feature-extraction"})
    assert server.asked[0].path == "/v1/tasks/topic/versions"
    assert ("task", None, b'{"task_type": "feature-extraction"}') in server.asked[0].parts()


def test_an_alias_is_set_with_the_revision_that_was_seen(client: Client, server: StubServer) -> None:
    moved = {"task": "topic", "alias": "canary", "version": 2, "revision": 5}
    server.answers["PUT /v1/tasks/topic/aliases/canary"] = Answer(moved)
    assert client.set_alias("topic", "canary", 2, if_match=4) == moved
    assert client.set_alias("topic", "canary", 2) == moved
    assert [asked.headers.get("if-match") for asked in server.asked] == ['"4"', None]
    assert server.asked[0].json() == {"version": 2}


def test_rollback_tasks_and_engine_answer_as_the_server_does(client: Client, server: StubServer) -> None:
    server.answers |= {
        "POST /v1/tasks/topic/rollback": Answer({"version": 1}),
        "GET /v1/tasks": Answer({"tasks": [{"name": "topic"}]}),
        "GET /v1/tasks/topic": Answer({"name": "topic"}),
        "GET /v1/engine": Answer({"slots": 16}),
    }
    assert client.rollback("topic") == {"version": 1}
    assert server.asked[0].json() == {"alias": "production"}
    assert client.tasks() == [client.task("topic")] == [{"name": "topic"}]
    assert client.engine() == {"slots": 16}


def test_readiness_is_true_or_false(client: Client, server: StubServer, nobody: str) -> None:
    server.answers["GET /health/ready"] = Answer({"status": "ready"})
    assert client.health_ready()
    server.answers["GET /health/ready"] = error("draining", "draining", 503)
    assert not client.health_ready()
    with Client(nobody) as lonely:
        assert not lonely.health_ready()


def test_an_error_keeps_the_servers_sentence_status_and_code(client: Client, server: StubServer) -> None:
    server.answers["GET /v1/tasks/x"] = error("no task is named 'x'", "task_not_found", 404)
    with pytest.raises(RemoteError) as caught:
        client.task("x")
    raised = caught.value
    assert (raised.message, raised.status, raised.remote_code, raised.param) == (
        "no task is named 'x'",
        404,
        "task_not_found",
        "task",
    )


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"error": "x"}', b'{"error": {}}', b"\xff", b""])
def test_an_error_of_another_shape_is_told_by_its_status(client: Client, server: StubServer, body: bytes) -> None:
    server.answers["GET /v1/engine"] = Answer(body, 502)
    with pytest.raises(RemoteError, match="answered with status 502"):
        client.engine()


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"7", b'{"tasks": 7}', b""])
def test_another_servers_answer_is_refused(client: Client, server: StubServer, body: bytes) -> None:
    server.answers["GET /v1/tasks"] = Answer(body)
    with pytest.raises(RemoteError, match="did not answer as a multigraft server does"):
        client.tasks()


CALLS: list[Callable[[Client], object]] = [
    lambda client: client.tasks(),
    lambda client: client.predict("topic", "x"),
    lambda client: list(client.chat("style", MESSAGES, stream=True)),
]


@pytest.mark.parametrize("call", CALLS)
def test_no_server_is_one_clear_sentence(nobody: str, call: Callable[[Client], object]) -> None:
    with Client(nobody) as client, pytest.raises(ServerUnreachableError) as caught:
        call(client)
    assert caught.value.message == f"no server at {nobody}; start one with `multigraft serve`"


def test_an_answer_that_breaks_off_is_told(client: Client, server: StubServer) -> None:
    server.answers["GET /v1/engine"] = Answer({"slots": 16}, length=1000)
    with pytest.raises(ServerUnreachableError, match="broke off"):
        client.engine()


def test_a_proxy_is_not_asked_for_this_machine(
    server: StubServer, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", nobody)
    server.answers["GET /v1/engine"] = Answer({"slots": 16})
    with Client(server.url) as client:
        assert client.engine() == {"slots": 16}


@pytest.mark.parametrize("url", ["", "127.0.0.1:8100", "ftp://host", "http://", "http://host:port", "http://[::1"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequestError, match="http://host:port"):
        Client(url)


def test_what_json_cannot_hold_is_refused_before_it_is_sent(client: Client, server: StubServer) -> None:
    with pytest.raises(InvalidRequestError, match="JSON"):
        client.predict("topic", "x", {"temperature": float("nan")})
    assert server.asked == []
