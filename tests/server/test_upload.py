"""`POST /v1/tasks/{task}/versions`: what is kept, and what is refused without a trace."""

from __future__ import annotations

import gc
import json
import struct
from collections.abc import Callable, Iterator

import pytest

from multigraft_adapters.artifact import CONFIG_FILE, MANIFEST_FILE, TENSORS_FILE
from tests.server.conftest import Serve
from tests.server.made import adapter_files
from tests.server.running import Served

Files = dict[str, bytes]


@pytest.fixture
def served(serve: Serve) -> Served:
    return serve()


def topic_files(served: Served, seed: int = 0) -> Files:
    return adapter_files(served.spec, "text-classification", seed=seed)


def test_an_adapter_becomes_the_next_version(served: Served) -> None:
    first = served.upload("topic", topic_files(served, 1))
    second = served.upload("topic", topic_files(served, 2))
    assert first.status_code == second.status_code == 201
    assert first.json() == {"task": "topic", "version": 1, "digest": first.json()["digest"]}
    assert second.json()["version"] == 2
    assert served.parts.store.digests() == sorted([first.json()["digest"], second.json()["digest"]])


def test_the_same_content_again_is_the_version_it_was_and_is_promoted_all_the_same(served: Served) -> None:
    first = served.upload("topic", topic_files(served))
    assert served.predict("topic", "a").status_code == 404
    again = served.upload("topic", topic_files(served), alias="production")
    assert again.status_code == 200
    assert again.json() == first.json()
    assert served.predict("topic", "a").headers["x-multigraft-adapter"] == first.json()["digest"]


def test_an_upload_is_served_at_once(served: Served) -> None:
    served.upload("topic", topic_files(served, 1), alias="production")
    before = served.predict("topic", "where is it").json()
    served.upload("topic", topic_files(served, 2), alias="production")
    after = served.predict("topic", "where is it")
    assert after.headers["x-multigraft-version"] == "2"
    assert after.json() != before
    assert served.predict("topic@1", "where is it").json() == before


def test_a_foreign_adapter_is_accepted_with_a_declaration(served: Served) -> None:
    files = topic_files(served)
    del files[MANIFEST_FILE]
    refused = served.upload("topic", files)
    declaration = {"id2label": {"0": "x", "1": "y", "2": "z"}}
    accepted = served.upload("topic", files, "production", data={"task": json.dumps(declaration)})
    assert refused.status_code == 400
    assert "id2label" in refused.json()["error"]["message"]
    assert accepted.status_code == 201, accepted.text
    [answer] = served.predict("topic", "a").json()
    assert {entry["label"] for entry in answer} == {"x", "y", "z"}


SPOILED: dict[str, tuple[Callable[[Files], object], str]] = {
    "a pickle": (lambda files: files.update({"adapter_model.bin": b"\x80\x04"}), "pickle"),
    "a path": (lambda files: files.update({"../../evil": b""}), "plain file name"),
    "a spare file": (lambda files: files.update({"README.md": b"hello"}), "README.md"),
    "no config": (lambda files: files.pop(CONFIG_FILE), "adapter_config.json is missing"),
    "no tensors": (lambda files: files.pop(TENSORS_FILE), "adapter_model.safetensors is missing"),
    "truncated tensors": (lambda files: files.update({TENSORS_FILE: files[TENSORS_FILE][:200]}), "safetensors"),
    "a hostile header": (lambda files: files.update({TENSORS_FILE: struct.pack("<Q", 2**62)}), "safetensors"),
    "no JSON": (lambda files: files.update({MANIFEST_FILE: b"{"}), "task.json"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_adapter_is_refused_and_nothing_of_it_is_kept(served: Served, case: str) -> None:
    spoil, reason = SPOILED[case]
    files = topic_files(served)
    spoil(files)
    response = served.upload("topic", files, alias="production")
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_adapter"
    assert reason in response.json()["error"]["message"]
    assert served.parts.store.digests() == []
    assert served.http.get("/v1/tasks").json() == {"tasks": []}


def test_every_problem_is_named_at_once(served: Served) -> None:
    files = topic_files(served) | {"weights.pkl": b"", MANIFEST_FILE: b"[]"}
    del files[CONFIG_FILE]
    message = served.upload("topic", files).json()["error"]["message"]
    assert all(name in message for name in ("weights.pkl", MANIFEST_FILE, CONFIG_FILE))


def test_an_adapter_of_another_base_is_refused(served: Served) -> None:
    files = adapter_files(served.spec, "text-classification", base={"fingerprint": "sha256:" + "0" * 64})
    assert served.upload("topic", files).json()["error"]["code"] == "invalid_adapter"


def test_a_file_that_is_there_twice_is_refused(served: Served) -> None:
    files = list(topic_files(served).items())
    response = served.upload("topic", [*files, files[0]])
    assert response.status_code == 400
    assert "2 times" in response.json()["error"]["message"]


def test_an_upload_that_is_no_multipart_form_is_refused(served: Served) -> None:
    for response in (
        served.post("/v1/tasks/topic/versions", {"file": "x"}),
        served.http.post("/v1/tasks/topic/versions"),
        served.http.post("/v1/tasks/topic/versions", data={"file": "text"}),
        served.http.post(
            "/v1/tasks/topic/versions",
            content=b"--x\r\n",
            headers={"content-type": "multipart/form-data; boundary=y"},
        ),
        served.http.post(
            "/v1/tasks/topic/versions", content=b"--x\r\n", headers={"content-type": "multipart/form-data"}
        ),
    ):
        assert response.status_code == 400, response.text
        assert response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("task", "alias", "param"),
    [("Topic", None, "task"), ("tiny-llama", None, "task"), ("topic", "7", "alias"), ("topic", "No", "alias")],
)
def test_a_name_that_is_not_allowed_is_refused_before_anything_is_kept(
    served: Served, task: str, alias: str | None, param: str
) -> None:
    response = served.upload(task, topic_files(served), alias)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert served.parts.store.digests() == []


def test_an_upload_over_the_cap_is_a_413_and_the_connection_lives(serve: Serve) -> None:
    served = serve(max_upload_bytes=2048)
    response = served.upload("topic", {TENSORS_FILE: b"x" * 100_000})
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "payload_too_large"
    assert served.http.get("/health/live").status_code == 200


def test_a_chunked_upload_that_grows_over_the_cap_is_a_413_and_leaves_nothing_open(serve: Serve) -> None:
    served = serve(max_upload_bytes=3 * 1024 * 1024)

    def chunks() -> Iterator[bytes]:
        yield b'--x\r\ncontent-disposition: form-data; name="file"; filename="adapter_model.safetensors"\r\n\r\n'
        for _ in range(8):
            yield b"x" * 512 * 1024

    response = served.http.post(
        "/v1/tasks/topic/versions", content=chunks(), headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert response.status_code == 413
    gc.collect()
    assert served.parts.store.digests() == []


def test_a_large_multipart_body_elsewhere_is_held_to_the_small_cap(serve: Serve) -> None:
    served = serve(max_body_bytes=2048)
    response = served.http.post("/v1/predict", files={"file": b"x" * 5000})
    assert response.status_code == 413
