"""From tokens to text, piece by piece: nothing too early, nothing lost, nothing behind a stop string."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multigraft_server.detokenise import Detokeniser, Vocabulary
from tests.tiny import tiny_tokenizer

TOKENIZER: Any = tiny_tokenizer(encoder=False)
END = TOKENIZER.convert_tokens_to_ids("<|end|>")


def ids_of(text: str) -> list[int]:
    ids = TOKENIZER(text)["input_ids"]
    assert isinstance(ids, list)
    return ids


def pieces(detokeniser: Detokeniser, ids: list[int]) -> list[str]:
    """What each token releases, up to a stop string; then what the end releases."""
    released = []
    for token_id in ids:
        released.append(detokeniser.push(token_id))
        if detokeniser.stopped:
            break
    return [*released, detokeniser.flush()]


@given(st.text(alphabet="ab é€😀", max_size=30))
@settings(max_examples=60, deadline=None)
def test_the_pieces_of_any_text_are_the_text(text: str) -> None:
    assert "".join(pieces(Detokeniser(TOKENIZER), ids_of(text))) == text


@given(st.text(alphabet="abc", max_size=30), st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=4))
@settings(max_examples=200, deadline=None)
def test_a_text_ends_before_the_stop_string_that_is_complete_first(text: str, stops: list[str]) -> None:
    released = "".join(pieces(Detokeniser(TOKENIZER, stops), ids_of(text)))
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(stop) for stop in stops)]
    if not ends:
        assert released == text
    else:
        seen = text[: ends[0]]
        assert released == seen[: min(seen.find(stop) for stop in stops if stop in seen)]


def test_half_a_character_is_held_back_until_it_is_whole() -> None:
    ids = ids_of("a😀b")
    assert len(ids) == 6
    assert pieces(Detokeniser(TOKENIZER), ids) == ["a", "", "", "", "😀", "b", ""]


def test_what_may_begin_a_stop_string_is_held_back_until_it_is_clear() -> None:
    assert pieces(Detokeniser(TOKENIZER, ["xyz"]), ids_of("axyb")) == ["a", "", "", "xyb", ""]
    assert pieces(Detokeniser(TOKENIZER, ["xyz"]), ids_of("axy")) == ["a", "", "", "xy"]
    assert pieces(Detokeniser(TOKENIZER, ["xyz"]), ids_of("axyzb")) == ["a", "", "", "", ""]


def test_bytes_that_are_no_character_come_out_at_the_end() -> None:
    broken = ids_of("😀")[:2]
    assert pieces(Detokeniser(TOKENIZER), broken)[-1] == TOKENIZER.decode(broken)


@pytest.mark.parametrize("ignores", [True, False])
def test_an_end_of_text_has_no_text(ignores: bool) -> None:
    vocabulary = Vocabulary.of(TOKENIZER, {END})
    detokeniser = vocabulary.detokeniser(ignore_eos=ignores)
    assert "".join(pieces(detokeniser, [*ids_of("a"), END, *ids_of("b")])) == "ab"
    assert END in vocabulary.special_ids
    assert vocabulary.end_id == END
    assert vocabulary.text_of(END) == "<|end|>"


def test_an_end_of_text_that_is_an_ordinary_token_is_silent_unless_ignored() -> None:
    [letter] = ids_of("a")
    vocabulary = Vocabulary.of(TOKENIZER, {letter})
    assert vocabulary.detokeniser().push(letter) == ""
    assert vocabulary.detokeniser(ignore_eos=True).push(letter) == "a"
