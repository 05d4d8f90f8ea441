"""`question-answering` over HTTP: answers with their characters, long contexts in windows, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.running import Served
from tests.tiny import MAX_LENGTH

QUESTION = "Where does Clara live?"
CONTEXT = "Clara lives in Berlin, and she is fine. Bob lives in Bonn."
INPUTS = {"question": QUESTION, "context": CONTEXT}


@pytest.fixture(scope="module", params=["encoder", "decoder"])
def served(request: pytest.FixtureRequest) -> Served:
    served: Served = request.getfixturevalue(request.param)
    return served


def test_an_answer_is_a_passage_of_the_context(served: Served) -> None:
    answer = served.predict("answer", INPUTS).json()
    assert set(answer) == {"answer", "score", "start", "end"}
    assert answer["answer"] == CONTEXT[answer["start"] : answer["end"]] != ""
    assert 0 < answer["score"] <= 1


def test_the_best_answers_come_first(served: Served) -> None:
    answers = served.predict("answer", INPUTS, {"top_k": 3, "align_to_words": False}).json()
    scores = [answer["score"] for answer in answers]
    assert len(answers) == 3
    assert scores == sorted(scores, reverse=True)
    assert answers[0] == served.predict("answer", INPUTS, {"align_to_words": False}).json()


def test_answers_have_at_most_the_tokens_that_are_asked_for(served: Served) -> None:
    parameters = {"top_k": 20, "align_to_words": False, "max_answer_len": 3}
    answers = served.predict("answer", INPUTS, parameters).json()
    assert max(answer["end"] - answer["start"] for answer in answers) <= 3


def test_a_list_of_questions_gives_a_list_of_answers(served: Served) -> None:
    other = {"question": "Who is fine?", "context": CONTEXT}
    answers = served.predict("answer", [INPUTS, other]).json()
    alone = [served.predict("answer", one).json() for one in (INPUTS, other)]
    assert [answer["answer"] for answer in answers] == [answer["answer"] for answer in alone]


def test_no_answer_is_an_answer_where_it_may_be(served: Served) -> None:
    answers = served.predict("answer", INPUTS, {"handle_impossible_answer": True, "top_k": 100}).json()
    assert [answer for answer in answers if answer["answer"] == ""] or len(answers) == 100


def test_a_long_context_is_read_in_windows(served: Served) -> None:
    long = " ".join([CONTEXT] * 20)
    inputs = {"question": QUESTION, "context": long}
    answer = served.predict("answer", inputs).json()
    narrow = served.predict("answer", inputs, {"max_seq_len": 64, "doc_stride": 8}).json()
    assert len(long) > 4 * MAX_LENGTH
    assert answer["answer"] == long[answer["start"] : answer["end"]]
    assert narrow["answer"] == long[narrow["start"] : narrow["end"]]


def test_a_question_is_cut_where_that_is_asked_for(served: Served) -> None:
    long = {"question": QUESTION + "x" * MAX_LENGTH, "context": CONTEXT}
    assert (
        served.predict("answer", long, {"max_question_len": len(QUESTION)}).json()["answer"]
        == (served.predict("answer", INPUTS).json()["answer"])
    )


@pytest.mark.parametrize(
    ("inputs", "parameters", "param"),
    [
        (CONTEXT, {}, "inputs"),
        ([], {}, "inputs"),
        ({"question": QUESTION}, {}, "inputs"),
        ({**INPUTS, "title": "a"}, {}, "inputs"),
        ({"question": "", "context": CONTEXT}, {}, "inputs.question"),
        ({"question": QUESTION, "context": ""}, {}, "inputs.context"),
        ({"question": QUESTION, "context": 3}, {}, "inputs.context"),
        ([INPUTS, {"question": QUESTION, "context": ""}], {}, "inputs.1.context"),
        ({"question": "x" * MAX_LENGTH, "context": CONTEXT}, {}, "inputs.question"),
        (INPUTS, {"max_seq_len": 20}, "inputs.question"),
        (INPUTS, {"max_seq_len": MAX_LENGTH + 1}, "parameters.max_seq_len"),
        (INPUTS, {"doc_stride": MAX_LENGTH}, "parameters.doc_stride"),
        (INPUTS, {"doc_stride": -1}, "parameters.doc_stride"),
        (INPUTS, {"top_k": 0}, "parameters.top_k"),
        (INPUTS, {"max_answer_len": 0}, "parameters.max_answer_len"),
        (INPUTS, {"max_answer_len": 100_000}, "parameters.max_answer_len"),
        (INPUTS, {"handle_impossible_answer": "yes"}, "parameters.handle_impossible_answer"),
        (INPUTS, {"padding": True}, "parameters.padding"),
        ({"question": QUESTION, "context": CONTEXT * 400}, {"max_seq_len": 64, "doc_stride": 35}, "inputs"),
    ],
)
def test_what_is_wrong_is_a_400_that_names_the_field(
    served: Served, inputs: Any, parameters: dict[str, Any], param: str
) -> None:
    response = served.predict("answer", inputs, parameters)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize("field", ["question", "context"])
def test_half_a_surrogate_pair_is_refused_in_either_text(served: Served, field: str) -> None:
    content = '{"inputs": {"question": "a", "context": "b"}}'.replace(f'"{field}": "', f'"{field}": "\\ud800')
    headers = {"content-type": "application/json"}
    response = served.http.post("/v1/tasks/answer/predict", content=content.encode(), headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == f"inputs.{field}"
