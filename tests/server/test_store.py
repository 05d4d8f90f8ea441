"""The store behind a server: on S3, slow, down or full; and more uploads than it takes."""

from __future__ import annotations

import json
import resource
import select
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from multigraft_adapters.artifact import TENSORS_FILE
from tests.s3 import S3, running_s3
from tests.server.conftest import Serve
from tests.server.made import adapter_files
from tests.server.running import Served

BOUNDARY = "x"
PART = b'--x\r\ncontent-disposition: form-data; name="file"; filename="adapter_model.safetensors"\r\n\r\n'


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """An S3 server of one's own, which a test may stop."""
    with running_s3(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def on_s3(fragile: S3, serve: Serve) -> Served:
    return serve(store_url=fragile.new_url(), store_timeout_seconds=2.0)


@contextmanager
def half_sent(served: Served) -> Iterator[socket.socket]:
    """A connection on which half an upload was sent."""
    head = (
        "POST /v1/tasks/topic/versions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 100000\r\n"
        f"content-type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", int(served.url.rpartition(":")[2])), timeout=10) as connection:
        connection.sendall(head.encode() + PART + b"x" * 1000)
        yield connection


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """No file may grow over `limit` bytes: a write beyond it fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def error_of(response: httpx.Response) -> str:
    assert response.json()["error"]["message"]
    code = response.json()["error"]["code"]
    assert isinstance(code, str)
    return code


def test_what_is_uploaded_to_s3_is_served_and_is_the_same_twice(on_s3: Served, fragile: S3) -> None:
    files = adapter_files(on_s3.spec, "text-classification", seed=1)
    first = on_s3.upload("topic", files, "production")
    again = on_s3.upload("topic", files)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    answer = on_s3.predict("topic", "where is it")
    assert answer.headers["x-multigraft-adapter"] == first.json()["digest"]
    assert on_s3.parts.store.digests() == [first.json()["digest"]]


def test_the_same_content_uploaded_at_once_is_one_version(serve: Serve) -> None:
    served = serve(max_uploads=4)
    files = adapter_files(served.spec, "text-classification", seed=1)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: served.upload("topic", files, "production"), range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 201]
    [told] = {tuple(answer.json().values()) for answer in answers}
    assert served.parts.store.digests() == [told[2]]


def test_a_store_that_does_not_answer_costs_only_those_who_need_it(on_s3: Served, fragile: S3) -> None:
    warm = on_s3.add("warm", "text-classification", seed=1)
    on_s3.add("cold", "text-classification", seed=2)
    before = on_s3.predict("warm", "a").json()
    with fragile.stopped():
        cold: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: cold.append(on_s3.predict("cold", "a")))
        asking.start()
        seconds = []
        while asking.is_alive():
            started = time.monotonic()
            answer = on_s3.predict("warm", "a")
            seconds.append(time.monotonic() - started)
            assert answer.json() == before
            assert answer.headers["x-multigraft-adapter"] == warm
            time.sleep(0.02)
        assert len(seconds) > 1
        again = on_s3.predict("cold", "a")
        refused = on_s3.upload("new", adapter_files(on_s3.spec, "text-classification", seed=3))
    for response in (cold[0], again, refused):
        assert response.status_code == 503
        assert error_of(response) == "store_unavailable"
        assert response.headers["retry-after"]
        assert fragile.endpoint not in response.text
    assert on_s3.http.get("/v1/tasks/new").status_code == 404
    assert on_s3.upload("new", adapter_files(on_s3.spec, "text-classification", seed=3)).status_code == 201


def test_an_upload_that_stops_halfway_leaves_nothing_and_its_room_is_free_again(serve: Serve) -> None:
    served = serve(max_uploads=1, body_timeout_seconds=0.3)
    with half_sent(served) as connection:
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 408") and b"halfway" in answer
    with half_sent(served):
        pass
    deadline = time.monotonic() + 10
    files = adapter_files(served.spec, "text-classification")
    while served.upload("topic", files).status_code == 503 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [task["name"] for task in served.http.get("/v1/tasks").json()["tasks"]] == ["topic"]
    assert len(served.parts.store.digests()) == 1


def test_more_uploads_at_once_than_are_taken_are_a_503_before_they_are_read(serve: Serve) -> None:
    served = serve(max_uploads=2, retry_after_seconds=7)
    with half_sent(served) as first, half_sent(served) as second, half_sent(served) as third:
        answered, _, _ = select.select([first, second, third], [], [], 20)
        assert len(answered) == 1
        head, _, body = answered[0].recv(65536).decode().partition("\r\n\r\n")
        assert head.startswith("HTTP/1.1 503") and "retry-after: 7" in head
        assert json.loads(body)["error"]["code"] == "overloaded"
        files = adapter_files(served.spec, "text-classification")
        assert error_of(served.upload("topic", files)) == "overloaded"
        assert served.http.get("/health/ready").status_code == 200


@pytest.mark.parametrize("limit", [100_000, 1_500_000])
def test_a_disk_that_is_full_keeps_nothing_of_an_upload_and_what_is_there_is_served_on(
    serve: Serve, tmp_path: Path, limit: int
) -> None:
    served = serve()
    served.add("topic", "text-classification", seed=1)
    before = served.predict("topic", "a").json()
    files = adapter_files(served.spec, "text-classification", seed=2, rank=256)
    files[TENSORS_FILE] = padded(files[TENSORS_FILE], 2 * limit)
    with small_files(limit):
        response = served.upload("topic", files, "production")
        assert served.predict("topic", "a").json() == before
    assert response.status_code == 503
    assert error_of(response) == "store_unavailable"
    assert "File too large" in response.json()["error"]["message"]
    assert str(tmp_path) not in response.text
    assert len(served.parts.store.digests()) == len(served.http.get("/v1/tasks/topic").json()["versions"]) == 1
    assert list((tmp_path / "store" / "tmp").iterdir()) == []
    assert served.upload("topic", files, "production").status_code == 201


def padded(tensors: bytes, num_bytes: int) -> bytes:
    """The same tensors in a file that is longer, by metadata that means nothing."""
    length = int.from_bytes(tensors[:8], "little")
    header = json.loads(tensors[8 : 8 + length])
    header["__metadata__"]["note"] = "x" * max(0, num_bytes - len(tensors))
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + tensors[8 + length :]
