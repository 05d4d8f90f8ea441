"""`text-classification` over HTTP: several labels at once, a number, and parameters that only some tasks take."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.conftest import Serve
from tests.server.made import LABELS
from tests.server.running import Served

MULTI = {"kind": "classification", "activation": "sigmoid"}


@pytest.fixture
def served(serve: Serve) -> Served:
    return serve()


def test_a_multi_label_answer_holds_the_labels_that_reach_their_thresholds(served: Served) -> None:
    served.add("all", "text-classification", head=MULTI)
    [every] = served.predict("all", "parcel").json()
    assert {entry["label"] for entry in every} == set(LABELS)
    middle = every[1]
    thresholds = dict.fromkeys(LABELS, middle["score"])
    served.add("some", "text-classification", head=MULTI | {"thresholds": thresholds})
    [some] = served.predict("some", "parcel").json()
    assert [entry["label"] for entry in some] == [entry["label"] for entry in every[:2]]
    assert served.predict("some", "parcel", {"thresholds": {}}).json() == [every]
    assert served.predict("all", "parcel", {"thresholds": thresholds}).json() == [some]
    [logits] = served.predict("some", "parcel", {"function_to_apply": "none"}).json()
    assert len(logits) == len(LABELS)


def test_a_regression_answers_one_entry(served: Served) -> None:
    served.add("stars", "text-classification", labels=("stars",), problem_type="regression")
    [[answer]] = served.predict("stars", "parcel").json()
    assert answer["label"] == "stars"
    assert isinstance(answer["score"], float)
    many = served.predict("stars", ["parcel", "late"]).json()
    assert [len(one) for one in many] == [1, 1]


@pytest.mark.parametrize(
    ("task", "parameters", "param"),
    [
        ("multi", {"thresholds": {"billing": 1.5}}, "parameters.thresholds.billing"),
        ("multi", {"thresholds": {"rude": 0.5}}, "parameters.thresholds"),
        ("multi", {"thresholds": 0.5}, "parameters.thresholds"),
        ("multi", {"thresholds": {"billing": 0.5}, "function_to_apply": "none"}, "parameters.thresholds"),
        ("single", {"thresholds": {"billing": 0.5}}, "parameters.thresholds"),
    ],
)
def test_a_wrong_threshold_is_a_400_that_names_it(
    served: Served, task: str, parameters: dict[str, Any], param: str
) -> None:
    served.add(task, "text-classification", head=MULTI if task == "multi" else {"kind": "classification"})
    response = served.predict(task, "parcel", parameters)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_a_parameter_that_is_given_twice_is_a_400(served: Served) -> None:
    served.add("vector", "feature-extraction")
    body = {"inputs": "parcel", "normalize": True, "parameters": {"normalize": False}}
    response = served.post("/v1/tasks/vector/predict", body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "normalize"


def test_an_upload_with_a_threshold_outside_0_to_1_is_refused(served: Served) -> None:
    with pytest.raises(AssertionError, match=r"head.thresholds.billing: Input should be less than or equal to 1"):
        served.add("multi", "text-classification", head=MULTI | {"thresholds": {"billing": 1.5}})
