"""OpenAI's routes: chat, completions, embeddings and models, in their JSON shapes."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from tests.server.conftest import Serve
from tests.server.running import Served

HELLO = [{"role": "user", "content": "hello"}]


def events(text: str) -> list[dict[str, Any]]:
    """The objects of a stream that ends with [DONE]."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def chat(served: Served, **fields: Any) -> Any:
    body = {"model": "style", "messages": HELLO, "max_tokens": 6, "temperature": 0} | fields
    response = served.post("/v1/chat/completions", body)
    assert response.status_code == 200, response.text
    return events(response.text) if fields.get("stream") else response.json()


def complete(served: Served, **fields: Any) -> Any:
    body = {"model": "style", "prompt": "hello", "max_tokens": 6, "temperature": 0} | fields
    response = served.post("/v1/completions", body)
    assert response.status_code == 200, response.text
    return events(response.text) if fields.get("stream") else response.json()


def test_a_chat_is_answered_in_openai_s_shape(decoder: Served) -> None:
    answer = chat(decoder)
    [choice] = answer["choices"]
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "style"
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 6
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + 6


def test_a_streamed_chat_is_the_whole_one_in_pieces(decoder: Served) -> None:
    whole = chat(decoder)["choices"][0]["message"]["content"]
    chunks = chat(decoder, stream=True)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("content", "") for delta in deltas) == whole
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-1] == "length"
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_a_stream_tells_usage_only_when_asked(decoder: Served) -> None:
    chunks = chat(decoder, stream=True, stream_options={"include_usage": True})
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 6
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert "usage" not in chat(decoder, stream=True)[0]


def test_a_task_s_prompt_is_the_system_message_of_a_chat_without_one(decoder: Served) -> None:
    own = [{"role": "system", "content": "Be brief."}, *HELLO]
    other = [{"role": "developer", "content": "Be long and wordy."}, *HELLO]
    assert chat(decoder)["usage"] == chat(decoder, messages=own)["usage"]
    assert chat(decoder)["choices"] == chat(decoder, messages=own)["choices"]
    assert chat(decoder, messages=other)["usage"]["prompt_tokens"] > chat(decoder)["usage"]["prompt_tokens"]


def test_message_content_may_be_a_list_of_texts(decoder: Served) -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    assert chat(decoder, messages=[{"role": "user", "content": parts}])["choices"] == chat(decoder)["choices"]


def test_the_base_chats_and_completes_under_its_name(decoder: Served) -> None:
    response = decoder.post("/v1/chat/completions", {"model": "tiny-llama", "messages": HELLO, "max_tokens": 3})
    assert response.headers["x-multigraft-adapter"] == "base"
    assert response.headers["x-multigraft-task"] == "tiny-llama"
    assert response.json()["model"] == "tiny-llama"
    assert complete(decoder, model="tiny-llama")["choices"][0]["text"] != complete(decoder)["choices"][0]["text"]


def test_log_probabilities_of_a_chat_come_with_their_alternatives(decoder: Served) -> None:
    answer = chat(decoder, logprobs=True, top_logprobs=3)
    content = answer["choices"][0]["logprobs"]["content"]
    streamed = chat(decoder, logprobs=True, top_logprobs=3, stream=True)
    parts = [chunk["choices"][0]["logprobs"] for chunk in streamed]
    assert len(content) == 6
    for entry in content:
        assert len(entry["top_logprobs"]) == 3
        assert entry["logprob"] == entry["top_logprobs"][0]["logprob"]  # greedy
        assert bytes(entry["bytes"]).decode() == entry["token"]
    assert [entry for part in parts if part for entry in part["content"]] == content


def test_log_probabilities_of_a_completion_have_openai_s_older_shape(decoder: Served) -> None:
    [choice] = complete(decoder, logprobs=2)["choices"]
    told = choice["logprobs"]
    assert [len(told[name]) for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")] == [6] * 4
    assert told["text_offset"] == sorted(told["text_offset"])


def test_several_prompts_have_a_choice_each(decoder: Served) -> None:
    prompts = ["hello", "goodbye", "hello"]
    answer = complete(decoder, prompt=prompts)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["choices"][0]["text"] == answer["choices"][2]["text"]
    assert answer["usage"]["prompt_tokens"] == sum(map(len, prompts))
    chunks = [chunk["choices"][0] for chunk in complete(decoder, prompt=prompts, stream=True)]
    for choice in answer["choices"]:
        own = [chunk for chunk in chunks if chunk["index"] == choice["index"]]
        assert "".join(chunk["text"] for chunk in own) == choice["text"]
        assert own[-1]["finish_reason"] == "length"


def test_prompts_may_be_tokens(decoder: Served) -> None:
    ids = decoder.parts.vocabulary.tokenizer("hello")["input_ids"]
    assert complete(decoder, prompt=ids)["choices"] == complete(decoder)["choices"]
    assert len(complete(decoder, prompt=[ids, ids])["choices"]) == 2


def test_completions_have_sixteen_tokens_by_default_and_chats_what_is_set(serve: Serve) -> None:
    served = serve(default_chat_tokens=20)
    completion = served.post("/v1/completions", {"model": "tiny-llama", "prompt": "a", "ignore_eos": True})
    chatted = served.post("/v1/chat/completions", {"model": "tiny-llama", "messages": HELLO, "ignore_eos": True})
    assert completion.json()["usage"]["completion_tokens"] == 16
    assert chatted.json()["usage"]["completion_tokens"] == 20


def test_a_chat_without_a_limit_ends_with_the_context(decoder: Served) -> None:
    answer = decoder.post(
        "/v1/chat/completions", {"model": "tiny-llama", "messages": HELLO, "ignore_eos": True, "temperature": 0}
    ).json()
    assert answer["usage"]["total_tokens"] == decoder.spec.max_length


def test_stop_strings_are_not_returned(decoder: Served) -> None:
    text = complete(decoder, max_tokens=24)["choices"][0]["text"]
    stop = next(char for char in text[1:] if char.isascii() and char.isprintable())
    [choice] = complete(decoder, max_tokens=24, stop=["never there", stop])["choices"]
    chunks = complete(decoder, max_tokens=24, stop=stop, stream=True)
    assert choice["text"] == text[: text.index(stop)]
    assert choice["finish_reason"] == "stop"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == choice["text"]


def test_a_seed_makes_a_chat_repeatable(decoder: Served) -> None:
    first = chat(decoder, seed=-5, temperature=1.3, max_tokens=16)["choices"]
    assert chat(decoder, seed=-5, temperature=1.3, max_tokens=16)["choices"] == first
    assert chat(decoder, seed=6, temperature=1.3, max_tokens=16)["choices"] != first


def test_top_k_and_top_p_of_one_candidate_are_greedy(decoder: Served) -> None:
    greedy = complete(decoder)["choices"]
    assert complete(decoder, temperature=1, top_k=1)["choices"] == greedy
    assert complete(decoder, temperature=1, top_p=0)["choices"] == greedy
    assert complete(decoder, temperature=1, min_p=1.0)["choices"] == greedy


@pytest.mark.parametrize(
    "field", [{"user": "me"}, {"n": 1}, {"tools": []}, {"metadata": {}}, {"presence_penalty": 0}, {"store": True}]
)
def test_fields_that_change_nothing_are_ignored(decoder: Served, field: dict[str, Any]) -> None:
    assert chat(decoder, **field)["choices"] == chat(decoder)["choices"]


@pytest.mark.parametrize(
    "field",
    [
        {"n": 2},
        {"tools": [{"type": "function"}]},
        {"tool_choice": "required"},
        {"response_format": {"type": "json_object"}},
        {"presence_penalty": 0.5},
        {"logit_bias": {"5": 1}},
        {"guided_json": {}},
        {"chat_template": "{{ messages }}"},
        {"temperature": -1},
        {"temperature": "hot"},
        {"top_p": 1.5},
        {"top_logprobs": 21},
        {"max_tokens": 0},
        {"stop": ["a"] * 5},
        {"stop": ""},
        {"seed": 2**70},
        {"messages": []},
        {"messages": "hello"},
        {"messages": [{"role": "tool", "content": "a"}]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        {"messages": [{"role": "user", "content": "\ud800"}]},
    ],
)
def test_a_field_that_cannot_be_served_is_a_400_that_names_it(decoder: Served, field: dict[str, Any]) -> None:
    body = {"model": "style", "messages": HELLO, "max_tokens": 3} | field
    response = decoder.http.post(
        "/v1/chat/completions", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith(next(iter(field)))


@pytest.mark.parametrize("prompt", ["", [], ["a", ""], [[]], [[1], []], 5, None, [10**9], [-1], [[1.5]], ["a", 1]])
def test_a_prompt_that_is_none_is_a_400(decoder: Served, prompt: Any) -> None:
    response = decoder.post("/v1/completions", {"model": "style", "prompt": prompt})
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("prompt")


def test_more_than_the_context_holds_is_a_400(decoder: Served) -> None:
    long_chat = [{"role": "user", "content": "x" * 300}]
    for body in (
        {"model": "style", "messages": long_chat},
        {"model": "style", "messages": HELLO, "max_completion_tokens": 250},
    ):
        response = decoder.post("/v1/chat/completions", body)
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"])
def test_a_task_of_another_type_is_a_400_and_an_unknown_one_a_404(decoder: Served, path: str) -> None:
    fields = {"messages": HELLO, "prompt": "a", "input": "a"}
    wrong = decoder.post(path, {"model": "topic", **fields})
    unknown = decoder.post(path, {"model": "topics", **fields})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "task_type_mismatch")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "task_not_found")


def test_an_encoder_embeds_but_does_not_chat(encoder: Served) -> None:
    refused = encoder.post("/v1/chat/completions", {"model": "tiny-bert", "messages": HELLO})
    embedded = encoder.post("/v1/embeddings", {"model": "tiny-bert", "input": "a"})
    assert refused.json()["error"]["code"] == "task_type_mismatch"
    assert embedded.status_code == 200


@pytest.mark.parametrize("model", ["vector", "tiny-bert"])
def test_embeddings_are_floats_or_base64_of_the_same_numbers(encoder: Served, model: str) -> None:
    body = {"model": model, "input": ["hello", "you"]}
    floats = encoder.post("/v1/embeddings", body).json()
    packed = encoder.post("/v1/embeddings", {**body, "encoding_format": "base64"}).json()
    assert [entry["index"] for entry in floats["data"]] == [0, 1]
    assert floats["usage"] == {"prompt_tokens": 12, "total_tokens": 12}
    for one, other in zip(floats["data"], packed["data"], strict=True):
        unpacked = np.frombuffer(base64.b64decode(other["embedding"]), dtype="<f4")
        assert unpacked == pytest.approx(np.array(one["embedding"]), abs=1e-6)
        assert np.linalg.norm(unpacked) == pytest.approx(1.0, abs=1e-5)


def test_embeddings_take_tokens_and_dimensions(encoder: Served) -> None:
    ids = encoder.parts.vocabulary.tokenizer("hello")["input_ids"]
    [of_ids] = encoder.post("/v1/embeddings", {"model": "vector", "input": ids}).json()["data"]
    [of_text] = encoder.post("/v1/embeddings", {"model": "vector", "input": "hello"}).json()["data"]
    [cut] = encoder.post("/v1/embeddings", {"model": "vector", "input": "hello", "dimensions": 5}).json()["data"]
    whole = np.array(of_text["embedding"])
    assert of_ids["embedding"] == pytest.approx(of_text["embedding"], abs=1e-6)
    assert np.array(cut["embedding"]) == pytest.approx(whole[:5] / np.linalg.norm(whole[:5]), abs=1e-5)


@pytest.mark.parametrize(
    "field",
    [{"input": ""}, {"input": [""]}, {"input": "x" * 300}, {"dimensions": 999}, {"encoding_format": "hex"}],
)
def test_an_embedding_that_cannot_be_had_is_a_400(encoder: Served, field: dict[str, Any]) -> None:
    response = encoder.post("/v1/embeddings", {"model": "vector", "input": "a"} | field)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == next(iter(field))


def test_models_list_the_base_first_then_the_tasks(decoder: Served) -> None:
    models = decoder.http.get("/v1/models").json()["data"]
    tasks = {model["id"]: model for model in models[1:]}
    assert models[0]["id"] == "tiny-llama"
    assert models[0]["parent"] is None
    assert {"topic", "urgency", "style", "vector"} <= tasks.keys()
    assert tasks["topic"]["parent"] == "tiny-llama"
    assert tasks["topic"]["root"] == decoder.predict("topic", "a").headers["x-multigraft-adapter"]


def test_a_model_is_any_reference(decoder: Served) -> None:
    assert decoder.http.get("/v1/models/topic@1").json()["id"] == "topic@1"
    assert decoder.http.get("/v1/models/tiny-llama").json()["root"] == "tiny-llama"
    assert decoder.http.get("/v1/models/nobody").status_code == 404
