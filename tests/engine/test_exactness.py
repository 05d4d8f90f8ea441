"""Packed steps against transformers' own forward of each sequence alone, with the reference apply as the delta."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

from multigraft_adapters.bases import Base
from multigraft_adapters.methods import applied
from multigraft_adapters.verify import VerifiedAdapter
from multigraft_server.engine.requests import PoolingParams, SamplingParams
from multigraft_server.engine.settings import EngineSettings
from tests.engine.conftest import LoadTiny
from tests.engine.harness import random_adapter, run_all, running_engine
from tests.tiny import DECODERS, FAMILIES, MAX_LENGTH

GREEDY = SamplingParams(max_tokens=16, temperature=0.0, ignore_eos=True, logprobs=0)
RANKS = (2, 4, 8, 3, 16)
WINDOWED = {
    "mistral": "sliding_window",
    "gemma2": "sliding_window",
    "gemma3_text": "sliding_window",
    "modernbert": "local_attention",
}
"""The families whose tiny bases have sliding windows, with the name of their length."""


def prompts(count: int, longest: int = 60) -> list[list[int]]:
    generator = torch.Generator().manual_seed(count)
    lengths = torch.randint(2, longest, (count,), generator=generator).tolist()
    return [torch.randint(8, 260, (length,), generator=generator).tolist() for length in lengths]


def make_adapters(base: Base) -> dict[str, VerifiedAdapter]:
    return {
        f"adapter-{seed}": random_adapter(base.spec, f"adapter-{seed}", rank, seed)
        for seed, rank in enumerate(RANKS)
    }


@contextmanager
def with_delta(backbone: Any, adapter: VerifiedAdapter | None) -> Iterator[None]:
    """Add an adapter's reference apply to an unwrapped backbone."""
    with applied(backbone, adapter.delta) if adapter else nullcontext():
        yield


@torch.inference_mode()
def logprobs_alone(
    model: Any, adapter: VerifiedAdapter | None, prompt: Sequence[int], answer: Sequence[int]
) -> torch.Tensor:
    """transformers' log-probabilities (answer, vocabulary) after the prompt and after each token of the answer but
    the last, in one causal forward of a whole language model."""
    with with_delta(model.base_model, adapter):
        logits = model(input_ids=torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0]
    return torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1)


@torch.inference_mode()
def states_alone(base: Base, adapter: VerifiedAdapter | None, prompt: Sequence[int]) -> torch.Tensor:
    with with_delta(base.model, adapter):
        states: torch.Tensor = base.model(input_ids=torch.tensor([list(prompt)])).last_hidden_state[0]
    return states


def embed_alone(base: Base, adapter: VerifiedAdapter | None, prompt: Sequence[int]) -> torch.Tensor:
    return torch.nn.functional.normalize(states_alone(base, adapter, prompt).mean(0), dim=-1)


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_of_many_adapters_in_one_batch_equal_each_alone(family: str, load_tiny: LoadTiny) -> None:
    plain = load_tiny(family)
    adapters = make_adapters(plain)
    digests = ["base", *adapters]
    wanted = [(digests[i % len(digests)], prompt) for i, prompt in enumerate(prompts(24))]
    with running_engine(load_tiny(family), adapters, EngineSettings(slots=3)) as loop:
        outcomes = run_all(
            loop,
            [(d, p, PoolingParams("embedding" if d == "base" else "head")) for d, p in wanted],
        )
    for (digest, prompt), outcome in zip(wanted, outcomes, strict=True):
        expected = embed_alone(plain, adapters.get(digest), prompt)
        torch.testing.assert_close(outcome.values, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("max_step_tokens", [2048, 32])
def test_greedy_answers_of_many_adapters_equal_each_alone_token_for_token(
    family: str, max_step_tokens: int, load_tiny: LoadTiny
) -> None:
    base = load_tiny(family)
    alone = AutoModelForCausalLM.from_pretrained(base.folder).eval()
    adapters = make_adapters(base)
    digests = ["base", *adapters]
    wanted = [(digests[i % len(digests)], prompt) for i, prompt in enumerate(prompts(18))]
    settings = EngineSettings(slots=3, max_running_rows=10, max_step_tokens=max_step_tokens)
    with running_engine(base, adapters, settings) as loop:
        outcomes = run_all(loop, [(digest, prompt, GREEDY) for digest, prompt in wanted])
        assert loop.snapshot().widest_step_adapters >= 3
    for (digest, prompt), outcome in zip(wanted, outcomes, strict=True):
        expected = logprobs_alone(alone, adapters.get(digest), prompt, outcome.tokens)
        assert len(outcome.tokens) == GREEDY.max_tokens
        # Where each token is the likeliest after those before it, the answer is the greedy continuation.
        assert outcome.tokens == expected.argmax(-1).tolist()
        torch.testing.assert_close(outcome.logprobs, expected.max(-1).values, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_token_states_are_those_of_the_sequence_alone(family: str, load_tiny: LoadTiny) -> None:
    plain = load_tiny(family)
    adapters = make_adapters(plain)
    wanted = [("adapter-1", prompts(2)[0]), ("base", prompts(2)[1]), ("adapter-4", prompts(5)[2])]
    with running_engine(load_tiny(family), adapters) as loop:
        outcomes = run_all(loop, [(digest, prompt, PoolingParams("tokens")) for digest, prompt in wanted])
    for (digest, prompt), outcome in zip(wanted, outcomes, strict=True):
        expected = states_alone(plain, adapters.get(digest), prompt)
        torch.testing.assert_close(outcome.values, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", WINDOWED)
def test_the_prompts_are_longer_than_the_sliding_windows(family: str, load_tiny: LoadTiny) -> None:
    """So that the tests above see a window that is not honoured: without windows, other states come out."""
    plain = load_tiny(family)
    wide = AutoModel.from_pretrained(plain.folder, **{WINDOWED[family]: 2 * MAX_LENGTH}).eval()
    for prompt in (prompts(5)[2], prompts(18)[0]):
        with torch.inference_mode():
            windowless = wide(input_ids=torch.tensor([prompt])).last_hidden_state[0]
        assert not torch.allclose(states_alone(plain, None, prompt), windowless, atol=1e-3)


def test_padding_tokens_within_a_text_keep_the_positions_that_the_model_gives_them(load_tiny: LoadTiny) -> None:
    plain = load_tiny("roberta")
    padding = plain.model.config.pad_token_id
    wanted = [[0, 40, padding, 41, padding, padding, 42, 2], [0, 50, 51, 2], [padding, 60, padding]]
    with running_engine(load_tiny("roberta"), {}) as loop:
        outcomes = run_all(loop, [("base", tokens, PoolingParams("tokens")) for tokens in wanted])
    for tokens, outcome in zip(wanted, outcomes, strict=True):
        torch.testing.assert_close(outcome.values, states_alone(plain, None, tokens), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_inputs_of_the_greatest_length_are_exact(family: str, load_tiny: LoadTiny) -> None:
    plain = load_tiny(family)
    longest = [8 + place % 250 for place in range(plain.spec.max_length)]
    with running_engine(load_tiny(family), {}) as loop:
        outcome = run_all(loop, [("base", longest, PoolingParams("tokens"))])[0]
    torch.testing.assert_close(outcome.values, states_alone(plain, None, longest), atol=1e-5, rtol=1e-4)


def test_a_seeded_request_samples_the_same_alone_and_in_a_crowd(load_tiny: LoadTiny) -> None:
    adapters = make_adapters(load_tiny("llama"))
    seeded = SamplingParams(max_tokens=24, temperature=0.9, top_p=0.95, seed=11, ignore_eos=True)
    unseeded = SamplingParams(max_tokens=24, temperature=1.0, ignore_eos=True)
    prompt = prompts(1)[0]
    with running_engine(load_tiny("llama"), adapters) as loop:
        alone = run_all(loop, [("adapter-2", prompt, seeded)])[0].tokens
        crowd = [(f"adapter-{i % 5}", other, unseeded) for i, other in enumerate(prompts(12))]
        crowded = run_all(loop, [*crowd, ("adapter-2", prompt, seeded)])[-1].tokens
    assert crowded == alone
