"""The playground: one input to several tasks, side by side, by its address alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.console.people import OWN, log_in, made_key, visitor
from tests.pictures import as_base64, encoded, noise
from tests.server.conftest import TAGS, LoadTiny, Serve
from tests.server.running import Served, serving
from tests.server.test_disconnect import ASKED, PAUSE_SECONDS

HOSTILE = "<script>alert(1)</script>"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt;"


@pytest.fixture(scope="module")
def open_server(load_tiny: LoadTiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server without keys, over a tiny decoder."""
    with serving(load_tiny("llama"), tmp_path_factory.mktemp("playground")) as served:
        served.add("topic", "text-classification", seed=1)
        served.add("topic", "text-classification", seed=2, labels=(HOSTILE, "b", "c"))
        served.add("entities", "token-classification", seed=5, labels=TAGS)
        served.add("answer", "question-answering", seed=6)
        served.add("vector", "feature-extraction", seed=4)
        served.add("style", "text-generation", seed=3, prompt="Be brief.")
        yield served


def play(http: httpx.Client, *refs: str, text: str = "Alice is in Paris", **more: Any) -> str:
    response = http.get("/console/playground", params={"ref": list(refs), "text": text, **more})
    assert response.status_code == 200
    return response.text


def columns(page: str) -> dict[str, str]:
    """The columns' HTML by the names that they show."""
    parts = page.split('<section class="card column"')[1:]
    named = {re.findall(r"data-name>([^<]*)<", part)[0]: part for part in parts}
    assert len(named) == len(parts)
    return named


def test_every_task_type_is_shown_in_its_own_way(open_server: Served) -> None:
    page = play(open_server.http, "topic", "topic@1", "entities", "answer", "vector", second="who?")
    shown = columns(page)
    assert list(shown) == ["topic@2", "topic@1", "entities@1", "answer@1", "vector@1"]
    output = open_server.predict("topic@1", {"text": "Alice is in Paris", "text_pair": "who?"}).json()
    for one in output[0]:
        assert one["label"] in shown["topic@1"] and f"{one['score']:.4f}" in shown["topic@1"]
    entities = open_server.predict("entities", "Alice is in Paris", {"aggregation_strategy": "simple"}).json()
    assert entities and shown["entities@1"].count("<mark>") == len(entities)
    best = open_server.predict("answer", {"question": "who?", "context": "Alice is in Paris"}).json()
    assert f"<mark>{best['answer']}<span" in shown["answer@1"]
    assert "similarity to the second text" in shown["vector@1"] and "norm 1.0000" in shown["vector@1"]
    for part in shown.values():
        assert re.search(r"data-digest title=\"sha256:[0-9a-f]{64}\">[0-9a-f]{12}<", part)
        assert re.search(r"data-latency>[0-9.]+ m?s( · [2-5] adapters in its step)?<", part)


def test_whatever_is_in_texts_and_labels_is_escaped(open_server: Served) -> None:
    page = play(open_server.http, "topic", "entities", HOSTILE, text=HOSTILE, second=HOSTILE)
    assert HOSTILE not in page and page.count(ESCAPED) > 4
    assert "lt;script" in columns(page)["topic@2"], "the label"


def test_what_has_no_answer_says_so_in_its_column(open_server: Served) -> None:
    shown = columns(play(open_server.http, "topic", "topic@9", "nobody", "answer"))
    assert "has no version 9" in shown["topic@9"] and "no task is named" in shown["nobody"]
    assert "write one into the second field" in shown["answer@1"] and "score-value" in shown["topic@2"]
    shown = columns(play(open_server.http, "topic", text="word " * 1500))
    assert "takes at most" in shown["topic@2"], "an input that is too long"


def test_a_chat_streams_for_scripts_and_is_whole_without_them(open_server: Served) -> None:
    page = play(open_server.http, "style", "tiny-llama", tokens="5")
    assert page.count("data-chat") == 2 and page.count("<noscript>") == 2
    link = re.search(r'href="(/console/playground\?[^"]*whole=true)"', page)
    assert link
    shown = columns(open_server.http.get(link[1].replace("&amp;", "&")).text)
    body = {"model": "style", "messages": [{"role": "user", "content": "Alice is in Paris"}], "max_tokens": 5}
    said = open_server.post("/v1/chat/completions", body | {"temperature": 0}).json()
    assert list(shown) == ["style@1", "tiny-llama"] and said["choices"][0]["message"]["content"]
    for part in shown.values():
        assert "data-chat" not in part and re.search(r'class="answer">.+</p>', part, re.DOTALL)
    token = re.search(r'data-csrf="([0-9a-f]{64})"', page)
    assert token
    stream = open_server.post(f"/console/playground/chat?csrf={token[1]}", body | {"stream": True})
    assert stream.text.endswith("data: [DONE]\n\n") and stream.headers["x-multigraft-version"] == "1"
    assert open_server.post("/console/playground/chat", body).status_code == 403, "the token is needed"


def test_the_bare_base_of_an_encoder_embeds(serve: Serve) -> None:
    served = serve("bert")
    served.add("vector", "feature-extraction", seed=4)
    shown = columns(play(served.http, "tiny-bert", "vector", second="who?"))
    texts = ["Alice is in Paris", "who?"]
    data = served.post("/v1/embeddings", {"model": "tiny-bert", "input": texts}).json()["data"]
    one, other = (entry["embedding"] for entry in data)
    assert f"{sum(a * b for a, b in zip(one, other, strict=True)):.4f}" in shown["tiny-bert"]
    assert f"{one[0]:.4f}" in shown["tiny-bert"] and "the base" in shown["tiny-bert"]
    assert "similarity" in shown["vector@1"]
    long = columns(play(served.http, "tiny-bert", text="word " * 500))
    assert "takes at most" in long["tiny-bert"]


@pytest.fixture(scope="module")
def viewer(load_tiny: LoadTiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server without keys, over a tiny base that reads images."""
    with serving(load_tiny("vit"), tmp_path_factory.mktemp("pictures")) as served:
        for seed in (1, 2):
            served.add("damage", "image-classification", seed=seed)
        yield served


def send_picture(http: httpx.Client, picture: bytes, *refs: str, kind: str = "image/png") -> httpx.Response:
    found = re.search(r"/console/playground/picture\?csrf=[0-9a-f]{64}", http.get("/console/playground").text)
    assert found
    files = {"picture": ("front.png", picture, kind)}
    return http.post(found[0], data={"ref": list(refs)}, files=files, follow_redirects=True)


def test_a_picture_goes_to_several_versions_of_a_base_of_images(viewer: Served) -> None:
    picture = encoded(noise())
    page = send_picture(viewer.http, picture, "damage", "damage@1", "tiny-vit", "nobody", "")
    shown = columns(page.text)
    assert page.status_code == 200 and list(shown) == ["damage@2", "damage@1", "tiny-vit", "nobody"]
    for ref in ("damage@1", "damage@2"):
        for one in viewer.predict(ref, as_base64(picture)).json():
            assert one["label"] in shown[ref] and f"{one['score']:.4f}" in shown[ref]
        assert re.search(r"data-digest title=\"sha256:[0-9a-f]{64}\">[0-9a-f]{12}<", shown[ref])
    assert "the bare base is not asked with a picture" in shown["tiny-vit"]
    assert "no task is named" in shown["nobody"]
    assert f'src="data:image/png;base64,{as_base64(picture)}"' in page.text


def test_what_is_no_picture_is_told_so(viewer: Served) -> None:
    broken = send_picture(viewer.http, HOSTILE.encode(), "damage", kind='text/html"><script>')
    assert broken.status_code == 200 and "No answer." in columns(broken.text)["damage@2"]
    assert 'class="picture"' not in broken.text and HOSTILE not in broken.text
    for picture, refs in ((b"", ("damage",)), (encoded(noise()), ())):
        page = send_picture(viewer.http, picture, *refs)
        assert "choose a picture, and at least one task" in page.text and not columns(page.text)
        assert page.text.count('value="damage"') >= len(refs)
    assert send_picture(viewer.http, encoded(noise()), *(f"t{i}" for i in range(9))).status_code == 400
    page_of_text = play(viewer.http, "damage")
    assert "image-classification is not asked with text" in columns(page_of_text)["damage@2"]


def test_a_base_of_texts_takes_no_picture(open_server: Served) -> None:
    token = re.search(r'csrf" value="([0-9a-f]{64})"', open_server.http.get("/console/tasks/topic/pin").text)
    assert token
    path, files = f"/console/playground/picture?csrf={token[1]}", {"picture": ("a.png", encoded(noise()))}
    page = open_server.http.post(path, data={"ref": "topic"}, files=files)
    assert "text-classification is not asked with a picture" in columns(page.text)["topic@2"]


def test_an_address_alone_brings_the_same_page(open_server: Served) -> None:
    assert "data-latency" not in open_server.http.get("/console/playground").text
    page = play(open_server.http, "topic", "topic", " ", text=" a ")
    assert list(columns(page)) == ["topic@2"], "one that is named twice is asked once"
    assert page.count('value="topic"') >= 1 and '<option value="entities@1">token-classification' in page
    many = open_server.http.get("/console/playground", params={"ref": [f"t{i}" for i in range(9)], "text": "a"})
    assert many.status_code == 400 and "side by side" in many.text
    assert open_server.http.get("/console/playground", params={"text": "a" * 9000}).status_code == 400


def test_a_server_that_ends_asks_nothing_any_more(serve: Serve) -> None:
    served = serve(pause_seconds=PAUSE_SECONDS, drain_deadline_seconds=3600.0)
    path, body = ASKED["a streamed chat"]
    with served.http.stream("POST", path, json=body | {"max_tokens": 40}) as running:
        served.parts.drain.begin(has_grace=False)
        assert served.http.get("/console/playground").status_code == 200
        refused = served.http.get("/console/playground", params={"ref": "tiny-llama", "text": "a"})
        assert refused.status_code == 503 and "retry-after" in refused.headers
        assert running.read()


def test_a_restricted_key_asks_its_tasks_alone_and_pays_for_what_it_asks(serve: Serve) -> None:
    served = serve(api_key=OWN)
    served.http.headers["authorization"] = f"Bearer {OWN}"
    for task in ("mine", "theirs"):
        served.add(task, "text-classification")
    secret = made_key(served, "infer:mine", requests_per_minute=2)["key"]
    with visitor(served) as http:
        log_in(http, secret)
        page = play(http, "mine", "theirs", "tiny-llama", "nobody")
        shown = columns(page)
        assert "score-value" in shown["mine@1"] and '<option value="theirs' not in page
        for name in ("theirs", "tiny-llama", "nobody"):
            assert "there is no such task" in shown[name]
        assert http.get("/console/playground").status_code == 200, "looking costs nothing"
        play(http, "mine")
        assert http.get("/console/playground", params={"ref": "mine", "text": "a"}).status_code == 429
