"""`token-classification` over HTTP: entities with their characters, long texts in windows, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.running import Served
from tests.tiny import MAX_LENGTH

TEXT = "Clara lives in Berlin, and she is fine."


@pytest.fixture(scope="module", params=["encoder", "decoder"])
def served(request: pytest.FixtureRequest) -> Served:
    served: Served = request.getfixturevalue(request.param)
    return served


def test_each_token_has_a_label_and_its_characters(served: Served) -> None:
    tokens = served.predict("entities", TEXT, {"ignore_labels": []}).json()
    assert [TEXT[token["start"] : token["end"]] for token in tokens] == list(TEXT)
    assert {"entity", "score", "index", "word", "start", "end"} == set(tokens[0])
    first = 1 if served.spec.family == "encoder" else 0
    assert [token["index"] for token in tokens] == list(range(first, first + len(TEXT)))


@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
def test_groups_cover_the_text_in_order(served: Served, strategy: str) -> None:
    parameters = {"ignore_labels": [], "aggregation_strategy": strategy}
    groups = served.predict("entities", TEXT, parameters).json()
    assert {"entity_group", "score", "word", "start", "end"} == set(groups[0])
    assert "".join(TEXT[group["start"] : group["end"]] for group in groups) == TEXT
    assert {group["entity_group"] for group in groups} <= {"O", "PER", "LOC"}


def test_labels_and_tags_can_be_left_out(served: Served) -> None:
    every = served.predict("entities", TEXT, {"aggregation_strategy": "simple", "ignore_labels": []}).json()
    usual = served.predict("entities", TEXT, {"aggregation_strategy": "simple"}).json()
    no_person = {"aggregation_strategy": "simple", "ignore_labels": ["PER"]}
    assert usual == [one for one in every if one["entity_group"] != "O"]
    assert served.predict("entities", TEXT, no_person).json() == [
        one for one in every if one["entity_group"] != "PER"
    ]


def test_a_list_gives_a_list_for_each_text(served: Served) -> None:
    one, two = served.predict("entities", TEXT).json(), served.predict("entities", "Berlin").json()
    many = served.predict("entities", [TEXT, "Berlin"]).json()
    assert [[entity["word"] for entity in text] for text in many] == [
        [entity["word"] for entity in text] for text in (one, two)
    ]


def test_a_long_text_is_read_in_windows_to_its_end(served: Served) -> None:
    long = " ".join([TEXT] * 30)
    parameters = {"aggregation_strategy": "simple", "stride": 40, "ignore_labels": []}
    groups = served.predict("entities", long, parameters).json()
    starts = [group["start"] for group in groups]
    assert len(long) > 4 * MAX_LENGTH
    assert starts == sorted(starts)
    assert groups[-1]["end"] == len(long)


@pytest.mark.parametrize(
    ("inputs", "parameters", "param"),
    [
        ("", {}, "inputs"),
        ([], {}, "inputs"),
        ([TEXT, ""], {}, "inputs"),
        ({"text": TEXT}, {}, "inputs"),
        (3, {}, "inputs"),
        (TEXT, {"aggregation_strategy": "best"}, "parameters.aggregation_strategy"),
        (TEXT, {"stride": 4}, "parameters.stride"),
        (TEXT, {"stride": -1, "aggregation_strategy": "simple"}, "parameters.stride"),
        (TEXT, {"stride": MAX_LENGTH, "aggregation_strategy": "simple"}, "parameters.stride"),
        (TEXT, {"ignore_labels": ["B-ORG"]}, "parameters.ignore_labels"),
        (TEXT, {"ignore_labels": "O"}, "parameters.ignore_labels"),
        ("x" * 70_000, {"stride": 4, "aggregation_strategy": "simple"}, "inputs"),
    ],
)
def test_what_is_wrong_is_a_400_that_names_the_field(
    served: Served, inputs: Any, parameters: dict[str, Any], param: str
) -> None:
    response = served.predict("entities", inputs, parameters)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_a_text_that_is_too_long_without_a_stride_is_refused(served: Served) -> None:
    response = served.predict("entities", "x" * (MAX_LENGTH + 1))
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert "give a stride" in response.json()["error"]["message"]
