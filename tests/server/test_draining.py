"""How a server ends: not ready, then no new work, then an end to what still runs."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.conftest import Serve
from tests.server.running import Served
from tests.server.test_disconnect import ASKED, PAUSE_SECONDS, wait_for
from tests.server.test_serve import started
from tests.tiny import make_tiny_base

EVER = 3600.0
SHORT: dict[str, Any] = {"model": "tiny-llama", "prompt": "a", "max_tokens": 2, "ignore_eos": True}


def ask(served: Served) -> httpx.Response:
    return served.post("/v1/completions", SHORT)


def lines(response: httpx.Response) -> Iterator[str]:
    return (line.removeprefix("data: ") for line in response.iter_lines() if line)


def test_while_it_waits_for_load_balancers_it_is_not_ready_but_lives_and_answers(serve: Serve) -> None:
    served = serve(drain_grace_seconds=EVER)
    assert served.http.get("/health/ready").status_code == 200
    served.parts.drain.begin()
    told = served.http.get("/health/ready")
    assert (told.status_code, told.json()["error"]["code"]) == (503, "draining")
    assert told.headers["retry-after"] == "1"
    assert served.http.get("/health/live").status_code == 200
    assert served.counted("multigraft_ready") == 0
    assert ask(served).status_code == 200


def test_then_it_refuses_new_work_and_the_stream_that_runs_ends_as_it_should(serve: Serve) -> None:
    served = serve(pause_seconds=PAUSE_SECONDS, drain_deadline_seconds=EVER)
    path, body = ASKED["a streamed chat"]
    with served.http.stream("POST", path, json=body | {"max_tokens": 40}) as response:
        events = lines(response)
        next(events)
        served.parts.drain.begin(has_grace=False)
        refused = ask(served)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert (refused.headers["retry-after"], refused.headers["connection"]) == ("1", "close")
        assert served.http.get("/health/live").status_code == 200
        assert list(events)[-1] == "[DONE]"
    wait_for(lambda: not served.parts.engine.alive)


def test_at_the_deadline_streams_end_with_an_error_and_other_requests_with_a_503(serve: Serve) -> None:
    served = serve(pause_seconds=PAUSE_SECONDS, drain_deadline_seconds=0.5)
    whole: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: whole.append(served.post(*ASKED["a chat"])))
    thread.start()
    path, body = ASKED["a streamed chat"]
    with served.http.stream("POST", path, json=body) as response:
        events = lines(response)
        next(events)
        wait_for(lambda: served.parts.engine.snapshot().running == 2)
        served.parts.drain.begin(has_grace=False)
        assert json.loads(list(events)[-1])["error"]["code"] == "draining"
    thread.join(30)
    assert [(one.status_code, one.json()["error"]["code"]) for one in whole] == [(503, "draining")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("base") / "tiny", "llama")


def test_a_second_signal_ends_it_at_once(base: Path, tmp_path: Path) -> None:
    config = tmp_path / "serve.toml"
    config.write_text(f"drain_grace_seconds = {EVER:.0f}\n")
    options = ["--base", str(base), "--data-dir", str(tmp_path / "data"), "--port", "0", "--config", str(config)]
    with started(*options) as (process, url):
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: httpx.get(f"{url}/health/ready").status_code == 503)
        assert httpx.get(f"{url}/health/live").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
