"""`POST /v1/predict`: one input for many tasks, and many tasks with inputs of their own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import LoadTiny
from tests.server.running import Counting, Served, serving

TYPES = {
    "topic": "text-classification",
    "mood": "text-classification",
    "vector": "feature-extraction",
    "names": "token-classification",
    "places": "token-classification",
    "answer": "question-answering",
    "reply": "question-answering",
}


def test_one_input_is_answered_by_each_task_in_the_order_asked(decoder: Served) -> None:
    tasks = ["urgency", "topic@1", "vector"]
    response = decoder.post("/v1/predict", {"inputs": "where is it", "tasks": tasks})
    results = response.json()["results"]
    assert response.status_code == 200
    assert [(result["task"], result["version"]) for result in results] == [
        ("urgency", 1),
        ("topic", 1),
        ("vector", 1),
    ]
    for task, result in zip(tasks, results, strict=True):
        alone = decoder.predict(task, "where is it")
        assert result["adapter"] == alone.headers["x-multigraft-adapter"]
        assert close(result["output"], alone.json())


def test_adapters_of_one_fan_out_are_computed_in_one_step(decoder: Served) -> None:
    entries = [{"task": task, "inputs": "where is it"} for task in ("topic", "urgency", "vector")]
    body = {"requests": [*entries, {"task": "style", "inputs": "a", "parameters": {"max_new_tokens": 2}}]}
    decoder.post("/v1/predict", body)  # the first time, adapters may still be on their way into memory
    widest = [decoder.post("/v1/predict", body).headers["x-multigraft-step-adapters"] for _ in range(5)]
    assert max(map(int, widest)) == 4


def test_each_entry_of_a_mixed_request_has_its_own_inputs_and_parameters(decoder: Served) -> None:
    entries = [
        {"task": "topic", "inputs": "where is it", "parameters": {"top_k": 1}},
        {"task": "style", "inputs": "hello", "parameters": {"max_new_tokens": 3}},
        {"task": "topic", "inputs": ["a", "b"]},
    ]
    results = decoder.post("/v1/predict", {"requests": entries}).json()["results"]
    assert len(results[0]["output"][0]) == 1
    assert list(results[1]["output"]) == ["generated_text"]
    assert len(results[2]["output"]) == 2


def test_an_entry_that_fails_has_its_error_and_the_others_their_output(decoder: Served) -> None:
    entries = [
        {"task": "topic", "inputs": "where is it"},
        {"task": "topics", "inputs": "where is it"},
        {"task": "topic", "inputs": 7},
        {"task": "topic", "inputs": "x" * 300},
        {"task": "topic", "inputs": "a", "parameters": {"k": 1}},
        {"task": "tiny-llama", "inputs": "a"},
        {"task": "topic@9", "inputs": "a"},
    ]
    response = decoder.post("/v1/predict", {"requests": entries})
    results = response.json()["results"]
    codes = [result.get("error", {}).get("code") for result in results]
    assert response.status_code == 200
    assert "output" in results[0]
    assert codes == [
        None,
        "task_not_found",
        "invalid_request",
        "context_length_exceeded",
        "invalid_request",
        "task_type_mismatch",
        "version_not_found",
    ]
    assert results[1]["task"] == "topics"
    assert set(results[1]["error"]) == {"message", "type", "param", "code"}


def test_a_fan_out_tokenises_a_text_once_for_tasks_that_read_it_alike(load_tiny: LoadTiny, tmp_path: Path) -> None:
    base = load_tiny("bert")
    tokenizer = Counting(base.tokenizer)
    with serving(dataclasses.replace(base, tokenizer=tokenizer), tmp_path) as served:
        for task, task_type in TYPES.items():
            served.add(task, task_type)
        tokenizer.calls = 0
        alike = served.post(
            "/v1/predict", {"inputs": ["where is it", "late"], "tasks": ["topic", "mood", "vector"]}
        )
        assert tokenizer.calls == 2
        assert [len(result["output"]) for result in alike.json()["results"]] == [2, 2, 2]
        entries = [{"task": task, "inputs": "where is it"} for task in ("topic", "names", "places", "topic")]
        mixed = served.post("/v1/predict", {"requests": entries}).json()["results"]
        assert tokenizer.calls == 4
        for entry, result in zip(entries, mixed, strict=True):
            assert close(result["output"], served.predict(entry["task"], "where is it").json())
        tokenizer.calls = 0
        question = {"question": "where?", "context": "in Berlin"}
        served.post("/v1/predict", {"inputs": question, "tasks": ["answer", "reply"]})
        once = tokenizer.calls
        tokenizer.calls = 0
        served.predict("answer", question)
        assert tokenizer.calls == once > 0


def test_a_text_that_no_task_can_read_is_an_error_of_each(decoder: Served) -> None:
    content = b'{"inputs": "\\ud800", "tasks": ["topic", "urgency"]}'
    headers = {"content-type": "application/json"}
    results = decoder.http.post("/v1/predict", content=content, headers=headers).json()["results"]
    assert [result["error"]["param"] for result in results] == ["inputs", "inputs"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"inputs": "a"},
        {"tasks": ["topic"]},
        {"inputs": "a", "tasks": []},
        {"inputs": "a", "tasks": "topic"},
        {"inputs": "a", "tasks": [1]},
        {"requests": []},
        {"requests": [{"task": "topic"}]},
        {"requests": [{"task": "topic", "inputs": "a", "stream": True}]},
        {"requests": [{"task": "topic", "inputs": "a"}], "tasks": ["topic"]},
        {"inputs": "a", "tasks": ["topic"], "stream": True},
        {"inputs": "a", "tasks": ["topic"] * 300},
        [],
        "text",
    ],
)
def test_an_envelope_that_is_wrong_is_a_400(decoder: Served, body: Any) -> None:
    response = decoder.post("/v1/predict", body)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_request"


def close(one: Any, other: Any) -> bool:
    """Whether two outputs agree, up to what the company of other rows does to fp32."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(close, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    return bool(one == (pytest.approx(other, abs=1e-5) if isinstance(other, float) else other))
