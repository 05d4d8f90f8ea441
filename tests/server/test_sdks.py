"""The unmodified clients of OpenAI and Hugging Face, pointed at us."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
from huggingface_hub import InferenceClient

from multigraft_adapters.client import Client
from multigraft_adapters.errors import RemoteError
from tests.pictures import noise
from tests.server.conftest import Serve
from tests.server.made import LABELS, adapter_files
from tests.server.running import Served

KEY = "a-long-enough-key"


@pytest.fixture
def sdk(decoder: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{decoder.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def hugging_face(served: Served, ref: str) -> InferenceClient:
    return InferenceClient(f"{served.url}/v1/tasks/{ref}/predict")


def test_openai_lists_and_retrieves_models(sdk: openai.OpenAI) -> None:
    names = [model.id for model in sdk.models.list()]
    assert names[0] == "tiny-llama"
    assert {"style", "topic"} <= set(names)
    assert sdk.models.retrieve("style@1").owned_by == "multigraft"


def test_openai_chats(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model="style",
        messages=[{"role": "user", "content": "hi"}],
        max_tokens=5,
        temperature=0,
        logprobs=True,
        top_logprobs=2,
        extra_body={"ignore_eos": True},
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.content is not None
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2


def test_openai_streams_a_chat(sdk: openai.OpenAI) -> None:
    fields = {"model": "style", "temperature": 0, "max_tokens": 8}
    whole = sdk.chat.completions.create(messages=[{"role": "user", "content": "hi"}], **fields)  # type: ignore[call-overload]
    with sdk.chat.completions.create(
        messages=[{"role": "user", "content": "hi"}],
        stream=True,
        stream_options={"include_usage": True},
        **fields,  # type: ignore[call-overload]
    ) as stream:
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


def test_openai_completes_and_streams_completions(sdk: openai.OpenAI) -> None:
    whole = sdk.completions.create(model="tiny-llama", prompt="hi", max_tokens=5, temperature=0)
    with sdk.completions.create(
        model="tiny-llama", prompt="hi", max_tokens=5, temperature=0, stream=True
    ) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text


def test_openai_embeds(sdk: openai.OpenAI) -> None:
    packed = sdk.embeddings.create(model="vector", input=["a", "b"])
    floats = sdk.embeddings.create(model="vector", input=["a", "b"], encoding_format="float", dimensions=8)
    assert [entry.index for entry in packed.data] == [0, 1]
    assert np.linalg.norm(packed.data[0].embedding) == pytest.approx(1.0, abs=1e-5)
    assert len(floats.data[1].embedding) == 8


def test_openai_raises_its_own_classes_for_our_errors(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        sdk.models.retrieve("nobody")
    with pytest.raises(openai.BadRequestError) as wrong:
        sdk.embeddings.create(model="topic", input="a")
    assert unknown.value.code == "task_not_found"
    assert unknown.value.request_id
    assert wrong.value.code == "task_type_mismatch"


def test_openai_s_key_is_the_server_s(serve: Serve) -> None:
    served = serve(api_key=KEY)
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=KEY) as client:
        assert [model.id for model in client.models.list()] == ["tiny-llama"]
    with (
        openai.OpenAI(base_url=f"{served.url}/v1", api_key="wrong") as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


def test_hugging_face_classifies(decoder: Served) -> None:
    answer = hugging_face(decoder, "topic").text_classification("where is it")
    best = hugging_face(decoder, "topic@1").text_classification(
        "where is it", top_k=1, function_to_apply="sigmoid"
    )
    assert {element.label for element in answer} == set(LABELS)
    assert best[0].label == answer[0].label
    assert len(best) == 1


def test_hugging_face_finds_entities(encoder: Served) -> None:
    text = "Clara lives in Berlin"
    client = hugging_face(encoder, "entities")
    tokens = client.token_classification(text, ignore_labels=[])
    groups = client.token_classification(text, aggregation_strategy="simple", ignore_labels=["PER"], stride=3)
    assert [(token.start, token.end) for token in tokens] == [(place, place + 1) for place in range(len(text))]
    assert all(token.entity for token in tokens)
    assert all(group.entity_group in ("O", "LOC") and group.score > 0 for group in groups)


def test_hugging_face_answers_questions(encoder: Served) -> None:
    context = "Clara lives in Berlin"
    client = hugging_face(encoder, "answer")
    best = client.question_answering("where?", context)
    several = client.question_answering(
        "where?", context, top_k=2, align_to_words=False, doc_stride=4, handle_impossible_answer=False,
        max_answer_len=6, max_question_len=20, max_seq_len=30,
    )  # fmt: skip
    assert not isinstance(best, list)
    assert best.answer == context[best.start : best.end]
    assert isinstance(several, list)
    assert [answer.answer for answer in several] == [context[answer.start : answer.end] for answer in several]


def test_hugging_face_generates(decoder: Served) -> None:
    client = hugging_face(decoder, "style")
    text = client.text_generation("hello", max_new_tokens=6)
    details = client.text_generation("hello", max_new_tokens=6, details=True)
    assert details.generated_text == text
    assert details.details is not None
    assert len(details.details.tokens) == 6


def test_hugging_face_streams(decoder: Served) -> None:
    client = hugging_face(decoder, "style")
    text = client.text_generation("hello", max_new_tokens=6)
    assert "".join(client.text_generation("hello", max_new_tokens=6, stream=True)) == text
    told = list(client.text_generation("hello", max_new_tokens=6, stream=True, details=True))
    assert told[-1].generated_text == text
    assert told[-1].details is not None
    assert told[-1].details.generated_tokens == len(told) == 6


def test_hugging_face_samples_with_its_parameters(decoder: Served) -> None:
    client = hugging_face(decoder, "style")
    fields = {"do_sample": True, "temperature": 1.2, "top_p": 0.9, "top_k": 40, "seed": 1, "stop": ["\x00"]}
    first = client.text_generation("hello", max_new_tokens=9, repetition_penalty=1.1, **fields)  # type: ignore[call-overload]
    again = client.text_generation("hello", max_new_tokens=9, repetition_penalty=1.1, **fields)  # type: ignore[call-overload]
    assert first == again


def test_hugging_face_extracts_features(encoder: Served) -> None:
    client = hugging_face(encoder, "vector")
    one = client.feature_extraction("hello", normalize=True)
    many = client.feature_extraction(["hello", "you"])
    assert one.shape == (encoder.spec.hidden_size,)
    assert many.shape == (2, encoder.spec.hidden_size)
    assert many[0] == pytest.approx(one, abs=1e-5)


def test_hugging_face_classifies_images(viewer: Served, tmp_path: Path) -> None:
    file = tmp_path / "noise.png"
    noise().save(file)
    client = hugging_face(viewer, "damage")
    answer = client.image_classification(file)
    assert {element.label for element in answer} == set(LABELS)
    for image in (str(file), file.read_bytes()):
        assert client.image_classification(image) == answer
    [best] = client.image_classification(file.read_bytes(), top_k=1, function_to_apply="sigmoid")
    assert best.label == answer[0].label


def test_our_own_client_speaks_to_us(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> None:
    served = serve(api_key=KEY)
    folder = tmp_path_factory.mktemp("adapter")
    for name, content in adapter_files(served.spec, "text-generation").items():
        (folder / name).write_bytes(content)
    (folder / "README.md").write_text("left out")
    with Client(served.url, KEY) as client:
        assert client.health_ready()
        pushed = client.push(folder, "style", "production")
        assert (pushed.version, pushed.created, pushed.left_out) == (1, True, ("README.md",))
        assert client.push(folder, "style").created is False
        output, headers = client.predict("style", "hello", {"max_new_tokens": 3})
        assert headers["x-multigraft-adapter"] == pushed.digest
        assert client.fan_out(["style"], "hello", {"max_new_tokens": 3})[0][0]["output"] == output
        assert client.tasks()[0]["versions"][0]["tier"] == "device"
        assert client.set_alias("style", "canary", 1)["version"] == 1
        assert client.engine()["num_slots"] == 16
        chunks = client.chat("style", [{"role": "user", "content": "hi"}], stream=True, max_tokens=3)
        assert sum(len(chunk["choices"]) for chunk in chunks) > 2
        with pytest.raises(RemoteError) as refused:
            client.rollback("style")
    assert (refused.value.status, refused.value.remote_code) == (409, "conflict")
