"""What the demo asks the server, as any HTTP client would."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

from multigraft_adapters.client import Client

STEP_ADAPTERS = "x-multigraft-step-adapters"
"""The answer's header that tells how many distinct adapters its step computed together."""

CROWD = 8
"""How many clients fan out at the same time."""

ROUNDS = 3
ANSWER_TOKENS = 40


@dataclass(frozen=True, slots=True)
class TaskAnswer:
    """One task's answer in a fan-out; `error` instead of `text` when there is none. `label` is a classifier's."""

    task: str
    version: int | None
    digest: str
    text: str
    error: str | None
    label: str | None = None


@dataclass(frozen=True, slots=True)
class FanOut:
    """One request for several tasks: its answers, how long it took, how mixed its step was."""

    answers: tuple[TaskAnswer, ...]
    seconds: float
    step_adapters: int


@dataclass(frozen=True, slots=True)
class ChatPair:
    """One question, answered by the base and by the style."""

    question: str
    base: str
    style: str


def fan_out_in_a_crowd(url: str, api_key: str | None, text: str, tasks: Sequence[str]) -> list[FanOut]:
    """The same fan-out from several clients at once, a few times each.

    Raises httpx.HTTPError when the server does not answer a request with success.
    """
    with ThreadPoolExecutor(CROWD) as pool:
        runs = [pool.submit(_fan_out_often, url, api_key, text, tasks) for _ in range(CROWD)]
        return [fan_out for run in runs for fan_out in run.result()]


def fan_out_each(url: str, api_key: str | None, texts: Sequence[str], tasks: Sequence[str]) -> list[FanOut]:
    """Each text sent to all tasks, several clients at once; the fan-outs in the order of the texts.

    Raises httpx.HTTPError when the server does not answer a request with success.
    """
    with ThreadPoolExecutor(CROWD) as pool, _connected(url, api_key) as http:
        return list(pool.map(lambda text: _fan_out(http, text, tasks), texts))


def chat_pairs(url: str, api_key: str | None, base: str, style: str, questions: Sequence[str]) -> list[ChatPair]:
    """Each question answered greedily by both."""
    with Client(url, api_key) as client:
        return [ChatPair(q, _chat(client, base, q), _chat(client, style, q)) for q in questions]


def _fan_out_often(url: str, api_key: str | None, text: str, tasks: Sequence[str]) -> list[FanOut]:
    with _connected(url, api_key) as http:
        return [_fan_out(http, text, tasks) for _ in range(ROUNDS)]


def _connected(url: str, api_key: str | None) -> httpx.Client:
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    return httpx.Client(base_url=url, headers=headers, timeout=300.0, trust_env=False)


def _fan_out(http: httpx.Client, text: str, tasks: Sequence[str]) -> FanOut:
    started = time.perf_counter()
    response = http.post("/v1/predict", json={"inputs": text, "tasks": list(tasks)})
    seconds = time.perf_counter() - started
    response.raise_for_status()
    answers = tuple(_answer(result) for result in response.json()["results"])
    return FanOut(answers, seconds, int(response.headers[STEP_ADAPTERS]))


def _answer(result: dict[str, Any]) -> TaskAnswer:
    if "error" in result:
        return TaskAnswer(result["task"], None, "", "", result["error"]["message"])
    text, label = _said(result["output"])
    return TaskAnswer(result["task"], result["version"], result["adapter"], text, None, label)


def _said(output: Any) -> tuple[str, str | None]:
    """A classification's best label with its score, and the label; or a generated text."""
    first = output[0] if isinstance(output, list) else output
    if isinstance(first, list):
        return f"{first[0]['label']} ({first[0]['score']:.2f})", first[0]["label"]
    return " ".join(first["generated_text"].split()), None


def _chat(client: Client, model: str, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    answer = client.chat(model, messages, max_tokens=ANSWER_TOKENS, temperature=0)
    return str(answer["choices"][0]["message"]["content"]).strip()
