"""What faults do, as `loadtest faults` counts it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from multigraft_loadtest.cli import loadtest
from multigraft_loadtest.faults.command import exit_code, faults_tables, is_bad
from multigraft_loadtest.faults.flood import Phase, Turn, goodputs, rows, shared_out
from multigraft_loadtest.faults.traffic import Injected, kind_of, summarise
from multigraft_loadtest.processes import on_cores
from multigraft_loadtest.records import Record, Run
from multigraft_loadtest.workload import Request
from tests.tiny import make_tiny_base


def record(fate: Any, code: str = "200", *, at: float = 1.0, problem: str = "", took: float = 0.1) -> Record:
    made = Record(Request(0, "classification", "t", ("a",)), at - took, at - took, at)
    made.fate, made.code, made.problem = fate, code, problem
    return made


def turn(records: Iterable[Record]) -> Turn:
    return Turn(Run(list(records), 4.0), 4.0)


def test_answers_are_counted_by_what_their_clients_saw() -> None:
    records = [
        record("right"),
        record("failed", "503"),
        record("failed", "500"),
        record("lost", "connection", problem="no connection: refused"),
        record("lost", "connection", problem="the connection ended"),
        record("wrong", "content"),
    ]
    assert [kind_of(one) for one in records] == ["ok", "refused", "failed", "unreachable", "lost", "wrong"]


def test_recovery_is_from_the_fault_s_end_to_the_last_bad_answer() -> None:
    records = [record("right", at=1), record("failed", "503", at=6), record("right", at=7)]
    effect = summarise(records, 0.5, Injected(4.0))
    assert (effect["ok"], effect["refused"], effect["recovery_s"]) == (2, 1, 2.0)
    assert summarise(records[:1], 0.5, Injected(4.0))["recovery_s"] is None
    assert summarise([record("right", at=5)], 0.5, Injected(4.0))["recovery_s"] == 0.0


GOOD: dict[str, Any] = {
    "ok": 5, "refused": 1, "unreachable": 1, "failed": 0, "lost": 0, "wrong": 0,
    "recovery_s": 1.0, "notes": [], "problems": [], "data_lost": [],
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [{"wrong": 1}, {"failed": 1}, {"lost": 1}, {"recovery_s": None}, {"problems": ["p"]}, {"data_lost": ["t@1"]}],
)
def test_what_no_fault_may_do_is_bad_and_the_exit_code_says_so(change: dict[str, Any]) -> None:
    assert not is_bad("stop", GOOD)
    assert is_bad("stop", GOOD | change)
    assert is_bad("kill", GOOD | change) == ("lost" not in change)
    row = {"fault": "stop", "bad": True, **GOOD, **change}
    report = {"base": "tiny", "faults": [row], "flood": None, "left_out": {"x": "why"}}
    assert exit_code(report, is_strict=False) == 1
    shown = Console(width=160, file=io.StringIO())
    with shown.capture() as captured:
        shown.print(faults_tables(report))
    assert "BAD" in captured.get()


def test_a_flood_is_measured_by_goodput_refusals_and_latencies() -> None:
    calm = Phase([turn(record("right", at=at) for at in (1, 2, 3, 4))])
    flooded = [record("right", at=at, took=0.3) for at in (1, 2, 3, 4)] + [record("failed", "503", took=0.05)]
    phases = {"capacity": calm, "at_capacity": calm, "flood": Phase([turn(flooded)])}
    told = {name: phase.told() for name, phase in phases.items()} | {"goodputs": [0.5, 1.0, 2.0]}
    figures = {row["what"].split(": ")[1]: (row["figure"], row["verdict"]) for row in rows(told)}
    assert figures["goodput, to capacity, median of 3"] == (1.0, "met")
    assert figures["slowest refusal, seconds"] == (pytest.approx(0.05), "met")
    assert figures["p99 of the accepted, to that at capacity (32 clients)"] == (pytest.approx(3.0), "MISSED")
    assert figures["neither answered nor refused"] == (0, "met")


def test_goodput_is_held_against_the_loops_before_and_after() -> None:
    before, between, after = (turn(record("right") for _ in range(count)) for count in (4, 8, 4))
    floods = Phase([turn(record("right") for _ in range(count)) for count in (3, 6)])
    assert goodputs(Phase([before, between, after]), floods) == pytest.approx([0.5, 1.0])


def run_faults(folder: Path, names: str) -> dict[str, Any]:
    base, file = make_tiny_base(folder / "tiny", "bert"), folder / "faults.json"
    places = ["--data-dir", str(folder / "data"), "--json", str(file)]
    options = ["--base", str(base), "--quick", "--rows", names, *places, "--", "--dtype", "float32"]
    done = CliRunner().invoke(loadtest, ["faults", *options])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_a_changed_byte_answers_nobody_wrongly_and_is_over_when_it_is_mended(tmp_path: Path) -> None:
    (row,) = run_faults(tmp_path, "corrupt-file")["faults"]
    assert row["ok"] > 0
    assert row["wrong"] == row["lost"] == row["failed"] == 0
    assert "a request to it: 500" in row["notes"]


@pytest.mark.slow
def test_all_faults_on_a_tiny_base(tmp_path: Path) -> None:
    names = "kill,stop,full-disk,locked-registry,slow-store,stalled-clients,clock-jump,flood"
    report = run_faults(tmp_path, names)
    assert len(report["faults"]) + len(report["left_out"]) == 7
    assert set(report["left_out"]) <= {"clock-jump"}
    assert report["flood"]["flood"]["right"] > 0


def test_clients_of_a_flood_have_a_core_of_their_own_where_there_is_another() -> None:
    assert shared_out([2, 3, 5]) == ([2], [3, 5])
    assert shared_out([4]) == ((), ())


def test_what_is_started_on_some_cores_stays_there_and_its_starter_does_not() -> None:
    cores = sorted(os.sched_getaffinity(0))
    ask = [sys.executable, "-c", "import os; print(sorted(os.sched_getaffinity(0)))"]
    with on_cores(cores[-1:]):
        told = subprocess.run(ask, capture_output=True, text=True, check=True).stdout
    assert json.loads(told) == cores[-1:]
    assert sorted(os.sched_getaffinity(0)) == cores
