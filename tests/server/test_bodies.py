"""Bodies that are too large, that stop halfway, or whose client goes away."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.server.conftest import Serve
from tests.server.running import Served


@contextmanager
def connected(served: Served) -> Iterator[socket.socket]:
    port = int(served.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        yield connection


def head(length: int | None, *more: str) -> bytes:
    size = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    lines = ["POST /v1/predict HTTP/1.1", "host: 127.0.0.1", "content-type: application/json", size, *more]
    return "\r\n".join([*lines, "", ""]).encode()


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """The status, headers and body of one answer."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += received(connection)
    text, _, body = data.partition(b"\r\n\r\n")
    status, *lines = text.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    while len(body) < int(headers["content-length"]):
        body += received(connection)
    return int(status.split()[1]), headers, body


def received(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    assert data, "the server closed the connection"
    return data


@pytest.fixture
def served(serve: Serve) -> Served:
    return serve(max_body_bytes=2048, body_timeout_seconds=0.3)


def test_a_declared_length_over_the_cap_is_refused_unread_and_the_connection_lives(served: Served) -> None:
    with connected(served) as connection:
        connection.sendall(head(5000))
        status, _, body = read_answer(connection)
        assert status == 413
        assert json.loads(body)["error"]["code"] == "payload_too_large"
        connection.sendall(b"x" * 5000 + head(2) + b"{}")
        assert read_answer(connection)[0] == 400


def test_a_chunked_body_that_grows_over_the_cap_is_refused_and_the_connection_lives(served: Served) -> None:
    with connected(served) as connection:
        connection.sendall(head(None) + b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
        assert read_answer(connection)[0] == 413
        connection.sendall(b"0\r\n\r\n" + head(2) + b"{}")
        assert read_answer(connection)[0] == 400


def test_a_body_of_the_cap_s_size_is_read(served: Served) -> None:
    body = json.dumps({"inputs": "", "tasks": ["x"]}).encode()
    body = body.replace(b'""', b'"' + b"x" * (2048 - len(body)) + b'"')
    with connected(served) as connection:
        connection.sendall(head(len(body)) + body)
        assert read_answer(connection)[0] == 200


def test_a_body_that_stops_halfway_is_a_408_after_the_time_limit(served: Served) -> None:
    with connected(served) as connection:
        started = time.monotonic()
        connection.sendall(head(100) + b'{"inputs":')
        status, headers, body = read_answer(connection)
        assert status == 408
        assert "halfway" in json.loads(body)["error"]["message"]
        assert headers["connection"] == "close"
        assert 0.2 < time.monotonic() - started < 5
    assert served.http.get("/health/ready").status_code == 200


def test_a_client_that_leaves_in_the_middle_of_its_body_harms_nobody(served: Served) -> None:
    for _ in range(3):
        with connected(served) as connection:
            connection.sendall(head(100) + b'{"inputs":')
    assert served.http.get("/health/ready").status_code == 200
    assert served.parts.leases.total == 0


def test_a_slow_body_is_waited_for_as_long_as_something_comes(served: Served) -> None:
    body = b'{"inputs": "a", "tasks": ["x"]}'
    with connected(served) as connection:
        connection.sendall(head(len(body)))
        for place in range(0, len(body), 8):
            connection.sendall(body[place : place + 8])
            time.sleep(0.1)
        assert read_answer(connection)[0] == 200


def test_what_is_no_http_ends_its_own_connection_only(served: Served) -> None:
    with connected(served) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")
    assert served.http.get("/health/ready").status_code == 200


def test_a_body_that_comes_too_slowly_is_a_408_however_steadily_it_comes(serve: Serve) -> None:
    served = serve(body_timeout_seconds=5.0, request_timeout_seconds=0.4)
    with connected(served) as connection:
        connection.sendall(head(1000))
        answered, started = b"", time.monotonic()
        connection.settimeout(0.1)
        while not answered and time.monotonic() - started < 10:
            connection.sendall(b"x")
            with suppress(TimeoutError):
                answered = connection.recv(65536)
        assert answered.startswith(b"HTTP/1.1 408")
        assert b"too slowly" in answered


@pytest.mark.parametrize(
    "lines",
    [[f"x-{number}: 1" for number in range(200)], ["x-long: " + "a" * 100_000]],
    ids=["many", "long"],
)
def test_a_head_over_the_cap_is_a_431_in_the_one_shape(served: Served, lines: list[str]) -> None:
    with connected(served) as connection:
        connection.sendall(head(2, *lines) + b"{}")
        status, headers, body = read_answer(connection)
        assert (status, headers["connection"]) == (431, "close")
        assert json.loads(body)["error"]["code"] == "head_too_large"


def test_a_head_without_an_end_is_refused_before_it_takes_memory(served: Served) -> None:
    with connected(served) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nx: ")
        with suppress(ConnectionError):
            for _ in range(40):
                connection.sendall(b"a" * 4096)
                time.sleep(0.005)
        assert connection.recv(65536).startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nhost: "], ids=["nothing", "half a head"])
def test_a_connection_that_sends_no_head_is_closed_in_time(served: Served, sent: bytes) -> None:
    with connected(served) as connection:
        connection.sendall(sent)
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 408") if sent else answer == b""


def test_a_kept_connection_may_idle_longer_than_a_head_may_take(served: Served) -> None:
    with connected(served) as connection:
        for _ in range(2):
            connection.sendall(head(2) + b"{}")
            assert read_answer(connection)[0] == 400
            time.sleep(0.5)
