"""Merged answers are the unmerged ones and those of PEFT's `merge_and_unload`, alone and beside other methods."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from multigraft_adapters.bases import Base, load_base
from multigraft_adapters.errors import MergeRefusedError
from multigraft_server.engine.pass_costs import PassCosts
from multigraft_server.engine.requests import SamplingParams, Token
from multigraft_server.engine.settings import EngineSettings
from tests.engine.harness import make_request, merge, run_together, running_engine
from tests.parity.cells import CellMaker
from tests.parity.forms import FORMS
from tests.parity.matrix import difference
from tests.parity.references import expected
from tests.parity.rows import Answer, Row, answer_of, make_rows
from tests.parity.tolerances import BF16_ROW, FP32
from tests.parity.variants import VARIANTS
from tests.tiny import make_tiny_base

CELLS = {"llama": "chat", "gpt2": "chat", "bert": "single"}
MERGEABLE = ("lora", "ia3")
NEAR_TIES = {"float32": FP32, "bfloat16": BF16_ROW / 2}
"""Log-probabilities that are no further apart may change places: in bf16 PEFT's own are off by as much."""

LoadBase = Callable[[str], Base]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def rows_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[list[Row], LoadBase]]:
    """A family's rows, one of each variant that is served, and its base in a dtype."""
    root = tmp_path_factory.mktemp("merged")
    made: dict[str, tuple[list[Row], LoadBase]] = {}

    def rows(family: str) -> tuple[list[Row], LoadBase]:
        if family not in made:
            folder = make_tiny_base(root / family, family)

            def load(dtype: str) -> Base:
                return load_base(str(folder), root / "data", device="cpu", dtype=dtype)

            spec = load("float32").spec
            maker = CellMaker(Path(folder), spec, root / f"{family}-adapters")
            form = next(form for form in FORMS if form.task == CELLS[family])
            cells = [cell for variant in VARIANTS if (cell := maker.cell(variant, form)).served]
            made[family] = make_rows(cells, spec), load
        return made[family]

    return rows


def settings_for(rows: list[Row]) -> EngineSettings:
    return EngineSettings(slots=len(rows), merge="pin", max_step_tokens=64 * len(rows))


def adapters(rows: list[Row]) -> dict[str, Any]:
    return {row.digest: row.cell.verified for row in rows}


def merged_by_peft(row: Row) -> Any:
    """PEFT's merged model; None where that is another one than its unmerged: it merges what is at one of two tied
    modules into both, and has no place for biases of B where the base has none."""
    name, is_tied = row.cell.variant.name, row.cell.model.config.tie_word_embeddings
    if "biases of B" in name or (is_tied and ("embeddings" in name or "output head" in name)):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return copy.deepcopy(row.cell.model).merge_and_unload()


def far(row: Row, model: Any, answer: Answer) -> float:
    """How far an answer is from the model's."""
    values = expected(row, model, answer.tokens)
    return difference(answer.values, values if answer.likeliest is None else values.gather(-1, answer.likeliest))


@pytest.mark.parametrize("mode", ["original", "split"])
@pytest.mark.parametrize("family", CELLS)
def test_every_method_that_merges_answers_as_pefts_model_and_its_merged_one(
    family: str, mode: str, rows_of: Callable[[str], tuple[list[Row], LoadBase]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def choice(costs: PassCosts, hot: int, others: int) -> str:
        return mode if hot and others else "merged" if hot else "original"

    monkeypatch.setattr(PassCosts, "choose", choice)
    rows, load = rows_of(family)
    found: dict[str, float] = {}
    refused = []
    with running_engine(load("float32"), adapters(rows), settings_for(rows)) as loop:
        run_together(loop, [row.embedding for row in rows])
        for index, row in enumerate(rows):
            error = merge(loop, row.digest)
            if row.cell.variant.method not in MERGEABLE:
                assert isinstance(error, MergeRefusedError)
                refused.append(row.cell.name)
                continue
            assert error is None, error
            crowd = [row, *(rows[(index + step) % len(rows)] for step in (1, 5, 9, 14))]
            together = run_together(loop, [one.request for one in crowd])
            alone = run_together(loop, [row.request, row.request])[0]
            for one, outcome in [*zip(crowd, together, strict=True), (row, alone)]:
                name = f"{one.cell.name} while {row.cell.name} is merged"
                found[name] = max(found.get(name, 0), far(one, one.cell.model, answer_of(one, outcome)))
            if mode == "split" and (peft := merged_by_peft(row)) is not None:
                found[f"{row.cell.name} by merge_and_unload"] = far(row, peft, answer_of(row, alone))
    assert refused and len(found) > 4 * (len(rows) - len(refused))
    assert {name: value for name, value in found.items() if not value <= FP32} == {}


@pytest.mark.parametrize("family", CELLS)
def test_merged_answers_in_bf16_are_as_near_to_pefts_as_unmerged_ones(
    family: str, rows_of: Callable[[str], tuple[list[Row], LoadBase]]
) -> None:
    rows, load = rows_of(family)
    rows = [row for row in rows if row.cell.variant.method in MERGEABLE]
    found = {}
    with running_engine(load("bfloat16"), adapters(rows), settings_for(rows)) as loop:
        for row in rows:
            assert merge(loop, row.digest) is None
            outcome = run_together(loop, [row.request])[0]
            found[row.cell.name] = far(row, row.cell.model, answer_of(row, outcome))
    assert found
    assert {name: value for name, value in found.items() if not value <= BF16_ROW} == {}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_likeliest_next_token_is_the_same_merged_and_unmerged(
    family: str, dtype: str, rows_of: Callable[[str], tuple[list[Row], LoadBase]]
) -> None:
    rows, load = rows_of(family)
    row = next(row for row in rows if row.cell.variant.name == "LoRA on all linear modules")
    params = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True, logprobs=2)
    generator = torch.Generator().manual_seed(5)
    texts = torch.randint(8, 260, (8, 16), generator=generator).tolist()
    prefixes = [text[:stop] for text in texts for stop in range(1, 17)]
    asked = [partial(make_request, token_ids=prefix, params=params, digest=row.digest) for prefix in prefixes]
    settings = replace(settings_for([row]), slots=1, max_running_rows=200, max_step_tokens=4096)
    with running_engine(load(dtype), adapters([row]), settings) as loop:
        unmerged = [next(e for e in o.events if isinstance(e, Token)) for o in run_together(loop, asked)]
        assert merge(loop, row.digest) is None
        merged = [next(e for e in o.events if isinstance(e, Token)) for o in run_together(loop, asked)]
    assert loop.snapshot().merge.steps["merged"]
    clear = [
        one.token_id == other.token_id
        for one, other in zip(unmerged, merged, strict=True)
        if one.top_logprobs[0][1] - one.top_logprobs[1][1] > NEAR_TIES[dtype]
    ]
    assert len(clear) > len(prefixes) / 2
    assert sum(clear) >= (1.0 if dtype == "float32" else 0.99) * len(clear)
