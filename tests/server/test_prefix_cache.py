"""The prefix cache over HTTP: what is told of it, and whose prompts share it."""

from __future__ import annotations

import json
from typing import Any

from multigraft_server.engine.settings import EngineSettings
from tests.server.conftest import Serve
from tests.server.made import adapter_files
from tests.server.running import Served

LONG = "a prompt of many tokens that all requests begin with, "
QUERIES, HITS = "multigraft_prefix_cache_queries_total", "multigraft_prefix_cache_hits_total"


def complete(served: Served, prompt: str = LONG, **fields: Any) -> tuple[int, str]:
    """How many of the prompt's tokens were cached, and the answer."""
    body = {
        "model": "tiny-llama",
        "prompt": prompt,
        "max_tokens": 4,
        "temperature": 0,
        "ignore_eos": True,
    } | fields
    response = served.post("/v1/completions", body)
    assert response.status_code == 200, response.text
    answer = response.json()
    cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert isinstance(cached, int)
    return cached, "".join(choice["text"] for choice in answer["choices"])


def test_usage_tells_how_much_of_a_prompt_was_cached(serve: Serve) -> None:
    served = serve()
    cold, warm = complete(served), complete(served)
    assert cold == (0, warm[1])
    assert warm[0] == 48 < len(LONG)
    assert complete(served, LONG + "and then some")[0] == 48
    two = served.post("/v1/completions", {"model": "tiny-llama", "prompt": [LONG, LONG], "max_tokens": 1}).json()
    assert two["usage"]["prompt_tokens_details"]["cached_tokens"] == 96


def test_chats_tell_it_too_streamed_or_stopped(serve: Serve) -> None:
    served = serve()
    chat = {"model": "tiny-llama", "messages": [{"role": "user", "content": LONG}], "max_tokens": 40}
    whole = [served.post("/v1/chat/completions", chat).json()["usage"] for _ in range(2)]
    assert [usage["prompt_tokens_details"]["cached_tokens"] > 32 for usage in whole] == [False, True]
    streamed = served.post(
        "/v1/chat/completions", chat | {"stream": True, "stream_options": {"include_usage": True}, "stop": "e"}
    ).text
    last = json.loads(streamed.strip().split("\n\n")[-2].removeprefix("data: "))
    assert last["usage"]["prompt_tokens_details"] == whole[1]["prompt_tokens_details"]


def test_only_callers_of_one_salt_share_prompts(serve: Serve) -> None:
    served = serve()
    complete(served)
    assert [complete(served, cache_salt=salt)[0] for salt in ("a", "b", "a")] == [0, 0, 48]
    error = served.post("/v1/completions", {"model": "tiny-llama", "prompt": LONG, "cache_salt": ""})
    assert (error.status_code, error.json()["error"]["param"]) == (400, "cache_salt")


def test_a_new_version_is_answered_by_itself_from_its_first_request_on(serve: Serve) -> None:
    served, fresh = serve(), serve(engine=EngineSettings(prefix_cache_bytes=0))
    for seed in (1, 2):
        served.add("style", "text-generation", seed=seed)
        alone = f"alone-{seed}"
        files = adapter_files(fresh.spec, "text-generation", seed=seed)
        assert fresh.upload(alone, files, "production").status_code == 201
        expected = complete(fresh, model=alone)
        assert expected[0] == 0
        assert complete(served, model="style") == expected
        assert complete(served, model="style") == (48, expected[1])
    assert complete(served, model="style@1")[0] == 48


def test_the_engines_state_and_the_metrics_tell_of_it(serve: Serve) -> None:
    served = serve()
    for _ in range(3):
        complete(served)
    served.rest()
    state = served.http.get("/v1/engine").json()["prefix_cache_tokens"]
    assert (state["queried"], state["cached"]) == (3 * len(LONG), 96)
    assert 48 <= state["used"] < state["capacity"]
    assert (served.counted(QUERIES), served.counted(HITS)) == (3 * len(LONG), 96)
    assert served.counted("multigraft_tokens_total", kind="prompt") == 3 * len(LONG) - 96
