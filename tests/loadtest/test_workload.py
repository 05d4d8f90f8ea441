"""Workloads: deterministic by seed, of the right lengths, by the right shares, ending where they should."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from multigraft_loadtest.problems import CannotStartError
from multigraft_loadtest.texts import Lengths, random_texts, read_texts
from multigraft_loadtest.workload import Traffic, Workload

GENERATION = Traffic("generation", ["a", "b"], prompt_words=Lengths(5, 9), output_tokens=Lengths(2, 4))
CLASSIFICATION = Traffic("classification", ["c"], texts=["one", "two", "three"], texts_per_request=2)


def test_a_seed_decides_every_request() -> None:
    def asked(seed: int) -> list[object]:
        workload = Workload([(GENERATION, 0.5), (CLASSIFICATION, 0.5)], rate=3, num_requests=40, seed=seed)
        return list(workload.requests())

    assert asked(1) == asked(1)
    assert asked(1) != asked(2)


def test_requests_have_the_lengths_the_kinds_and_the_tasks_that_are_asked_for() -> None:
    workload = Workload([(GENERATION, 0.75), (CLASSIFICATION, 0.25)], clients=1, num_requests=400)
    requests = list(workload.requests())
    assert [request.index for request in requests] == list(range(400))
    written = [request for request in requests if request.kind == "generation"]
    assert len(written) == pytest.approx(300, abs=40)
    assert {len(request.texts[0].split()) for request in written} == {5, 6, 7, 8, 9}
    assert {request.max_tokens for request in written} == {2, 3, 4}
    assert set(Counter(request.task for request in written)) == {"a", "b"}
    assert all(len(request.texts) == 2 for request in requests if request.kind == "classification")


def test_an_open_loop_ends_when_its_time_is_over_and_a_trace_with_its_last_line() -> None:
    timed = list(Workload([(GENERATION, 1)], rate=50, seconds=2.0).requests())
    assert len(timed) == pytest.approx(100, abs=50)
    assert all(request.offset_s is not None and request.offset_s <= 2 for request in timed)
    replayed = list(Workload([(GENERATION, 1)], trace=[0.0, 0.5, 0.7]).requests())
    assert [request.offset_s for request in replayed] == [0.0, 0.5, 0.7]


def test_every_task_is_warmed_up() -> None:
    warmed = Workload([(GENERATION, 0.5), (CLASSIFICATION, 0.5)], clients=1, warm_up=2).warm_up_requests()
    assert Counter(request.task for request in warmed) == {"a": 2, "b": 2, "c": 2}


def test_random_texts_share_no_beginning_with_their_neighbours() -> None:
    first = [text.split()[0] for text in islice(random_texts(Lengths(3, 3), 0), 500)]
    assert len(set(first)) == 500


def test_texts_are_read_from_strings_and_objects(tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('"one"\n{"prompt": "two"}\n{"text": "three"}\n')
    assert read_texts(file) == ["one", "two", "three"]
    file.write_text('{"no": 1}\n')
    with pytest.raises(CannotStartError, match="texts.jsonl:1"):
        read_texts(file)


@pytest.mark.parametrize("text", ["", "0", "5:2", "x", "1:2:3"])
def test_what_is_no_length_is_refused(text: str) -> None:
    with pytest.raises(CannotStartError):
        Lengths.parse(text)
