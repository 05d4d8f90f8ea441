"""Memory follows the registry: versions are loaded before they are promoted, and leave when superseded."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multigraft_adapters.registry import Registry
from multigraft_server.engine.settings import EngineSettings
from tests.server.conftest import LoadTiny, Serve
from tests.server.made import adapter_files
from tests.server.running import Served, serving

LONG: dict[str, Any] = {"max_tokens": 150, "ignore_eos": True, "temperature": 0}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def promote(served: Served, task: str, version: int) -> Any:
    return served.http.put(f"/v1/tasks/{task}/aliases/production", json={"version": version})


def tiers(served: Served, task: str) -> dict[int, str]:
    versions = served.http.get(f"/v1/tasks/{task}").json()["versions"]
    return {version["version"]: version["tier"] for version in versions}


class Stream(threading.Thread):
    """A streaming completion in a thread of its own; `head` is set with its first event."""

    def __init__(self, served: Served, model: str) -> None:
        super().__init__(daemon=True)
        self.served, self.model = served, model
        self.begun = threading.Event()
        self.version = ""
        self.events: list[dict[str, Any]] = []
        self.start()
        assert self.begun.wait(30)

    def run(self) -> None:
        body = {"model": self.model, "prompt": "a b c", "stream": True, **LONG}
        with self.served.http.stream("POST", "/v1/completions", json=body) as response:
            self.version = response.headers["x-multigraft-version"]
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    self.events.append(json.loads(line.removeprefix("data: ")))
                    self.begun.set()

    @property
    def last(self) -> dict[str, Any]:
        self.join(60)
        assert not self.is_alive()
        return self.events[-1]


@pytest.fixture
def styled(serve: Serve) -> Served:
    """A server whose steps are slow, with two versions of the task `style`, the first in production."""
    engine = EngineSettings(retry_load_s=60.0)  # what failed to load is told for as long as a slow test takes
    served = serve(pause_seconds=0.01, retire_seconds=0.5, engine=engine)
    for seed, alias in ((1, "production"), (2, None)):
        served.add("style", "text-generation", seed=seed, alias=alias)
    return served


def test_a_stream_ends_on_its_version_which_then_leaves_memory(styled: Served) -> None:
    stream = Stream(styled, "style")
    assert promote(styled, "style", 2).status_code == 200
    wait_until(lambda: tiers(styled, "style")[2] == "host")
    answer = styled.post("/v1/completions", {"model": "style", "prompt": "a", "max_tokens": 1})
    assert answer.headers["x-multigraft-version"] == "2"
    assert stream.is_alive() and tiers(styled, "style")[1] == "device"
    assert stream.last["choices"][0]["finish_reason"] == "length"
    assert stream.version == "1"
    wait_until(lambda: tiers(styled, "style") == {1: "store", 2: "device"})


def test_uploads_and_rollbacks_load_before_they_move_an_alias_too(styled: Served) -> None:
    ask = {"model": "style", "prompt": "a", "max_tokens": 1}
    assert styled.post("/v1/completions", ask).headers["x-multigraft-version"] == "1"
    styled.add("style", "text-generation", seed=3)
    wait_until(lambda: tiers(styled, "style") == {1: "store", 2: "store", 3: "host"})
    assert styled.http.post("/v1/tasks/style/rollback").json()["version"] == 1
    wait_until(lambda: tiers(styled, "style") == {1: "host", 2: "store", 3: "store"})
    assert styled.post("/v1/completions", ask).headers["x-multigraft-version"] == "1"


def test_a_version_of_a_task_that_nobody_uses_is_not_loaded_ahead(styled: Served) -> None:
    assert promote(styled, "style", 2).status_code == 200
    assert tiers(styled, "style") == {1: "store", 2: "store"}


def test_a_version_that_cannot_be_loaded_is_not_promoted(styled: Served, tmp_path: Path) -> None:
    assert styled.post("/v1/completions", {"model": "style", "prompt": "a", "max_tokens": 1}).status_code == 200
    digest = styled.http.get("/v1/tasks/style/versions/2").json()["digest"].removeprefix("sha256:")
    for path in tmp_path.rglob(f"*{digest}*/adapter_model.safetensors"):
        path.write_bytes(b"damaged")
    styled.rest()

    def failed_loads() -> list[str]:
        refused = promote(styled, "style", 2)
        assert refused.json()["error"]["code"] == "adapter_load_failed"
        answer = styled.post("/v1/completions", {"model": "style", "prompt": "a", "max_tokens": 1})
        assert answer.headers["x-multigraft-version"] == "1"
        styled.rest()
        return list(styled.http.get("/v1/engine").json()["failed_loads"])

    # The upload of a version that no alias means is followed a moment later, and what failed of it is forgotten.
    wait_until(lambda: failed_loads() == [f"sha256:{digest}"])


def test_a_retired_version_drains_until_its_deadline(styled: Served) -> None:
    stream = Stream(styled, "style@2")
    retired = styled.http.delete("/v1/tasks/style/versions/2")
    assert retired.status_code == 200 and retired.json()["leases"] == 1
    refused = styled.post("/v1/completions", {"model": "style@2", "prompt": "a", "max_tokens": 1})
    assert refused.json()["error"]["code"] == "version_not_found"
    wait_until(lambda: bool(styled.http.get("/v1/engine").json()["draining"]))
    [draining] = styled.http.get("/v1/engine").json()["draining"]
    assert (draining["task"], draining["version"], draining["leases"]) == ("style", 2, 1)
    assert stream.last["error"]["code"] == "version_retired"
    wait_until(lambda: tiers(styled, "style")[2] == "store")
    assert styled.http.get("/v1/engine").json()["draining"] == []
    assert styled.counted(task="style", outcome="unavailable") == 1


def test_what_another_process_retires_drains_here_too(styled: Served, tmp_path: Path) -> None:
    finished: list[Any] = []
    body = {"model": "style@2", "prompt": "a b c", **LONG}
    whole = threading.Thread(target=lambda: finished.append(styled.post("/v1/completions", body)))
    whole.start()
    wait_until(lambda: styled.parts.engine.snapshot().running == 1)
    other = Registry.open(tmp_path, styled.spec.name)
    other.retire("style", 2)
    other.close()
    whole.join(60)
    assert finished[0].status_code == 503
    assert finished[0].json()["error"]["code"] == "version_retired"
    assert finished[0].headers["retry-after"]


def test_what_another_process_promotes_is_loaded_here(styled: Served, tmp_path: Path) -> None:
    assert styled.post("/v1/completions", {"model": "style", "prompt": "a", "max_tokens": 1}).status_code == 200
    other = Registry.open(tmp_path, styled.spec.name)
    other.set_alias("style", "production", {1: 0.5, 2: 0.5})
    wait_until(lambda: tiers(styled, "style") == {1: "device", 2: "host"})
    other.set_alias("style", "production", 2)
    other.close()
    wait_until(lambda: tiers(styled, "style") == {1: "store", 2: "host"})


def both_answer(served: Served) -> bool:
    return all(served.predict(task, "where is it").status_code == 200 for task in ("two", "three"))


def test_pinned_tasks_stay_on_the_device_and_come_back_after_a_restart(
    load_tiny: LoadTiny, tmp_path: Path
) -> None:
    engine = EngineSettings(slots=2)
    with serving(load_tiny("llama"), tmp_path, engine=engine) as served:
        for seed, task in enumerate(("one", "two", "three")):
            served.add(task, "text-classification", seed=seed)
        served.add("one", "text-classification", seed=9, alias=None)
        pinned = served.http.post("/v1/tasks/one/pin").json()
        assert pinned["pinned"] is True and len(pinned["adapters"]) == 1
        wait_until(lambda: tiers(served, "one") == {1: "device", 2: "store"})
        assert served.http.post("/v1/tasks/two/pin").json()["error"]["code"] == "conflict"
        for task in ("two", "three", "two"):
            assert served.predict(task, "where is it").status_code == 200
        assert tiers(served, "one")[1] == "device"
        assert [task["pinned"] for task in served.http.get("/v1/tasks").json()["tasks"]] == [True, False, False]
        assert promote(served, "one", 2).status_code == 200
        wait_until(lambda: tiers(served, "one") == {1: "store", 2: "device"})
    with serving(load_tiny("llama"), tmp_path, engine=engine) as served:
        wait_until(lambda: tiers(served, "one") == {1: "store", 2: "device"})
        assert served.http.delete("/v1/tasks/one/pin").json()["pinned"] is False
        assert served.http.post("/v1/tasks/nobody/pin").status_code == 404
        # The engine hears of it a moment after that answer: until then the others share the slot that is left.
        wait_until(lambda: both_answer(served) and tiers(served, "one")[2] == "host")


def write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def error_of(response: Any) -> tuple[int, str, int]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return response.status_code, error["type"], error["code"]


def test_vllm_s_routes_load_replace_and_unload(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "loras"
    served = serve(lora_folder=folder)
    for name, seed in (("first", 1), ("second", 2)):
        files = adapter_files(served.spec, "text-generation", seed=seed)
        write(folder / name, {file: files[file] for file in files if file != "task.json"})
    load = {"lora_name": "style", "lora_path": "first"}
    loaded = served.post("/v1/load_lora_adapter", load)
    assert loaded.text == "Success: LoRA adapter 'style' added successfully."
    assert loaded.headers["content-type"].startswith("text/plain")
    assert "style" in [model["id"] for model in served.http.get("/v1/models").json()["data"]]
    ask = {"model": "style", "prompt": "a", "max_tokens": 3, "temperature": 0}
    first = served.post("/v1/completions", ask)
    again = served.post("/v1/load_lora_adapter", load)
    assert error_of(again) == (400, "InvalidUserInput", 400)
    assert "has already been loaded. If you want to load the adapter in place" in again.text
    in_place = {**load, "lora_path": str(folder / "second"), "load_inplace": True, "is_3d_lora_weight": False}
    assert served.post("/v1/load_lora_adapter", in_place).status_code == 200
    second = served.post("/v1/completions", ask)
    assert first.headers["x-multigraft-adapter"] != second.headers["x-multigraft-adapter"]
    unloaded = served.post("/v1/unload_lora_adapter", {"lora_name": "style", "lora_int_id": None})
    assert unloaded.text == "Success: LoRA adapter 'style' removed successfully."
    assert served.post("/v1/completions", ask).status_code == 404
    gone = served.post("/v1/unload_lora_adapter", {"lora_name": "style"})
    assert error_of(gone) == (404, "NotFoundError", 404)
    assert "The lora adapter 'style' cannot be found." in gone.text
    assert served.post("/v1/load_lora_adapter", load).status_code == 200
    assert served.post("/v1/completions", ask).json()["choices"] == first.json()["choices"]


def test_vllm_s_route_reads_nothing_outside_its_folder(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "loras"
    served = serve(lora_folder=folder)
    files = adapter_files(served.spec, "text-generation")
    write(folder / "fine", files)
    write(tmp_path / "secret", files)
    (folder / "out").symlink_to(tmp_path / "secret")
    (folder / "linked").mkdir()
    for name in files:
        (folder / "linked" / name).symlink_to(tmp_path / "secret" / name)
    outside = ("../secret", str(tmp_path / "secret"), "out", "fine/../../secret", "missing", "fine\0", "x" * 5000)
    for path in outside:
        response = served.post("/v1/load_lora_adapter", {"lora_name": "style", "lora_path": path})
        assert error_of(response) == (404, "NotFoundError", 404), path
    linked = served.post("/v1/load_lora_adapter", {"lora_name": "style", "lora_path": "linked"})
    assert error_of(linked) == (400, "InvalidUserInput", 400)
    for body in ({"lora_name": "style"}, {"lora_path": "fine"}, {"lora_name": "NOT A NAME", "lora_path": "fine"}):
        assert error_of(served.post("/v1/load_lora_adapter", body)) == (400, "InvalidUserInput", 400)
    assert served.http.get("/v1/tasks").json()["tasks"] == []


def test_vllm_s_routes_are_closed_unless_a_folder_is_set(decoder: Served) -> None:
    for route in ("load", "unload"):
        response = decoder.post(f"/v1/{route}_lora_adapter", {"lora_name": "style", "lora_path": "x"})
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "route_not_found"
