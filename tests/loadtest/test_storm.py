"""The swap storm: that its adapters tell which version answered, that a wrong answer is found, and a whole one."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import safetensors.numpy
from click.testing import CliRunner

from multigraft_loadtest.cli import loadtest
from multigraft_loadtest.random_adapters import TENSORS
from multigraft_loadtest.records import Record
from multigraft_loadtest.server import Server
from multigraft_loadtest.shapes import shape_of
from multigraft_loadtest.storm.alphabet import make_alphabet
from multigraft_loadtest.storm.base_files import BaseFiles
from multigraft_loadtest.storm.judge import ASKED_FOR, Answer, judge, says
from multigraft_loadtest.storm.ledger import PRODUCTION, AliasBook, TaskBook, VersionBook
from multigraft_loadtest.storm.marked import Kind, Mark, MarkedAdapter, Marker, Method
from multigraft_loadtest.storm.observed import step_percentile
from multigraft_loadtest.storm.phase import Outcome, Plan
from multigraft_loadtest.storm.report import exit_code, summarise_phase
from multigraft_loadtest.workload import Request
from tests.tiny import make_tiny_base

TEXTS = ("a text", "another, longer text of several words", "?")
TOKENS = 5


@dataclass(frozen=True)
class Stage:
    """A server over a tiny base, and what makes marked adapters for it."""

    server: Server
    marker: Marker

    def record(self, task: str, kind: Kind) -> Record:
        """What the task answers now."""
        record = Record(Request(0, kind, task, TEXTS, TOKENS), 0.0)
        if kind == "generation":
            body = {"model": task, "prompt": TEXTS[0], "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
            answer = httpx.post(f"{self.server.url}/v1/completions", json=body, timeout=60).json()
            record.outputs = [answer["choices"][0]["text"]]
        else:
            body = {"inputs": list(TEXTS)}
            record.outputs = httpx.post(f"{self.server.url}/v1/tasks/{task}/predict", json=body, timeout=60).json()
        return record


@pytest.fixture(scope="module", params=["llama", "bert"])
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    model_type = request.param
    server = request.getfixturevalue("encoder" if model_type == "bert" else "decoder")
    base = make_tiny_base(tmp_path_factory.mktemp("base") / "tiny", model_type)
    shape = shape_of(str(base))
    yield Stage(server, Marker(shape, make_alphabet(shape, BaseFiles(base), seed=0)))


def kinds_of(stage: Stage) -> list[Kind]:
    return ["classification"] if stage.marker.shape.family == "encoder" else ["classification", "generation"]


@pytest.mark.parametrize("method", ["lora", "bottleneck"])
def test_an_answer_tells_the_version_that_computed_it_whatever_was_asked(stage: Stage, method: Method) -> None:
    for kind in kinds_of(stage):
        marks = {}
        for serial in (1, 2, 3):
            made = stage.marker.make("marked", serial, kind, method)
            name = f"marked-{kind}-{method}-{serial}"
            stage.server.upload(name, made.files, made.declaration)
            record = stage.record(name, kind)
            assert says(record, made.mark), (made.mark, record.outputs)
            marks[serial] = made.mark
            assert not any(says(record, mark) for other, mark in marks.items() if other != serial)


def mixed(first: MarkedAdapter, second: MarkedAdapter, takes_second: Callable[[str], bool]) -> dict[str, bytes]:
    """The files of the first adapter with some of the second one's tensors, as a broken swap would serve them."""
    parts = [safetensors.numpy.load(made.files[TENSORS]) for made in (first, second)]
    chosen = {name: parts[takes_second(name)][name] for name in parts[0]}
    assert any(not np.array_equal(chosen[name], parts[0][name]) for name in chosen)
    return first.files | {TENSORS: safetensors.numpy.save(chosen)}


def test_a_head_on_another_s_delta_and_half_of_another_s_delta_are_found(stage: Stage) -> None:
    layers = stage.marker.shape.layers
    last = f"layer.{layers - 1}." if stage.marker.shape.family == "encoder" else "layers.0."
    cuts: dict[str, Callable[[str], bool]] = {
        "the delta": lambda name: "lora_" in name,
        "its first part": lambda name: "lora_" in name and last in name,
        "its last part": lambda name: "lora_" in name and last not in name,
    }
    for kind in kinds_of(stage):
        first, second = (stage.marker.make("mixed", serial, kind, "lora") for serial in (4, 7))
        for number, (cut, takes_second) in enumerate(cuts.items()):
            if kind == "generation" and cut == "the delta":
                continue  # there is no head, so this is the second adapter
            name = f"mixed-{kind}-{number}"
            stage.server.upload(name, mixed(first, second, takes_second), first.declaration)
            assert not says(stage.record(name, kind), first.mark), cut


def test_the_bare_base_and_other_adapters_of_the_server_do_not_pass_for_a_marked_one(stage: Stage) -> None:
    made = stage.marker.make("alone", 9, "classification", "lora")
    stage.server.upload("alone", made.files, made.declaration)
    assert says(stage.record("alone", "classification"), made.mark)
    assert not says(stage.record("label-lora", "classification"), made.mark)


def recorded(ref: str, says_what: str, digest: str, version: int, *, sent: float, headed: float) -> Answer:
    """A whole answer as the client records it."""
    record = Record(Request(0, "classification", ref, ("a",)), sent, sent, headed)
    record.headed_s, record.fate, record.code = headed, "right", "200"
    record.adapter, record.version, record.outputs = digest, str(version), [[{"label": says_what, "score": 1.0}]]
    return Answer(record, 0)


@pytest.fixture
def book() -> TaskBook:
    """Version 1 until a promotion of version 2 between 10 and 11 s, which version 1 did not outlive."""
    versions = {
        number: VersionBook(number, f"digest-{number}", Mark(number, "classification", f"label-{number}"))
        for number in (1, 2)
    }
    alias = AliasBook()
    alias.changed({1: 1.0}, 0.0, 1.0, 0)
    alias.changed({2: 1.0}, 10.0, 11.0, 0)
    return TaskBook("t", "classification", versions, {PRODUCTION: alias})


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (recorded("t", "label-1", "digest-1", 1, sent=5, headed=6), "200"),
        (recorded("t", "label-1", "digest-1", 1, sent=10.5, headed=12), "200"),
        (recorded("t", "label-2", "digest-2", 2, sent=9, headed=10.5), "200"),
        (recorded("t@1", "label-1", "digest-1", 1, sent=20, headed=21), "200"),
        (recorded("t", "label-2", "digest-1", 1, sent=5, headed=6), "content"),
        (recorded("t", "label-1", "digest-2", 2, sent=20, headed=21), "content"),
        (recorded("t", "label-1", "digest-3", 1, sent=5, headed=6), "digest"),
        (recorded("t", "label-1", "base", 1, sent=5, headed=6), "digest"),
        (recorded("t", "label-1", "digest-1", 2, sent=5, headed=6), "digest"),
        (recorded("t", "label-1", "digest-1", 1, sent=12, headed=13), "history"),
        (recorded("t", "label-2", "digest-2", 2, sent=8, headed=9), "history"),
        (recorded("t@1", "label-2", "digest-2", 2, sent=20, headed=21), "history"),
    ],
)
def test_a_recorded_answer_is_judged_by_its_digest_its_content_and_the_history(
    book: TaskBook, answer: Answer, code: str
) -> None:
    judge([answer], {"t": book})
    assert answer.record.code == code
    assert answer.record.fate == ("right" if code == "200" else "wrong")


def test_another_process_may_take_a_second_to_hear_of_a_promotion(book: TaskBook) -> None:
    late = recorded("t", "label-1", "digest-1", 1, sent=11.5, headed=12).record
    later = recorded("t", "label-1", "digest-1", 1, sent=12.5, headed=13).record
    judge([Answer(late, 1), Answer(later, 1)], {"t": book})
    assert (late.fate, later.code) == ("right", "history")


def test_a_stream_that_changes_its_version_on_the_way_is_found(book: TaskBook) -> None:
    mark = Mark(1, "generation", " one")
    record = Record(Request(0, "generation", "t", ("a",), 4), 0.0)
    record.outputs = [" one"] * 4
    assert says(record, mark)
    record.outputs = [" one", " one", " two", " two"]
    assert not says(record, mark)
    record.outputs = [" one"] * 3
    assert not says(record, mark)


def test_an_error_is_the_storm_s_own_only_where_the_named_version_was_being_retired(book: TaskBook) -> None:
    book.versions[1].retiring_s = 20.0
    answers = [recorded("t@1", "", "", 1, sent=19, headed=headed) for headed in (19.5, 20.5)]
    answers.append(recorded("t", "", "", 1, sent=19, headed=20.5))
    for answer in answers:
        answer.record.fate, answer.record.code = "failed", "404"
    judge(answers, {"t": book})
    assert [answer.record.code for answer in answers] == ["404", ASKED_FOR, "404"]


def test_a_key_that_gets_two_versions_of_the_same_split_is_found(book: TaskBook) -> None:
    book.aliases[PRODUCTION].changed({1: 0.5, 2: 0.5}, 30.0, 30.1, 0)
    answers = [recorded("t", f"label-{n}", f"digest-{n}", n, sent=40 + n, headed=40.5 + n) for n in (1, 1, 2)]
    for answer in answers:
        answer.record.request = Request(0, "classification", "t", ("a",), sticky="me")
    judge(answers, {"t": book})
    assert [answer.record.code for answer in answers] == ["200", "200", "sticky"]


def outcome_of(book: TaskBook, *answers: Answer, problems: tuple[str, ...] = ()) -> dict[str, Any]:
    plan = Plan("tiny", Path("/nowhere"), 1.0, 1, 1, 1, 0)
    outcome = Outcome(plan, {"t": book}, list(answers), problems=list(problems), elapsed_s=1.0)
    return {"phases": [summarise_phase(outcome, 0.0)]}


def test_the_exit_code_is_1_when_an_answer_was_wrong_lost_or_failed(book: TaskBook) -> None:
    right = recorded("t", "label-1", "digest-1", 1, sent=5, headed=6)
    wrong = recorded("t", "label-2", "digest-1", 1, sent=5, headed=6)
    failed, lost = (recorded("t", "", "", 1, sent=5, headed=6) for _ in range(2))
    failed.record.fate, lost.record.fate = "failed", "lost"
    assert exit_code(outcome_of(book, right), is_strict=False) == 0
    assert exit_code(outcome_of(book), is_strict=False) == 1
    assert exit_code(outcome_of(book, right, problems=("rollback of t: answered 500",)), is_strict=False) == 1
    for bad in (wrong, failed, lost):
        assert exit_code(outcome_of(book, right, bad), is_strict=False) == 1


def test_a_percentile_of_steps_is_of_those_between_two_moments() -> None:
    before, after = {0.1: 10.0, 0.2: 10.0, float("inf"): 10.0}, {0.1: 60.0, 0.2: 110.0, float("inf"): 110.0}
    assert step_percentile(before, after, 75) == pytest.approx(0.15)
    assert step_percentile(after, after, 99) is None


def test_an_answer_by_a_version_that_was_retired_before_it_was_asked_is_wrong(book: TaskBook) -> None:
    book.versions[1].retiring_s, book.versions[1].retired_s = 20.0, 20.5
    answers = [recorded("t@1", "label-1", "digest-1", 1, sent=sent, headed=30) for sent in (20.4, 21.4, 22.0)]
    judge(answers, {"t": book})
    assert [answer.record.code for answer in answers] == ["200", "200", "retired"]


@pytest.mark.slow
def test_a_storm_on_a_tiny_base_ends_with_0_and_tells_what_it_did(tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / "tiny", "llama")
    page, file = tmp_path / "storm.html", tmp_path / "storm.json"
    sizes = ["--minutes", "0.12", "--tasks", "6", "--clients", "6", "--slots", "2"]
    files = ["--data-dir", str(tmp_path / "data"), "--json", str(file), "--html", str(page)]
    done = CliRunner().invoke(
        loadtest, ["swap-storm", "--base", str(base), *sizes, *files, "--", "--dtype", "float32"]
    )
    assert done.exit_code == 0, done.output
    (phase,) = json.loads(file.read_text())["phases"]
    assert phase["requests"]["right"] > 20
    assert phase["streams"] > 0
    assert phase["by_second_process"] > 0
    assert phase["memory"]["since_begin"]["evictions"] > 0
    assert sum(told["done"] for told in phase["operations"].values()) > 0
    drawings = [part.split("</svg>")[0] for part in page.read_text("utf-8").split("<svg")[1:]]
    assert len(drawings) >= 3
    for drawing in drawings:
        assert ElementTree.fromstring(f"<svg{drawing}</svg>").findall("rect") or "<path" in drawing
