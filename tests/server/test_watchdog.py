"""A step that does not end, and an engine that does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from multigraft_adapters.errors import EngineStoppedError
from multigraft_server.assemble import assemble
from multigraft_server.listening import bind
from multigraft_server.serving import run
from multigraft_server.settings import ServerSettings
from tests.server.conftest import LoadTiny
from tests.server.running import serving
from tests.server.test_disconnect import wait_for
from tests.tiny import make_tiny_base

BODY: dict[str, Any] = {"model": "tiny-llama", "prompt": "a", "max_tokens": 2, "ignore_eos": True}


@contextmanager
def hanging(served_base: Any) -> Iterator[threading.Event]:
    """The base's passes wait for the event."""
    go_on = threading.Event()

    def wait(*_: Any) -> None:
        go_on.wait(60)

    handle = served_base.model.register_forward_pre_hook(wait)
    try:
        yield go_on
    finally:
        go_on.set()
        handle.remove()


def test_a_step_that_does_not_end_is_told_by_liveness_a_metric_and_the_log(
    load_tiny: LoadTiny, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = load_tiny("llama")
    answers: list[httpx.Response] = []
    with serving(base, tmp_path, step_watchdog_seconds=0.2) as served, hanging(base) as go_on:
        asking = threading.Thread(target=lambda: answers.append(served.post("/v1/completions", BODY)))
        asking.start()
        wait_for(lambda: served.counted("multigraft_stalled_steps_total") == 1)
        told = served.http.get("/health/live")
        assert (told.status_code, told.json()["error"]["code"]) == (503, "step_stalled")
        assert "multigraft-engine" in caplog.text and "go_on.wait" in caplog.text
        go_on.set()
        asking.join(30)
        assert answers[0].status_code == 200
        assert served.http.get("/health/live").status_code == 200


def test_a_server_whose_engine_has_ended_ends_with_an_error(tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / "tiny", "llama")
    settings = ServerSettings(base=str(base), data_dir=tmp_path / "data", device="cpu", dtype="float32")
    with assemble(settings) as app, bind("127.0.0.1", 0) as bound, pytest.raises(EngineStoppedError) as told:
        engine = app.state.parts.engine
        run(app, settings, bound, lambda: engine.deliver("no such adapter", None))  # no engine survives that
    assert "the engine has ended" in told.value.message
    assert app.state.parts.health.why_not_alive() is told.value
