"""Comparisons: what a target's verdict is, what must be measured for it, and the peers that we bring ourselves."""

from __future__ import annotations

import io
import json
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from multigraft_loadtest.cli import loadtest
from multigraft_loadtest.client import Client
from multigraft_loadtest.compare.command import choose, compare_table
from multigraft_loadtest.compare.generation import Setting
from multigraft_loadtest.compare.results import Results
from multigraft_loadtest.compare.rows import NAMES, ONE, ROWS, Row, measurements
from multigraft_loadtest.compare.sides import InProcess, Sides, peft, write_adapters
from multigraft_loadtest.compare.tax import measure_tax
from multigraft_loadtest.compare.workloads import Sizes, classify, generate, sample
from multigraft_loadtest.problems import CannotStartError
from multigraft_loadtest.processes import running
from multigraft_loadtest.random_adapters import random_adapter
from multigraft_loadtest.report import is_clean, summarise
from multigraft_loadtest.shapes import shape_of
from multigraft_loadtest.texts import Lengths
from multigraft_loadtest.workload import Traffic, Workload
from tests.tiny import make_tiny_base

MORE = Row("more", "", "a", "b", "texts_per_s", 2, 3)
LESS = Row("less", "", "a", "b", "texts_per_s", 1.5, 1.2, at_most=True)
MAX_LENGTH = 1024


@given(ratio=st.floats(0, 10))
def test_a_verdict_follows_from_target_and_stretch(ratio: float) -> None:
    assert MORE.verdict(ratio) == ("stretch" if ratio >= 3 else "met" if ratio >= 2 else "MISSED")
    assert LESS.verdict(ratio) == ("stretch" if ratio <= 1.2 else "met" if ratio <= 1.5 else "MISSED")


def test_what_was_not_measured_has_no_ratio() -> None:
    figures = {"a": {"texts_per_s": 4.0}, "b": {"total_p50_s": 1.0}}
    assert MORE.ratio(figures) is None
    assert MORE.verdict(None) == "not measured"
    assert MORE.ratio(figures | {"b": {"texts_per_s": 2.0}}) == 2.0


def test_every_row_has_a_name_of_its_own_and_its_stretch_is_beyond_its_target() -> None:
    assert len(set(NAMES)) == len(ROWS) > 10
    for row in ROWS:
        if row.target is None or row.stretch is None:
            continue
        assert row.stretch < row.target if row.at_most else row.stretch > row.target


def test_rows_are_chosen_by_name_and_need_their_measurements() -> None:
    rows = choose("c-base, g-own")
    assert [row.name for row in rows] == ["g-own", "c-base"]
    assert measurements(rows) == {"g.lora", "g.base", "c.lora", "c.base"}
    assert ONE not in measurements(ROWS)
    with pytest.raises(CannotStartError, match="nothing"):
        choose("nothing")


def test_medians_are_over_the_rounds() -> None:
    results = Results()
    for rate in (1.0, 9.0, 3.0):
        results.add("a", texts_per_s=rate)
    assert results.figures()["a"] == {"texts_per_s": 3.0}
    assert results.median("b", "texts_per_s") is None


def test_ours_and_in_process_compute_the_same_texts() -> None:
    texts = [f"text {index}" for index in range(100)]
    asked = [text for request in classify(["a", "b"], texts, 7, seed=3).requests() for text in request.texts]
    assert asked == sample(texts, 7, seed=3)


def test_workload_g_asks_all_tasks_equally_often() -> None:
    asked = [request.task for request in generate(["a", "b", "c", "d"], 16, seed=0).requests()]
    assert [asked.count(task) for task in "abcd"] == [4, 4, 4, 4]
    assert Sizes.usual(None, is_quick=True).rounds == 1


def test_a_table_shows_what_was_not_measured_and_why() -> None:
    row: dict[str, object] = {"name": "x", "what": "w", "ours": 3.0, "theirs": None, "ratio": None}
    row |= {"target": 2, "stretch": 3, "at_most": False, "verdict": "not measured", "note": "give --vllm VENV"}
    report = {"rounds": 1, "rows": [row]}
    shown = Console(width=100, file=io.StringIO())
    with shown.capture() as captured:
        shown.print(compare_table(report))
    assert "x: give --vllm VENV" in captured.get()
    assert "not measured" in captured.get()


def test_a_child_that_is_paused_does_nothing_and_is_ended_all_the_same(tmp_path: Path) -> None:
    code = "import time\nwhile True: print('x', flush=True); time.sleep(0.01)"
    log = tmp_path / "log"
    with running("a child", [sys.executable, "-c", code], log) as child:
        sides = Sides()
        while not log.stat().st_size:
            time.sleep(0.01)
        sides.add(child)
        time.sleep(0.05)
        size = log.stat().st_size
        time.sleep(0.2)
        assert log.stat().st_size == size
        with sides.turn(child):
            deadline = time.monotonic() + 10
            while log.stat().st_size == size and time.monotonic() < deadline:
                time.sleep(0.01)
        assert log.stat().st_size > size
    assert child.process.returncode in (-signal.SIGINT, -signal.SIGKILL)


def long_base(folder: Path, model_type: str) -> Path:
    """A tiny base whose context takes the comparison's prompts, letter by letter."""
    base = make_tiny_base(folder, model_type)
    for name, key in (("config.json", "max_position_embeddings"), ("tokenizer_config.json", "model_max_length")):
        content = json.loads((base / name).read_text())
        (base / name).write_text(json.dumps(content | {key: MAX_LENGTH}))
    return base


def test_a_peer_that_is_given_and_not_there_is_told_at_once(tmp_path: Path) -> None:
    done = CliRunner().invoke(loadtest, ["compare", "--vllm", str(tmp_path)])
    assert done.exit_code == 2
    assert "bin/vllm" in done.output


@pytest.mark.slow
def test_peft_s_server_answers_a_mixed_batch_by_each_adapter(tmp_path: Path) -> None:
    base = long_base(tmp_path / "tiny", "llama")
    adapters = [random_adapter(shape_of(str(base)), "lora", index, rank=4) for index in range(3)]
    traffic = Traffic("generation", [None, "lora-0", "lora-1", "lora-2"], prompt_words=Lengths(4, 9))
    workload = Workload([(traffic, 1.0)], clients=8, num_requests=16, warm_up=0)
    with peft(base, write_adapters(adapters, tmp_path), 4, tmp_path / "log") as side:
        run = Client(side.url, side.target).run(workload)
    report = summarise(run, {})
    assert is_clean(report), report["problems"]
    assert {record.tokens for record in run.records} == {64}


@pytest.mark.slow
def test_the_encoder_in_process_computes_texts_by_the_base_and_by_peft(tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / "tiny", "bert")
    with ExitStack() as stack:
        encoder = InProcess(base, tmp_path / "log", stack)
        texts = ["a text", "another, longer text"] * 40
        assert encoder.texts_per_s("base", texts) > 0
        assert encoder.texts_per_s("peft", texts) > 0


@pytest.mark.slow
def test_the_tax_of_every_method_is_measured_on_a_decoder(tmp_path: Path) -> None:
    base, results = long_base(tmp_path / "tiny", "llama"), Results()
    setting = Setting(tmp_path / "data", tmp_path, None, None, serve_options=(), seed=0)
    told = measure_tax(
        str(base), setting, Sizes(rounds=1, g=8, g1=1, c=1, open_seconds=1, growth_seconds=1), results
    )
    assert not results.wrong
    assert set(told) == {"base", "lora", "ia3", "bottleneck", "prefix", "prompt", "mixed"}
    assert told["base"]["ratio"] == 1
    assert min(one["ratio"] for one in told.values()) > 0
