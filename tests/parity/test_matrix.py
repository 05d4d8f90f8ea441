"""The matrix: every method under every head on every family is exactly PEFT's, alone and in one step with all,
or refused with the reason; and `docs/support.md` says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from multigraft_adapters.bases import Base, load_base
from tests.parity.cells import CellMaker
from tests.parity.conftest import RUNS
from tests.parity.matrix import FamilyRun, Measured, apart, run_family
from tests.parity.rows import ask_in_many_steps
from tests.parity.support import PAGE, render
from tests.parity.tolerances import (
    BF16_FLOOR,
    BF16_METHOD,
    BF16_OF_PEFT,
    BF16_ROW,
    EFFECT,
    FP32,
    root_mean_square,
)
from tests.tiny import FAMILIES, IMAGE_ENCODERS, make_tiny_base

EVERY_FAMILY = (*FAMILIES, *IMAGE_ENCODERS)
IN_PIECES = ("llama", "gpt2", "bert", "vit")

pytestmark = pytest.mark.slow

LoadBase = Callable[[str, str], Base]
RunOf = Callable[[str], FamilyRun]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Several are slower where tensors are as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> LoadBase:
    root = tmp_path_factory.mktemp("matrix")

    def load(family: str, dtype: str) -> Base:
        folder = root / family
        if not folder.exists():
            make_tiny_base(folder, family)
        return load_base(str(folder), root / "data", device="cpu", dtype=dtype)

    return load


@pytest.fixture(scope="module")
def run_of(load: LoadBase, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> RunOf:
    """A family's part of the matrix, which runs once."""
    runs = request.config.stash.setdefault(RUNS, {})

    def run(family: str) -> FamilyRun:
        if family not in runs:
            base = load(family, "float32")
            cells = CellMaker(Path(base.folder), base.spec, tmp_path_factory.mktemp(f"{family}-adapters")).cells()
            runs[family] = run_family(family, list(cells), lambda dtype: load(family, dtype))
        return runs[family]

    return run


def beyond(run: FamilyRun, measure: Callable[[Measured], float], tolerance: float) -> dict[str, float]:
    """The cells, by name, whose measure is not within the tolerance."""
    assert run.measured
    return {one.row.cell.name: measure(one) for one in run.measured if not measure(one) <= tolerance}


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_every_cell_is_exact_alone_and_in_one_step_with_all_others(family: str, run_of: RunOf) -> None:
    run = run_of(family)
    assert not beyond(run, lambda one: one.fp32, FP32)
    assert not beyond(run, lambda one: one.formula, FP32)
    assert not beyond(run, lambda one: one.apart, FP32)
    assert not beyond(run, lambda one: -one.effect, -EFFECT)


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_in_bf16_every_cell_is_as_near_to_fp32_as_pefts_own_answers(family: str, run_of: RunOf) -> None:
    run = run_of(family)
    assert not beyond(run, lambda one: one.bf16, BF16_ROW)
    for method in {one.row.cell.variant.method for one in run.measured}:
        own = [one for one in run.measured if one.row.cell.variant.method == method]
        found = root_mean_square([one.bf16 for one in own])
        of_peft = root_mean_square([one.peft_bf16 for one in own])
        assert found <= BF16_METHOD, method
        assert found <= BF16_OF_PEFT * of_peft + BF16_FLOOR, method


@pytest.mark.parametrize("family", IN_PIECES)
def test_many_small_steps_over_few_slots_answer_as_one_step(family: str, run_of: RunOf, load: LoadBase) -> None:
    run = run_of(family)
    answers = ask_in_many_steps(load(family, "float32"), [one.row for one in run.measured])
    assert answers
    different = [
        one.row.cell.name
        for one, answer, of_one_step in zip(run.measured, answers, run.answers, strict=True)
        if not apart(answer, of_one_step) <= FP32
    ]
    assert not different


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_every_cell_is_either_served_or_refused_with_the_reason(family: str, run_of: RunOf) -> None:
    cells = run_of(family).cells
    assert cells
    assert [cell.name for cell in cells if cell.served == bool(cell.reason)] == []
    assert len(run_of(family).measured) == sum(cell.served for cell in cells)


def test_support_md_says_what_ran(run_of: RunOf, request: pytest.FixtureRequest) -> None:
    page = render([run_of(family) for family in EVERY_FAMILY])
    if request.config.getoption("--write-support", default=False):
        PAGE.write_text(page, "utf-8")
    told = PAGE.read_text("utf-8")
    assert told == page, "run `pytest tests/parity --write-support`, and read what changed"
