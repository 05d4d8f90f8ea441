"""Heads made by PEFT and served over HTTP answer as transformers' task models do; alone and all in one crowd."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from multigraft_adapters.artifact import read_folder
from multigraft_server.assemble import assemble
from multigraft_server.settings import ServerSettings
from tests.parity.asking import TEXTS
from tests.parity.forms import Form
from tests.parity.pipelines import CASES, FAMILIES, HeadReference, make_head_adapter
from tests.server.running import listening
from tests.tiny import MAX_LENGTH, make_tiny_base

FP32 = 1e-4

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class ServedHeads:
    """A running server over one tiny base, and the references of the adapters that it serves, by task name."""

    model_type: str
    url: str
    references: dict[str, HeadReference]

    def ask(self, task: str, inputs: Any, **parameters: Any) -> Any:
        body = {"inputs": inputs, "parameters": parameters}
        response = httpx.post(f"{self.url}/v1/tasks/{task}/predict", json=body, timeout=60)
        assert response.status_code == 200, response.text
        return response.json()


@pytest.fixture(scope="module", params=FAMILIES)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedHeads]:
    model_type: str = request.param
    root = tmp_path_factory.mktemp(f"heads-{model_type}")
    base = make_tiny_base(root / model_type, model_type)
    settings = ServerSettings(base=str(base), data_dir=root / "data", dtype="float32")
    with assemble(settings) as app, listening(app) as url:
        folders = {
            case.task: make_head_adapter(base, model_type, case, root / case.task, seed)
            for seed, case in enumerate(CASES)
        }
        for case in CASES:
            upload(url, case, folders[case.task])
        references = {case.task: HeadReference(base, case, folders[case.task]) for case in CASES}
        yield ServedHeads(model_type, url, references)


def upload(url: str, case: Form, folder: Path) -> None:
    response = httpx.post(
        f"{url}/v1/tasks/{case.task}/versions",
        params={"alias": "production"},
        files=[("file", (name, data)) for name, data in read_folder(folder).items()],
        data={"task": json.dumps(case.declaration)},
        timeout=60,
    )
    assert response.status_code == 201, response.text


def assert_same(one: Any, other: Any) -> None:
    """Equal but for numbers, which may differ by the tolerance."""
    if isinstance(one, float):
        assert one == pytest.approx(float(other), abs=FP32)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_same(value, other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for first, second in zip(one, other, strict=True):
            assert_same(first, second)
    else:
        assert one == other


@pytest.mark.parametrize("task", ["single", "multi", "score"])
def test_classifications_are_the_pipeline_s(served: ServedHeads, task: str) -> None:
    answers = served.ask(task, TEXTS)
    expected = [served.references[task].pipe("text-classification", text, top_k=None) for text in TEXTS]
    assert_same(answers, expected)


def test_pairs_are_classified_as_one_sequence(served: ServedHeads) -> None:
    pair = {"text": TEXTS[0], "text_pair": TEXTS[1]}
    assert_same(
        served.ask("single", pair), [served.references["single"].pipe("text-classification", pair, top_k=None)]
    )


STRATEGIES = ("none", "simple", "first", "average", "max")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("task", ["tags", "words"])
def test_entities_are_the_pipeline_s(served: ServedHeads, task: str, strategy: str) -> None:
    parameters = {"aggregation_strategy": strategy, "ignore_labels": []}
    answers = served.ask(task, TEXTS, **parameters)
    expected = served.references[task].pipe("token-classification", TEXTS, **parameters)
    assert all(answers)
    assert_same(answers, expected)


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
def test_entities_in_overlapping_windows_are_the_pipeline_s(served: ServedHeads, strategy: str) -> None:
    text = " ".join(TEXTS * 4)
    parameters = {"aggregation_strategy": strategy, "stride": 60, "ignore_labels": ["PER"]}
    answers = served.ask("tags", text, **parameters)
    assert len(text) > 3 * MAX_LENGTH
    assert_same(answers, served.references["tags"].pipe("token-classification", text, **parameters))


QUESTION = "What does the app do whenever I open the settings page?"


@pytest.mark.parametrize("may_be_empty", [False, True])
@pytest.mark.parametrize("top_k", [1, 4])
def test_answers_are_those_of_the_pipeline_that_was(served: ServedHeads, top_k: int, may_be_empty: bool) -> None:
    context = " ".join(TEXTS * 2)
    inputs = {"question": QUESTION, "context": context}
    found = served.ask(
        "answer", inputs, top_k=top_k, max_seq_len=128, doc_stride=32, max_answer_len=20,
        handle_impossible_answer=may_be_empty, align_to_words=False,
    )  # fmt: skip
    expected = served.references["answer"].answers(
        QUESTION, context, size=128, stride=32, top_k=top_k, longest=20, may_be_empty=may_be_empty
    )
    assert_same(found if top_k > 1 else [found], expected)
    if served.model_type == "bert":
        assert len(expected) == top_k


@pytest.mark.parametrize(("task", "normalize"), [("mean", True), ("cls", False), ("last", True)])
def test_vectors_are_the_backbone_s_pooled_states(served: ServedHeads, task: str, normalize: bool) -> None:
    expected = [served.references[task].vector(text, task, normalize=normalize) for text in TEXTS]
    assert_same(served.ask(task, TEXTS), expected)
    wanted = {"model": task, "input": TEXTS}
    packed = httpx.post(f"{served.url}/v1/embeddings", json=wanted | {"encoding_format": "base64"}).json()
    vectors = [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in packed["data"]]
    assert_same([[float(number) for number in vector] for vector in vectors], expected)
    cut = httpx.post(f"{served.url}/v1/embeddings", json=wanted | {"dimensions": 5}).json()["data"]
    for one, whole in zip(cut, expected, strict=True):
        assert one["embedding"] == pytest.approx(np.array(whole[:5]) / np.linalg.norm(whole[:5]), abs=FP32)


def test_all_heads_in_one_step_answer_as_each_alone(
    served: ServedHeads, report_figure: Callable[[str], None]
) -> None:
    wanted: list[dict[str, Any]] = [
        {"task": case.task, "inputs": {"question": QUESTION, "context": text} if case.task == "answer" else text}
        for text in TEXTS
        for case in CASES
    ]
    alone = [served.ask(one["task"], one["inputs"]) for one in wanted]  # so that every adapter is resident, too
    response = httpx.post(f"{served.url}/v1/predict", json={"requests": wanted}, timeout=60)
    results = response.json()["results"]
    assert [result["task"] for result in results] == [one["task"] for one in wanted]
    assert_same([result["output"] for result in results], alone)
    assert int(response.headers["x-multigraft-step-adapters"]) == len(CASES)
    report_figure(
        f"{served.model_type}: {len(wanted)} rows of {len(CASES)} heads in one step answer as each alone"
    )
