"""Names and references, as tables."""

from __future__ import annotations

import pytest

from multigraft_adapters.errors import (
    InvalidRequestError,
    MultigraftError,
    TaskNotFoundError,
    VersionNotFoundError,
)
from multigraft_adapters.registry import check_alias_name, check_task_name, parse_reference

BASE = "smollm2"


@pytest.mark.parametrize("name", ["a", "0", "sentiment", "a.b_c-d", "9lives", "a" * 64, "base", "smollm2.chat"])
def test_a_task_name_of_the_rule_is_allowed(name: str) -> None:
    check_task_name(name, BASE)


@pytest.mark.parametrize(
    "name",
    ["", " ", "A", "Sentiment", "-a", ".a", "_a", "a b", "a/b", "a@1", "a:b", "é", "a\n", "a" * 65, "..", BASE],
)
def test_another_task_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_task_name(name, BASE)
    assert caught.value.param == "task"


@pytest.mark.parametrize("name", ["production", "canary", "v3", "3b", "2026-01"])
def test_an_alias_name_of_the_rule_is_allowed(name: str) -> None:
    check_alias_name(name)


@pytest.mark.parametrize("name", ["", "3", "007", "Canary", "a@b", "a" * 65, "a "])
def test_another_alias_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_alias_name(name)
    assert caught.value.param == "alias"


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        ("sentiment", ("sentiment", "production")),
        ("sentiment@3", ("sentiment", 3)),
        ("sentiment@canary", ("sentiment", "canary")),
        ("sentiment@3b", ("sentiment", "3b")),
        ("base:sentiment", ("sentiment", "production")),
        ("smollm2:sentiment@3", ("sentiment", 3)),
        ("base:smollm2", (None, "production")),
        ("smollm2", (None, "production")),
        ("Sentiment", ("Sentiment", "production")),
    ],
)
def test_a_reference_is_split(ref: str, expected: tuple[str | None, int | str]) -> None:
    assert parse_reference(ref, BASE) == expected


@pytest.mark.parametrize(
    ("ref", "error"),
    [
        ("", InvalidRequestError),
        ("@", InvalidRequestError),
        ("@3", InvalidRequestError),
        ("sentiment@", InvalidRequestError),
        ("base:", InvalidRequestError),
        ("llama:sentiment", TaskNotFoundError),
        ("smollm2@3", VersionNotFoundError),
        ("sentiment@0", VersionNotFoundError),
        ("sentiment@007", VersionNotFoundError),
        ("sentiment@" + "9" * 5000, VersionNotFoundError),
    ],
)
def test_a_reference_that_can_name_nothing_is_refused(ref: str, error: type[MultigraftError]) -> None:
    with pytest.raises(error) as caught:
        parse_reference(ref, BASE)
    assert caught.value.param == "task"
    assert len(caught.value.message) < 300


def test_a_base_whose_name_holds_a_colon_is_a_prefix_too() -> None:
    assert parse_reference("a:b:sentiment@2", "a:b") == ("sentiment", 2)
    assert parse_reference("a:b", "a:b") == (None, "production")
