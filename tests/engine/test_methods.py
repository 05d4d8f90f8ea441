"""Methods where rows grow: what virtual tokens mean to states, context and penalties, and PEFT's own generation.

`tests/parity` holds every method to PEFT.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from multigraft_adapters.errors import ContextLengthError
from multigraft_adapters.methods import virtual_tokens
from multigraft_adapters.verify import VerifiedAdapter
from multigraft_server.engine.requests import PoolingParams, SamplingParams
from tests.engine.conftest import LoadTiny
from tests.engine.harness import Outcome, make_request, run_all, running_engine
from tests.engine.test_exactness import prompts
from tests.parity.cells import Cell, CellMaker
from tests.parity.forms import FORMS
from tests.parity.references import greedy
from tests.parity.variants import VARIANTS

GREEDY = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)
TOLERANCE = 1e-4
"""fp32: sums of the same terms in another order."""

MakeCell = Callable[[str, str, str], Cell]


@pytest.fixture
def make_cell(tiny_folder: Callable[[str], Path], load_tiny: LoadTiny, tmp_path: Path) -> MakeCell:
    """A served cell by its family, its variant and its form."""

    def make(family: str, variant: str, task: str) -> Cell:
        maker = CellMaker(tiny_folder(family), load_tiny(family).spec, tmp_path / f"{family} {variant} {task}")
        chosen = next(one for one in VARIANTS if one.name == variant), next(o for o in FORMS if o.task == task)
        cell = maker.cell(*chosen)
        assert cell.served, cell.reason
        return cell

    return make


def by_digest(*cells: Cell) -> dict[str, VerifiedAdapter]:
    verified = {cell.verified.digest: cell.verified for cell in cells if cell.verified}
    assert len(verified) == len(cells)
    return verified


@pytest.mark.parametrize(("family", "task"), [("llama", "chat"), ("bert", "mean")])
@pytest.mark.parametrize("variant", ["prompt tuning", "prefix tuning"])
def test_states_by_token_are_those_of_the_input_and_not_of_virtual_tokens(
    family: str, task: str, variant: str, load_tiny: LoadTiny, make_cell: MakeCell
) -> None:
    cell, prompt = make_cell(family, variant, task), prompts(3)[1]
    adapters = by_digest(cell)
    with running_engine(load_tiny(family), adapters) as loop:
        outcome = run_all(loop, [(next(iter(adapters)), prompt, PoolingParams("tokens"))])[0]
    assert outcome.values.shape == (len(prompt), 32)
    if family == "bert":
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            states = cell.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
        torch.testing.assert_close(outcome.values, states[-len(prompt) :], atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("variant", ["prompt tuning", "prefix tuning"])
def test_virtual_tokens_count_against_the_context(variant: str, load_tiny: LoadTiny, make_cell: MakeCell) -> None:
    cell, base = make_cell("llama", variant, "chat"), load_tiny("llama")
    assert cell.verified is not None
    virtual = virtual_tokens(cell.verified.manifest)
    assert virtual > 0
    longest = [9] * (base.spec.max_length - virtual - GREEDY.max_tokens)
    with running_engine(base, by_digest(cell)) as loop:
        fits, not_fits = Outcome(), Outcome()
        loop.submit(make_request(fits, longest, GREEDY, digest=cell.verified.digest))
        loop.submit(make_request(not_fits, [*longest, 9], GREEDY, digest=cell.verified.digest))
        assert fits.tokens == greedy(cell, longest, GREEDY.max_tokens)
        assert isinstance(not_fits.error, ContextLengthError)


@pytest.mark.parametrize("family", ["gpt2", "mistral", "gemma2"])
@pytest.mark.parametrize("variant", ["LoRA", "bottleneck, parallel", "P-tuning", "prefix tuning"])
def test_greedy_answers_are_those_of_pefts_generate(
    family: str, variant: str, load_tiny: LoadTiny, make_cell: MakeCell
) -> None:
    """The matrix holds an answer to one forward of PEFT's model over all of it; this, to its own cache."""
    cell, prompt = make_cell(family, variant, "chat"), prompts(2)[0]
    adapters = by_digest(cell)
    with running_engine(load_tiny(family), adapters) as loop:
        answer = run_all(loop, [(next(iter(adapters)), prompt, GREEDY)])[0].tokens
    assert answer == greedy(cell, prompt, GREEDY.max_tokens)


def test_a_repetition_penalty_takes_no_account_of_virtual_tokens(load_tiny: LoadTiny, make_cell: MakeCell) -> None:
    params = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True, repetition_penalty=1.7)
    cell, prompt = make_cell("gpt2", "prompt tuning", "chat"), prompts(2)[0]
    adapters = by_digest(cell)
    with running_engine(load_tiny("gpt2"), adapters) as loop:
        answer = run_all(loop, [(next(iter(adapters)), prompt, params)])[0].tokens
    assert answer == greedy(cell, prompt, 12, repetition_penalty=1.7)
