"""The bottleneck tuner under PEFT: near the identity at first, saved in PEFT's format, exact when read back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.utils import PeftType
from transformers import AutoModel

from multigraft_adapters.artifact import read_folder
from multigraft_adapters.bases import read_spec
from multigraft_adapters.methods import BottleneckDelta, applied
from multigraft_adapters.verify import verify
from multigraft_training.bottleneck import BottleneckConfig, register
from tests.tiny import make_tiny_base

PLACES: dict[str, dict[str, Any]] = {
    "houlsby": {"placement": "houlsby", "scaling": "learned"},
    "pfeiffer": {"non_linearity": "gelu"},
    "pfeiffer around the norm": {"ln_before": True, "non_linearity": "swish"},
    "parallel": {"placement": "parallel", "scaling": 4.0},
}
TOKENS = torch.tensor([[1, 40, 41, 42, 43, 2]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    register()
    root = tmp_path_factory.mktemp("bases")

    def make(family: str) -> Path:
        return root / family if (root / family).exists() else make_tiny_base(root / family, family)

    return make


def bare(folder: Path) -> Any:
    return AutoModel.from_pretrained(folder, dtype=torch.float32).eval()


def adapted(folder: Path, *, moved: bool, **values: Any) -> Any:
    config = BottleneckConfig(task_type="FEATURE_EXTRACTION", **({"reduction_factor": 4} | values))
    torch.manual_seed(0)
    model = get_peft_model(bare(folder), config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and moved:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def states(model: Any) -> torch.Tensor:
    result: torch.Tensor = model(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS)).last_hidden_state
    return result


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "distilbert"])
@pytest.mark.parametrize("place", PLACES)
@torch.no_grad()
def test_the_tuner_computes_what_the_reference_computes_and_peft_reads_what_it_saves(
    family: str, place: str, folder: Callable[[str], Path], tmp_path: Path
) -> None:
    base = folder(family)
    if place == "pfeiffer around the norm" and family in ("llama", "gpt2"):
        with pytest.raises(ValueError, match=f"no place for an adapter around on {family}"):
            adapted(base, moved=True, **PLACES[place])
        return
    model = adapted(base, moved=True, **PLACES[place])
    expected = states(model)
    model.save_pretrained(str(tmp_path))
    assert torch.equal(states(PeftModel.from_pretrained(bare(base), str(tmp_path)).eval()), expected)

    delta = verify(read_folder(tmp_path), read_spec(family, base)).delta
    assert isinstance(delta, BottleneckDelta)
    assert len(delta.modules) == (4 if place == "houlsby" else 2)
    backbone = bare(base)
    plain = states(backbone)
    with applied(backbone, delta):
        torch.testing.assert_close(states(backbone), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(states(backbone), plain)
    assert not torch.allclose(plain, expected, atol=1e-2)
    with model.disable_adapter():
        assert torch.equal(states(model), plain)


@pytest.mark.parametrize("place", PLACES)
def test_an_adapter_begins_close_to_the_identity_and_every_part_of_it_learns(
    place: str, folder: Callable[[str], Path]
) -> None:
    base = folder("bert")
    model = adapted(base, moved=False, **PLACES[place])
    begun = states(model)
    with torch.no_grad():
        torch.testing.assert_close(begun, states(bare(base)), atol=0.05, rtol=0)
    begun.square().sum().backward()  # type: ignore[no-untyped-call]
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained and all("bottleneck_" in name for name in trained)
    assert not [name for name, parameter in trained.items() if not parameter.grad.abs().any()]


def test_two_adapters_on_one_model_are_told_apart(folder: Callable[[str], Path]) -> None:
    base = folder("bert")
    model = adapted(base, moved=True, ln_before=True)
    with torch.no_grad():
        first = states(model)
        model.add_adapter("second", BottleneckConfig(task_type="FEATURE_EXTRACTION", placement="parallel"))
        assert torch.equal(states(model), first)
        model.set_adapter("second")
        torch.testing.assert_close(states(model), states(bare(base)), atol=0.05, rtol=0)
        model.set_adapter("default")
        assert torch.equal(states(model), first)
        model.delete_adapter("second")
        assert torch.equal(states(model), first)


def test_what_is_not_linear_is_not_merged(folder: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match="cannot be merged"):
        adapted(folder("llama"), moved=True).merge_and_unload()


def test_registering_twice_changes_nothing() -> None:
    register()
    before = list(PeftType)
    register()
    assert list(PeftType) == before
    assert PeftType("BOTTLENECK").value == "BOTTLENECK"


def test_a_placement_that_is_not_known_is_refused() -> None:
    register()
    with pytest.raises(ValueError, match="placement must be one of houlsby, pfeiffer, parallel"):
        BottleneckConfig(placement="everywhere")
