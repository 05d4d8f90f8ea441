"""`POST /v1/tasks/{ref}/predict`: the shapes of each task type, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.server.conftest import Serve
from tests.server.made import LABELS
from tests.server.running import Served


def test_one_text_is_classified_into_a_nested_list_best_first(decoder: Served) -> None:
    response = decoder.predict("topic", "where is my parcel")
    assert response.status_code == 200
    [answer] = response.json()
    assert {entry["label"] for entry in answer} == set(LABELS)
    scores = [entry["score"] for entry in answer]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1.0)


def test_a_list_of_texts_and_pairs_gives_one_list_each(encoder: Served) -> None:
    pair = {"text": "where is it", "text_pair": "the parcel"}
    answers = encoder.predict("topic", ["where is it", pair, {"text": "where is it"}], {"top_k": 1}).json()
    assert [len(answer) for answer in answers] == [1, 1, 1]
    assert answers[0][0]["label"] == answers[2][0]["label"]
    assert answers[0][0]["score"] == pytest.approx(answers[2][0]["score"], abs=1e-5)
    assert answers[1][0]["score"] != pytest.approx(answers[0][0]["score"], abs=1e-5)


def test_the_activation_can_be_chosen(decoder: Served) -> None:
    [answer] = decoder.predict("topic", "parcel", {"function_to_apply": "sigmoid"}).json()
    [logits] = decoder.predict("topic", "parcel", {"function_to_apply": "none"}).json()
    for score, logit in zip(answer, logits, strict=True):
        assert score["label"] == logit["label"]
        assert score["score"] == pytest.approx(1 / (1 + np.exp(-logit["score"])), abs=1e-5)


def test_an_answer_names_who_computed_it(decoder: Served) -> None:
    response = decoder.predict("topic@1", "parcel")
    digest = decoder.http.get("/v1/tasks/topic/versions/1").json()["digest"]
    assert response.headers["x-multigraft-task"] == "topic"
    assert response.headers["x-multigraft-version"] == "1"
    assert response.headers["x-multigraft-adapter"] == digest
    assert int(response.headers["x-multigraft-step-adapters"]) >= 1
    assert response.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("ref", ["topic", "topic@1", "topic@production", "base:topic", "tiny-llama:topic@1"])
def test_every_form_of_reference_reaches_the_task(decoder: Served, ref: str) -> None:
    assert decoder.predict(ref, "parcel").json() == decoder.predict("topic", "parcel").json()


def test_a_vector_is_pooled_and_normalised_as_the_head_says(encoder: Served) -> None:
    one = encoder.predict("vector", "parcel").json()
    many = encoder.predict("vector", ["parcel", "late"]).json()
    assert len(one) == encoder.spec.hidden_size
    assert np.linalg.norm(one) == pytest.approx(1.0, abs=1e-5)
    assert many[0] == pytest.approx(one, abs=1e-5)
    assert len(many) == 2


def test_token_vectors_pooled_by_hand_are_the_pooled_vector(encoder: Served) -> None:
    tokens = np.array(encoder.predict("vector", "parcel", {"pooling": "none"}).json())
    pooled = np.array(encoder.predict("vector", "parcel").json())
    mean = tokens.mean(axis=0)
    assert tokens.shape == (len("parcel") + 2, encoder.spec.hidden_size)
    assert mean / np.linalg.norm(mean) == pytest.approx(pooled, abs=1e-5)


def test_dimensions_cut_a_vector_and_give_it_unit_length(encoder: Served) -> None:
    whole = np.array(encoder.predict("vector", "parcel").json())
    cut = np.array(encoder.predict("vector", "parcel", {"dimensions": 4}).json())
    assert cut == pytest.approx(whole[:4] / np.linalg.norm(whole[:4]), abs=1e-5)


def test_hugging_face_s_parameters_beside_the_inputs_are_taken_for_vectors(encoder: Served) -> None:
    response = encoder.post("/v1/tasks/vector/predict", {"inputs": "parcel", "normalize": True})
    assert response.json() == pytest.approx(encoder.predict("vector", "parcel").json(), abs=1e-5)


def test_a_vector_that_cannot_be_un_normalised_is_refused(encoder: Served) -> None:
    response = encoder.predict("vector", "parcel", {"normalize": False})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "parameters.normalize"


def test_generation_answers_one_object_or_a_list(decoder: Served) -> None:
    one = decoder.predict("style", "parcel", {"max_new_tokens": 4}).json()
    many = decoder.predict("style", ["parcel", "late"], {"max_new_tokens": 4}).json()
    assert list(one) == ["generated_text"]
    assert many[0] == one
    assert len(many) == 2


def test_the_full_text_begins_with_the_prompt(decoder: Served) -> None:
    alone = decoder.predict("style", "parcel", {"max_new_tokens": 4}).json()["generated_text"]
    full = decoder.predict("style", "parcel", {"max_new_tokens": 4, "return_full_text": True}).json()
    assert full["generated_text"] == "parcel" + alone


def test_details_tell_every_token(decoder: Served) -> None:
    parameters = {"max_new_tokens": 4, "details": True, "do_sample": True, "seed": 7}
    output = decoder.predict("style", "parcel", parameters).json()
    details = output["details"]
    assert details["generated_tokens"] == len(details["tokens"]) == 4
    assert details["finish_reason"] == "length"
    assert details["seed"] == 7
    assert "".join(token["text"] for token in details["tokens"]) in output["generated_text"]
    assert all(token["logprob"] <= 0 for token in details["tokens"])


def test_a_seed_makes_sampling_repeatable(decoder: Served) -> None:
    parameters = {"max_new_tokens": 12, "do_sample": True, "temperature": 1.5, "seed": 3}
    first = decoder.predict("style", "parcel", parameters).json()
    assert decoder.predict("style", "parcel", parameters).json() == first
    assert decoder.predict("style", "parcel", {**parameters, "seed": 4}).json() != first


def test_a_stop_string_ends_the_text_before_it(decoder: Served) -> None:
    whole = decoder.predict("style", "parcel", {"max_new_tokens": 24}).json()["generated_text"]
    stop = next(char for char in whole[1:] if char.isascii() and char.isprintable())
    parameters = {"max_new_tokens": 24, "stop": [stop], "details": True}
    output = decoder.predict("style", "parcel", parameters).json()
    assert output["generated_text"] == whole[: whole.index(stop)]
    assert output["details"]["finish_reason"] == "stop_sequence"


def test_a_stream_has_one_event_per_token_and_the_text_in_the_last(decoder: Served) -> None:
    events = stream(decoder, {"max_new_tokens": 5})
    whole = decoder.predict("style", "parcel", {"max_new_tokens": 5}).json()["generated_text"]
    assert [event["index"] for event in events] == [1, 2, 3, 4, 5]
    assert all(event["generated_text"] is None for event in events[:-1])
    assert events[-1]["generated_text"] == whole
    assert "".join(event["token"]["text"] for event in events) == whole
    assert events[-1]["details"]["finish_reason"] == "length"
    assert events[-1]["details"]["generated_tokens"] == 5


def stream(served: Served, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    body = {"inputs": "parcel", "parameters": parameters, "stream": True}
    response = served.post("/v1/tasks/style/predict", body)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["x-multigraft-task"] == "style"
    lines = [line for line in response.text.splitlines() if line]
    assert lines
    return [json.loads(line.removeprefix("data:")) for line in lines]


@pytest.mark.parametrize(
    ("task", "body", "param"),
    [
        ("topic", {"inputs": ""}, "inputs"),
        ("topic", {"inputs": []}, "inputs"),
        ("topic", {"inputs": ["a", ""]}, "inputs"),
        ("topic", {"inputs": 3}, "inputs"),
        ("topic", {"inputs": None}, "inputs"),
        ("topic", {"inputs": {"text_pair": "b"}}, "inputs"),
        ("topic", {"inputs": {"text": "a", "image": "b"}}, "inputs"),
        ("topic", {"inputs": "\ud800"}, "inputs"),
        ("topic", {"inputs": ["x"] * 300}, "inputs"),
        ("topic", {}, "inputs"),
        ("topic", {"inputs": "a", "parameter": {}}, "parameter"),
        ("topic", {"inputs": "a", "parameters": {"topk": 1}}, "parameters.topk"),
        ("topic", {"inputs": "a", "parameters": {"top_k": 0}}, "parameters.top_k"),
        ("topic", {"inputs": "a", "parameters": {"top_k": "1"}}, "parameters.top_k"),
        ("topic", {"inputs": "a", "parameters": {"function_to_apply": "relu"}}, "parameters.function_to_apply"),
        ("topic", {"inputs": "a", "stream": True}, "stream"),
        ("topic", {"inputs": "a", "stream": "yes"}, "stream"),
        ("vector", {"inputs": {"text": "a"}}, "inputs"),
        ("vector", {"inputs": "a", "dimensions": 1000}, "parameters.dimensions"),
        ("vector", {"inputs": "a", "colour": "red"}, "parameters.colour"),
        ("style", {"inputs": ["a", "b"], "stream": True}, "inputs"),
        ("style", {"inputs": "a", "parameters": {"max_new_tokens": 0}}, "parameters.max_new_tokens"),
        ("style", {"inputs": "a", "parameters": {"stop": ["a", "b", "c", "d", "e"]}}, "parameters.stop"),
        ("style", {"inputs": "a", "parameters": {"grammar": {"type": "regex"}}}, "parameters.grammar"),
    ],
)
def test_a_wrong_body_is_a_400_that_names_the_field(
    decoder: Served, task: str, body: dict[str, Any], param: str
) -> None:
    content = json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    response = decoder.http.post(f"/v1/tasks/{task}/predict", content=content, headers=headers)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("task", "parameters"),
    [("topic", None), ("vector", None), ("style", None), ("style", {"max_new_tokens": 250})],
)
def test_an_input_that_does_not_fit_the_context_is_a_400(
    decoder: Served, task: str, parameters: dict[str, Any] | None
) -> None:
    text = "long" if parameters and parameters["max_new_tokens"] < 240 else "x" * 300
    response = decoder.predict(task, text, parameters)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


def test_an_adapter_s_own_length_is_a_bound_too(serve: Serve) -> None:
    served = serve()
    served.add("short", "text-classification", max_length=8)
    assert served.predict("short", "12345678").status_code == 200
    refused = served.predict("short", "123456789")
    assert refused.json()["error"]["code"] == "context_length_exceeded"


def test_an_unknown_task_is_a_404_that_lists_close_names(decoder: Served) -> None:
    response = decoder.predict("topics", "parcel")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "task_not_found"
    assert "'topic'" in response.json()["error"]["message"]


def test_an_unknown_version_is_a_404_that_lists_what_exists(decoder: Served) -> None:
    response = decoder.predict("topic@7", "parcel")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "version_not_found"
    assert "production" in response.json()["error"]["message"]


def test_the_bare_base_does_not_predict(decoder: Served) -> None:
    response = decoder.predict("tiny-llama", "parcel")
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "task_type_mismatch"
