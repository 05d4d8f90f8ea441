"""The books after a crowd: every prediction is counted once under its task, and every lease is given back."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.server.conftest import Serve
from tests.server.running import Served

CLIENTS = 8
REQUESTS = 200
MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture
def served(serve: Serve) -> Served:
    started = serve()
    started.add("topic", "text-classification", seed=1)
    started.add("urgency", "text-classification", seed=2)
    started.add("style", "text-generation", seed=3)
    started.add("vector", "feature-extraction", seed=4)
    return started


def requests(seed: int) -> list[tuple[str, dict[str, Any], Counter[str]]]:
    """Mixed requests, each with the predictions that it is."""
    generator = random.Random(seed)
    generate = {"max_new_tokens": generator.randint(1, 6)}
    kinds: list[tuple[str, dict[str, Any], Counter[str]]] = [
        ("/v1/tasks/topic/predict", {"inputs": ["a", "b", "c"]}, Counter(topic=1)),
        ("/v1/tasks/urgency@1/predict", {"inputs": "a"}, Counter(urgency=1)),
        ("/v1/tasks/style/predict", {"inputs": "a", "parameters": generate}, Counter(style=1)),
        ("/v1/tasks/style/predict", {"inputs": "a", "parameters": generate, "stream": True}, Counter(style=1)),
        ("/v1/predict", {"inputs": "a", "tasks": ["topic", "urgency", "topic"]}, Counter(topic=2, urgency=1)),
        ("/v1/predict", {"inputs": "a", "tasks": ["vector", "nobody"]}, Counter(vector=1, __unknown__=1)),
        ("/v1/chat/completions", {"model": "style", "messages": MESSAGES, "max_tokens": 4}, Counter(style=1)),
        (
            "/v1/chat/completions",
            {"model": "tiny-llama", "messages": MESSAGES, "max_tokens": 4, "stream": True},
            Counter({"tiny-llama": 1}),
        ),
        ("/v1/completions", {"model": "style", "prompt": ["a", "b"], "max_tokens": 3}, Counter(style=1)),
        ("/v1/embeddings", {"model": "vector", "input": ["a", "b"]}, Counter(vector=1)),
        ("/v1/tasks/topic/predict", {"inputs": ""}, Counter(topic=1)),
        ("/v1/predict", {"nothing": 1}, Counter()),
    ]
    return generator.choices(kinds, k=REQUESTS // CLIENTS)


def ask(served: Served, seed: int) -> Counter[str]:
    sent: Counter[str] = Counter()
    with httpx.Client(base_url=served.url, timeout=60) as http:
        for path, body, predictions in requests(seed):
            assert http.post(path, json=body).status_code in (200, 400)
            sent += predictions
    return sent


def test_a_crowd_is_counted_exactly_by_task_as_soon_as_it_is_answered(served: Served) -> None:
    with ThreadPoolExecutor(CLIENTS) as pool:
        sent = sum(pool.map(lambda seed: ask(served, seed), range(CLIENTS)), Counter[str]())
    counted = {
        task: served.counted(task=task, outcome="ok") + served.counted(task=task, outcome="invalid")
        for task in sent
    }
    assert counted == sent
    assert sent.keys() == {"topic", "urgency", "style", "vector", "tiny-llama", "__unknown__"}
    served.parts.leases.check_integrity()
    assert served.parts.leases.total == 0
    assert served.counted("multigraft_leases") == 0


def test_tasks_beyond_the_cap_share_a_label(serve: Serve) -> None:
    served = serve(max_task_labels=2)
    for seed, task in enumerate(("one", "two", "three", "four")):
        served.add(task, "text-classification", seed=seed)
    for task in ("one", "two", "three", "four", "four", "made-up"):
        served.predict(task, "a")
    counted = [served.counted(task=task, outcome="ok") for task in ("one", "two", "three", "four", "__other__")]
    assert counted == [1, 1, 0, 0, 3]
    assert served.counted(task="__unknown__", outcome="invalid") == 1
    assert 'task="made-up"' not in served.http.get("/metrics").text
