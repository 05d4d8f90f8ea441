"""The client against real servers: every method's tasks, every kind of request, and all that can go wrong."""

from __future__ import annotations

import dataclasses
import socket
import threading
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager

import pytest

from multigraft_loadtest.client import Client
from multigraft_loadtest.random_adapters import METHODS
from multigraft_loadtest.records import Record, Run
from multigraft_loadtest.report import is_clean, summarise
from multigraft_loadtest.server import Server
from multigraft_loadtest.targets import Target, make_target
from multigraft_loadtest.texts import Lengths
from multigraft_loadtest.workload import Request, Traffic, Workload

SHORT = Lengths(3, 5)


def written(tasks: list[str | None]) -> Traffic:
    return Traffic("generation", tasks, prompt_words=SHORT, output_tokens=Lengths(4, 4))


def labelled(tasks: list[str | None]) -> Traffic:
    return Traffic("classification", tasks, prompt_words=SHORT, texts_per_request=3)


def ask(server: Server, *traffic: Traffic, target: Target | None = None, **loop: object) -> Run:
    fields = {"clients": 4, "num_requests": 20, "warm_up": 0} | loop
    workload = Workload([(one, 1.0) for one in traffic], **fields)  # type: ignore[arg-type]
    return Client(server.url, target or server.target(), timeout_s=30).run(workload)


def test_generation_and_classification_by_every_method_are_right(decoder: Server) -> None:
    tasks = written([f"write-{method}" for method in METHODS]), labelled([f"label-{method}" for method in METHODS])
    run = ask(decoder, *tasks, num_requests=60)
    report = summarise(run, {})
    assert is_clean(report), report["problems"]
    assert report["mismatched"] == 0
    assert set(report["kinds"]) == {"generation", "classification"}
    assert {record.tokens for record in run.records if record.request.kind == "generation"} == {4}
    assert all(record.events_s == sorted(record.events_s) for record in run.records)


def test_an_encoder_classifies_by_every_method_and_its_base_embeds(encoder: Server) -> None:
    bare = Traffic("embedding", [None], prompt_words=SHORT, texts_per_request=3)
    run = ask(encoder, labelled([f"label-{method}" for method in METHODS]), bare, num_requests=40)
    report = summarise(run, {})
    assert is_clean(report), report["problems"]
    assert report["throughput"]["texts_per_s"] > 0


def test_chat_is_streamed_too_and_the_bare_base_answers_for_itself(decoder: Server) -> None:
    run = ask(decoder, written(["write-lora", None]), target=decoder.target("chat"))
    assert is_clean(summarise(run, {}))
    assert {record.adapter == "base" for record in run.records} == {True, False}


def test_an_open_loop_counts_from_the_intended_arrival(decoder: Server) -> None:
    run = ask(decoder, written(["write-lora"]), clients=None, trace=[0.0, 0.05, 0.1], num_requests=None)
    assert [record.intended_s for record in sorted(run.records, key=lambda one: one.intended_s)] == [
        0.0,
        0.05,
        0.1,
    ]
    assert all(record.intended_s <= record.sent_s < record.ended_s for record in run.records)
    assert run.lag_s >= 0


def test_an_answer_by_another_adapter_is_wrong(decoder: Server) -> None:
    target = decoder.target()
    assert target.adapters is not None
    swapped: dict[str | None, AbstractSet[str]] = {}
    swapped |= {"write-lora": target.adapters["write-ia3"], "write-ia3": target.adapters["write-ia3"]}
    run = ask(decoder, written(["write-lora", "write-ia3"]), target=dataclasses.replace(target, adapters=swapped))
    report = summarise(run, {})
    assert report["mismatched"] == report["tasks"]["write-lora"]["requests"]["asked"] > 0
    assert report["tasks"]["write-ia3"]["requests"]["wrong"] == 0
    assert not is_clean(report)


def test_a_base_s_answer_for_a_task_is_wrong(decoder: Server) -> None:
    target = dataclasses.replace(decoder.target(), template="tiny-llama")
    report = summarise(ask(decoder, written(["write-lora"]), target=target), {})
    assert report["mismatched"] == report["requests"]["asked"]


def test_errors_are_counted_by_their_status(decoder: Server) -> None:
    report = summarise(ask(decoder, written(["nobody"]), labelled(["nobody"])), {})
    assert report["codes"] == {"404": 20}
    assert report["requests"]["failed"] == 20
    assert "nobody" in report["problems"][0]


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """The URL of a server that gives this answer once and hangs up; its requests are read first."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer_one() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=answer_one)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join(10)


EVENT = b'data: {"choices":[{"text":"x"}]}\n\n'
DONE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\ndata: [DONE]\n\n'
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.mark.parametrize(
    ("answer", "fate", "code"),
    [
        (STREAM + EVENT + DONE, "right", "200"),
        (CHUNKED + chunk(EVENT[:9]) + chunk(EVENT[9:] + DONE) + chunk(b""), "right", "200"),
        (STREAM + EVENT, "lost", "broken off"),
        (CHUNKED + chunk(EVENT), "lost", "connection"),
        (b"", "lost", "connection"),
        (b"SSH-2.0-x\r\n\r\n", "lost", "connection"),
        (STREAM + EVENT + b'data: {"error":{"message":"no"}}\n\n', "failed", "error event"),
        (STREAM + b"data: [DONE]\n\n", "wrong", "length"),
        (b"HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\n{}", "failed", "503"),
    ],
)
def test_an_answer_is_right_only_when_it_is_whole(answer: bytes, fate: str, code: str) -> None:
    traffic = Traffic("generation", ["t"], prompt_words=SHORT, output_tokens=Lengths(1, 1))
    workload = Workload([(traffic, 1.0)], clients=1, num_requests=1, warm_up=0)
    with answering(answer) as url:
        (record,) = Client(url, Target("vllm", ignores_eos=True)).run(workload).records
    assert (record.fate, record.code) == (fate, code)


def test_lorax_streams_its_own_events() -> None:
    events = b'data:{"token":{"id":1,"text":"x"},"generated_text":null}\n\n'
    events += b'data:{"token":{"id":2,"text":"y"},"generated_text":"xy","details":{"generated_tokens":2}}\n\n'
    traffic = Traffic("generation", ["t"], prompt_words=SHORT, output_tokens=Lengths(2, 2))
    workload = Workload([(traffic, 1.0)], clients=1, num_requests=1, warm_up=0)
    with answering(STREAM + events) as url:
        (record,) = (
            Client(url, make_target("lorax", api="completions", base="", template="{task}")).run(workload).records
        )
    assert (record.fate, record.tokens) == ("right", 2)


def test_no_server_is_a_lost_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    workload = Workload([(written(["t"]), 1.0)], clients=1, num_requests=2, warm_up=0)
    run = Client(f"http://127.0.0.1:{port}", Target("vllm")).run(workload)
    assert [record.code for record in run.records] == ["connection", "connection"]


def test_goodput_counts_right_answers_within_all_limits() -> None:
    request = Request(0, "generation", "t", ("x",), 2)
    fast = Record(request, 0.0, 0.0, 0.3, [0.1, 0.2], 2, fate="right", code="200")
    slow = Record(request, 0.0, 0.0, 2.0, [1.0, 2.0], 2, fate="right", code="200")
    failed = Record(request, 0.0, 0.0, 0.1, fate="failed", code="500")
    goodput = summarise(Run([fast, slow, failed], 2.0), {"ttft": 0.5, "itl": 0.5})["goodput"]
    assert goodput["share"] == pytest.approx(1 / 3)
    assert goodput["requests_per_s"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("name", "route", "fields"),
    [
        ("vllm", "/v1/completions", {"model": "m/t", "ignore_eos": True}),
        ("openai", "/v1/completions", {"model": "m/t"}),
        ("sglang", "/v1/completions", {"model": "base", "lora_path": "m/t", "ignore_eos": True}),
        ("lorax", "/generate_stream", {"inputs": "hello"}),
    ],
)
def test_each_server_is_asked_for_an_adapter_in_its_own_way(
    name: str, route: str, fields: dict[str, object]
) -> None:
    target = make_target(name, api="completions", base="base", template="m/{task}")
    asked, body = target.route_and_body(Request(0, "generation", "t", ("hello",), 3))
    assert asked == route
    assert fields.items() <= body.items()
    if name == "lorax":
        assert body["parameters"]["adapter_id"] == "m/t"
    bare = target.route_and_body(Request(0, "generation", None, ("hello",), 3))[1]
    assert bare.get("model", "base") == "base"
    assert "lora_path" not in bare
