"""Input that cannot be answered as it was asked: each a 400 that names its field. Images have their own file."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server.made import adapter_files
from tests.server.running import Served
from tests.tiny import MAX_LENGTH

QUESTION = {"question": "where?", "context": "in Berlin"}
SEVERAL = {"kind": "classification", "activation": "sigmoid"}


def refusal(served: Served, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The error of an answer that must be a 400."""
    content = json.dumps(body).encode()  # which writes NaN, too
    response = served.http.post(path, content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ([], "an empty list holds no text and no tokens"),
        ([[]], "a list of tokens in it is empty"),
        ([[1], []], "a list of tokens in it is empty"),
        ([""], "is empty"),
        ([True], "valid"),
        ([1.0], "valid"),
        ([-1], "valid"),
        ([264], "264 is no token"),
    ],
)
@pytest.mark.parametrize(
    ("route", "model", "field"), [("embeddings", "vector", "input"), ("completions", "style", "prompt")]
)
def test_a_list_without_tokens_or_with_what_is_none(
    decoder: Served, route: str, model: str, field: str, given: Any, problem: str
) -> None:
    error = refusal(decoder, f"/v1/{route}", {"model": model, field: given})
    assert error["param"] == field
    assert problem in error["message"]


@pytest.mark.parametrize("parameters", [{}, {"max_seq_len": MAX_LENGTH}, {"max_question_len": MAX_LENGTH}])
def test_a_question_longer_than_the_window(decoder: Served, parameters: dict[str, Any]) -> None:
    long = {"question": "x" * (MAX_LENGTH + 1), "context": "in Berlin"}
    error = refusal(decoder, "/v1/tasks/answer/predict", {"inputs": long, "parameters": parameters})
    assert (error["code"], error["param"]) == ("context_length_exceeded", "inputs.question")


@pytest.mark.parametrize(
    ("task", "parameters", "param"),
    [
        ("entities", {"ignore_labels": ["ORG"]}, "parameters.ignore_labels"),
        ("several", {"thresholds": {"rude": 0.5}}, "parameters.thresholds"),
        ("several", {"thresholds": {"billing": -0.1}}, "parameters.thresholds.billing"),
        ("several", {"thresholds": {"billing": 1.5}}, "parameters.thresholds.billing"),
        ("several", {"thresholds": {"billing": float("nan")}}, "parameters.thresholds.billing"),
        ("several", {"thresholds": {"billing": True}}, "parameters.thresholds.billing"),
    ],
)
def test_a_label_that_is_none_or_a_threshold_that_is_no_share(
    judging: Served, task: str, parameters: dict[str, Any], param: str
) -> None:
    body = {"inputs": "parcel", "parameters": parameters}
    assert refusal(judging, f"/v1/tasks/{task}/predict", body)["param"] == param


@pytest.fixture(scope="module")
def judging(decoder: Served) -> Served:
    """The decoder's server, with a task that gives several labels."""
    decoder.add("several", "text-classification", head=SEVERAL)
    return decoder


@pytest.mark.parametrize(
    ("manifest", "problem"),
    [
        (
            {"head": SEVERAL | {"thresholds": {"billing": 1.5}}},
            "thresholds.billing: Input should be less than",
        ),
        ({"head": SEVERAL | {"thresholds": {"rude": 0.5}}}, "head.thresholds: 'rude' is not in id2label"),
        ({"id2label": {"0": "a", "1": "b"}}, "the head has 3 labels, id2label has 2"),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}}, "id2label: two ids have the same label"),
        ({"id2label": {"1": "a", "2": "b", "3": "c"}}, "id2label: the ids must be 0, 1, 2"),
    ],
)
@pytest.mark.parametrize("is_declared", [False, True])
def test_an_upload_with_labels_or_thresholds_that_do_not_fit(
    decoder: Served, manifest: dict[str, Any], problem: str, is_declared: bool
) -> None:
    files = adapter_files(decoder.spec, "text-classification")
    whole = json.loads(files.pop("task.json")) | manifest
    if is_declared:
        head = whole["head"]
        told = {"id2label": whole["id2label"], **{name: value for name, value in head.items() if name != "kind"}}
        response = decoder.upload("topic", files, data={"task": json.dumps(told)})
    else:
        response = decoder.upload("topic", files | {"task.json": json.dumps(whole).encode()})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_adapter"
    assert problem in response.text


NO_SHARES = {"thresholds": {"billing": 0.5}, "function_to_apply": "none"}


@pytest.mark.parametrize(
    ("task", "inputs", "parameters", "param"),
    [
        ("vector", "a", {"normalize": False}, "parameters.normalize"),
        ("several", "a", NO_SHARES, "parameters.thresholds"),
        ("topic", "a", {"thresholds": {"billing": 0.5}}, "parameters.thresholds"),
        ("entities", "a", {"stride": 5}, "parameters.stride"),
        ("entities", "a", {"stride": 999, "aggregation_strategy": "max"}, "parameters.stride"),
        ("answer", QUESTION, {"max_seq_len": 20, "doc_stride": 14}, "parameters.doc_stride"),
    ],
)
def test_parameters_that_do_not_go_together(
    judging: Served, task: str, inputs: Any, parameters: dict[str, Any], param: str
) -> None:
    body = {"inputs": inputs, "parameters": parameters}
    assert refusal(judging, f"/v1/tasks/{task}/predict", body)["param"] == param


ENTRIES = [{"task": "topic", "inputs": "a"}]
CHAT = {"model": "style", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("tasks/vector/predict", {"inputs": "a", "normalize": True, "parameters": {"normalize": 1}}, "normalize"),
        ("tasks/topic/predict", {"inputs": "a", "top_k": 1, "parameters": {"top_k": 1}}, "top_k"),
        ("predict", {"inputs": "a", "tasks": ["topic"], "requests": ENTRIES}, "inputs"),
        ("predict", {"tasks": ["topic"], "requests": ENTRIES}, "tasks"),
        ("predict", {"parameters": {}, "requests": ENTRIES}, "parameters"),
        ("predict", {"inputs": "a"}, "tasks"),
        ("predict", {"tasks": ["topic"]}, "inputs"),
        ("chat/completions", {**CHAT, "max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ("chat/completions", {**CHAT, "top_logprobs": 3}, "top_logprobs"),
        ("chat/completions", {**CHAT, "top_logprobs": 3, "logprobs": False}, "top_logprobs"),
    ],
)
def test_fields_that_overlap_or_contradict_each_other(
    decoder: Served, path: str, body: dict[str, Any], param: str
) -> None:
    assert refusal(decoder, f"/v1/{path}", body)["param"] == param


def test_two_names_of_one_limit_may_say_the_same(decoder: Served) -> None:
    body = {**CHAT, "max_tokens": 3, "max_completion_tokens": 3}
    assert decoder.post("/v1/chat/completions", body).json()["usage"]["completion_tokens"] <= 3
