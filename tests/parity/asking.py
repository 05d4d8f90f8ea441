"""Asking a served task over HTTP, one at a time or all at once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

TEXTS = [
    "My parcel says delivered, but there is nothing at the door.",
    "How do I change the card that you charge?",
    "The app closes itself whenever I open the settings page, and it did not before the update of last week.",
    "Hello!",
]
OPENINGS = ["Once upon a time, in a small village by the sea,", "The three most important rules of cooking are"]
GREEDY_TOKENS = 24


@dataclass(frozen=True, slots=True)
class Question:
    """One predict call."""

    task: str
    text: str
    parameters: tuple[tuple[str, Any], ...] = ()


def questions(tasks: Sequence[str], texts: Sequence[str], **parameters: Any) -> list[Question]:
    """Every text to every task."""
    return [Question(task, text, tuple(parameters.items())) for text in texts for task in tasks]


def ask(session: httpx.Client, question: Question) -> tuple[Any, str]:
    """The output and the digest of the adapter that computed it."""
    response = session.post(
        f"/v1/tasks/{question.task}/predict",
        json={"inputs": question.text, "parameters": dict(question.parameters)},
    )
    assert response.status_code == 200, response.text
    return response.json(), response.headers["x-multigraft-adapter"]


def ask_alone(url: str, wanted: Sequence[Question]) -> list[tuple[Any, str]]:
    """One after the other."""
    with httpx.Client(base_url=url, timeout=300) as session:
        return [ask(session, question) for question in wanted]


def ask_in_a_crowd(url: str, wanted: Sequence[Question]) -> list[tuple[Any, str]]:
    """All at once."""
    limits = httpx.Limits(max_connections=len(wanted))
    with httpx.Client(base_url=url, timeout=300, limits=limits) as session:
        with ThreadPoolExecutor(len(wanted)) as pool:
            return list(pool.map(lambda question: ask(session, question), wanted))


def scores(output: Any) -> dict[str, float]:
    """A classification's scores by label."""
    return {entry["label"]: entry["score"] for entry in output[0]}


def token_ids(output: Any) -> list[int]:
    """The ids of a generation that was asked for with details."""
    return [token["id"] for token in output["details"]["tokens"]]
