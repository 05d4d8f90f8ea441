"""`image-classification` over HTTP: images as base64 or as the body, and what else their base answers."""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from multigraft_adapters.commands.inference import predict
from tests.pictures import MODES, as_base64, encoded, moving, noise
from tests.server.conftest import ORIGINS, LoadTiny
from tests.server.made import LABELS
from tests.server.running import Counting, Served, serving

PNG = encoded(noise())
IMAGE = as_base64(PNG)


def test_an_image_is_classified_into_a_flat_list_best_first(viewer: Served) -> None:
    response = viewer.predict("damage", IMAGE)
    assert response.status_code == 200, response.text
    answer = response.json()
    scores = [entry["score"] for entry in answer]
    assert {entry["label"] for entry in answer} == set(LABELS)
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1.0)
    assert response.headers["x-multigraft-task"] == "damage"


@pytest.mark.parametrize(
    "kind", ["image/png", "IMAGE/PNG; q=1", "image/x-unknown", "application/octet-stream", None]
)
def test_an_image_as_the_body_is_the_same_image(viewer: Served, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    response = viewer.http.post("/v1/tasks/damage/predict", content=PNG, headers=headers)
    assert response.status_code == 200, response.text
    assert response.json() == viewer.predict("damage", IMAGE).json()


@pytest.mark.parametrize(
    "text",
    [f"data:image/png;base64,{IMAGE}", f"data:Image/PNG;BASE64,{IMAGE}", base64.encodebytes(PNG).decode()],
    ids=["data URL", "data URL in capitals", "in lines"],
)
def test_base64_may_be_a_data_url_or_in_lines(viewer: Served, text: str) -> None:
    assert viewer.predict("damage", text).json() == viewer.predict("damage", IMAGE).json()


def test_a_list_of_images_gives_a_list_of_lists(viewer: Served) -> None:
    images = [as_base64(encoded(noise(seed))) for seed in range(3)]
    answers = viewer.predict("damage", images).json()
    assert [len(answer) for answer in answers] == [3, 3, 3]
    for image, answer in zip(images, answers, strict=True):
        assert_close(answer, viewer.predict("damage", image).json())
    assert len(viewer.predict("damage", [IMAGE]).json()) == 1


def test_five_labels_are_answered_unless_told_otherwise(viewer: Served) -> None:
    every = viewer.predict("origin", IMAGE, {"top_k": 100}).json()
    assert {entry["label"] for entry in every} == set(ORIGINS)
    assert viewer.predict("origin", IMAGE).json() == every[:5]
    assert viewer.predict("origin", IMAGE, {"top_k": 2}).json() == every[:2]


def test_the_activation_can_be_chosen(viewer: Served) -> None:
    answer = viewer.predict("damage", IMAGE, {"function_to_apply": "sigmoid"}).json()
    logits = viewer.predict("damage", IMAGE, {"function_to_apply": "none"}).json()
    for score, logit in zip(answer, logits, strict=True):
        assert score["score"] == pytest.approx(1 / (1 + np.exp(-logit["score"])), abs=1e-5)


@pytest.mark.parametrize(("seeds", "top_k"), [((0,), 1), ((0,), 3), ((0, 1), 1)])
def test_the_command_asks_about_pictures(
    viewer: Served, tmp_path: Path, seeds: tuple[int, ...], top_k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    files = [tmp_path / f"{seed}.png" for seed in seeds]
    for seed, file in zip(seeds, files, strict=True):
        file.write_bytes(encoded(noise(seed)))
    asked = ["--url", viewer.url, "--parameters", json.dumps({"top_k": top_k})]
    asked += [word for file in files for word in ("--image", str(file))]
    result = CliRunner().invoke(predict, ["damage", *asked])
    assert result.exit_code == 0, result.output
    for seed, file in zip(seeds, files, strict=True):
        answer = viewer.predict("damage", as_base64(encoded(noise(seed))), {"top_k": top_k}).json()
        shown = ", ".join(f"{entry['label']} {entry['score']:.3f}" for entry in answer)
        (line,) = (line for line in result.output.splitlines() if str(file) in line)
        assert f" {shown} " in line


def test_several_labels_for_one_image_have_thresholds(viewer: Served) -> None:
    every = viewer.predict("marks", IMAGE).json()
    thresholds = dict.fromkeys(LABELS, every[1]["score"])
    assert viewer.predict("marks", IMAGE, {"thresholds": thresholds}).json() == every[:2]


@pytest.mark.parametrize("mode", MODES)
def test_a_png_of_any_mode_is_read(viewer: Served, mode: str) -> None:
    assert viewer.predict("damage", as_base64(encoded(noise(mode=mode)))).status_code == 200


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "L"), ("JPEG", "CMYK"), ("WEBP", "RGBA"), ("BMP", "RGB")])
def test_other_types_are_read(viewer: Served, kind: str, mode: str) -> None:
    assert viewer.predict("damage", as_base64(encoded(noise(mode=mode), kind))).status_code == 200


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_an_image_that_moves_the_first_picture_is_read(viewer: Served, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    still = viewer.predict("damage", as_base64(encoded(noise(1), kind, **options))).json()
    film = moving(kind, **options)
    assert_close(viewer.predict("damage", as_base64(film)).json(), still)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_body_of_another_type_is_a_400_that_says_what_is_taken(viewer: Served, kind: str) -> None:
    response = viewer.http.post("/v1/tasks/damage/predict", content=PNG, headers={"content-type": kind})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "content-type"
    assert "image/..." in response.json()["error"]["message"]


def test_images_do_not_stream(viewer: Served) -> None:
    response = viewer.post("/v1/tasks/damage/predict", {"inputs": IMAGE, "stream": True})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "stream"


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream"])
def test_a_task_of_texts_takes_no_image_as_its_body(encoder: Served, kind: str) -> None:
    response = encoder.http.post("/v1/tasks/topic/predict", content=PNG, headers={"content-type": kind})
    assert response.status_code == 400
    assert "must be a JSON object" in response.json()["error"]["message"]


@pytest.mark.parametrize("model", ["tiny-vit", "damage"])
@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
        ("completions", {"prompt": "hi"}),
        ("completions", {"prompt": [1, 2]}),
        ("embeddings", {"input": "hi"}),
        ("embeddings", {"input": [1, 2]}),
    ],
)
def test_the_routes_that_take_text_refuse_an_image_base(
    viewer: Served, model: str, route: str, body: dict[str, Any]
) -> None:
    response = viewer.post(f"/v1/{route}", {"model": model, **body})
    error = response.json()["error"]
    assert response.status_code == 400
    assert (error["code"], error["param"]) == ("task_type_mismatch", "model")
    assert "image" in error["message"]


def test_the_bare_base_predicts_nothing(viewer: Served) -> None:
    response = viewer.predict("tiny-vit", IMAGE)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "task_type_mismatch"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/damage", "/v1/tasks", "/v1/engine", "/metrics"])
def test_what_tells_of_the_server_does_so_on_an_image_base(viewer: Served, path: str) -> None:
    viewer.predict("damage", IMAGE)
    response = viewer.http.get(path)
    assert response.status_code == 200
    assert "damage" in response.text or path == "/v1/engine"


def test_an_upload_for_another_input_is_refused(viewer: Served) -> None:
    with pytest.raises(AssertionError, match="no text-classification model of type 'vit'"):
        viewer.add("topic", "text-classification")


def test_one_image_is_classified_by_many_tasks_in_one_step(viewer: Served) -> None:
    tasks = ["origin", "damage", "marks"]
    body = {"inputs": IMAGE, "tasks": tasks, "parameters": {"top_k": 2}}
    responses = [viewer.post("/v1/predict", body) for _ in range(5)]
    for task, result in zip(tasks, responses[-1].json()["results"], strict=True):
        assert_close(result["output"], viewer.predict(task, IMAGE, {"top_k": 2}).json())
    assert max(int(response.headers["x-multigraft-step-adapters"]) for response in responses) == 3


def test_a_bad_image_among_others_fails_alone(viewer: Served) -> None:
    entries = [
        {"task": "damage", "inputs": IMAGE},
        {"task": "damage", "inputs": "x"},
        {"task": "origin", "inputs": [IMAGE, 3]},
        {"task": "origin", "inputs": [IMAGE]},
    ]
    results = viewer.post("/v1/predict", {"requests": entries}).json()["results"]
    assert [result.get("error", {}).get("param") for result in results] == [None, "inputs", "inputs.1", None]
    assert_close(results[3]["output"], [viewer.predict("origin", IMAGE).json()])


def test_a_fan_out_decodes_an_image_once(load_tiny: LoadTiny, tmp_path: Path) -> None:
    base = load_tiny("vit")
    processor = Counting(base.image_processor)
    with serving(dataclasses.replace(base, image_processor=processor), tmp_path) as served:
        tasks = [f"task-{seed}" for seed in range(4)]
        for seed, task in enumerate(tasks):
            served.add(task, "image-classification", seed=seed)
        results = served.post("/v1/predict", {"inputs": IMAGE, "tasks": tasks}).json()["results"]
        assert [len(result["output"]) for result in results] == [3, 3, 3, 3]
        assert processor.calls == 1
        served.post("/v1/predict", {"inputs": [IMAGE, as_base64(encoded(noise(1)))], "tasks": tasks})
        assert processor.calls == 3


def test_images_that_a_base_does_not_resize_must_have_its_size(load_tiny: LoadTiny, tmp_path: Path) -> None:
    base = load_tiny("vit")
    base.image_processor.do_resize = False
    with serving(base, tmp_path) as served:
        served.add("damage", "image-classification")
        refused = served.predict("damage", IMAGE)
        assert refused.status_code == 400
        assert "pixels of shape [3, 30, 40], the base takes [3, 24, 24]" in refused.json()["error"]["message"]
        assert served.predict("damage", as_base64(encoded(noise(size=(24, 24))))).status_code == 200


def assert_close(one: Any, other: Any) -> None:
    """Equal but for scores, which may differ by what the company of other rows does to fp32."""
    if isinstance(one, list):
        assert len(one) == len(other)
        for first, second in zip(one, other, strict=True):
            assert_close(first, second)
    else:
        assert one["label"] == other["label"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)
