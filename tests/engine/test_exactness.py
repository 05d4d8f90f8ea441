"""Packed steps against transformers' own forward of each sequence alone, with the reference apply as the delta."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch

from multigraft_adapters.bases import Base
from multigraft_adapters.methods.lora import apply_lora
from multigraft_adapters.verify import VerifiedAdapter
from multigraft_server.engine.requests import PoolingParams, SamplingParams
from multigraft_server.engine.settings import EngineSettings
from tests.engine.conftest import LoadTiny
from tests.engine.harness import random_adapter, run_all, running_engine
from tests.tiny import DECODERS, FAMILIES

GREEDY = SamplingParams(max_tokens=16, temperature=0.0, ignore_eos=True)
RANKS = (2, 4, 8, 3, 16)


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
def with_delta(base: Base, adapter: VerifiedAdapter | None) -> Iterator[None]:
    """Add an adapter's reference apply to an unwrapped base."""
    hooks = []
    for path, pair in adapter.delta.pairs.items() if adapter else ():
        module = base.model.get_submodule(path)
        hooks.append(module.register_forward_hook(lambda m, args, y, pair=pair: y + apply_lora(args[0], pair)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.inference_mode()
def continue_alone(base: Base, adapter: VerifiedAdapter | None, prompt: Sequence[int], count: int) -> list[int]:
    """Greedy continuation, the whole sequence computed anew for each token."""
    tokens = list(prompt)
    with with_delta(base, adapter):
        for _ in range(count):
            state = base.model(input_ids=torch.tensor([tokens]), use_cache=False).last_hidden_state[0, -1]
            assert base.lm_head is not None
            tokens.append(int(base.lm_head(state).argmax()))
    return tokens[len(prompt) :]


@torch.inference_mode()
def embed_alone(base: Base, adapter: VerifiedAdapter | None, prompt: Sequence[int]) -> torch.Tensor:
    with with_delta(base, adapter):
        states = base.model(input_ids=torch.tensor([list(prompt)])).last_hidden_state[0]
    return torch.nn.functional.normalize(states.mean(0), dim=-1)


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
    plain = load_tiny(family)
    adapters = make_adapters(plain)
    digests = ["base", *adapters]
    wanted = [(digests[i % len(digests)], prompt) for i, prompt in enumerate(prompts(18))]
    settings = EngineSettings(slots=3, max_running_rows=10, max_step_tokens=max_step_tokens)
    with running_engine(load_tiny(family), adapters, settings) as loop:
        outcomes = run_all(loop, [(digest, prompt, GREEDY) for digest, prompt in wanted])
        assert loop.snapshot().widest_step_adapters >= 3
    for (digest, prompt), outcome in zip(wanted, outcomes, strict=True):
        assert outcome.tokens == continue_alone(plain, adapters.get(digest), prompt, GREEDY.max_tokens)


def test_token_states_are_those_of_the_sequence_alone(load_tiny: LoadTiny) -> None:
    plain = load_tiny("bert")
    adapters = make_adapters(plain)
    wanted = [("adapter-1", prompts(2)[0]), ("base", prompts(2)[1])]
    with running_engine(load_tiny("bert"), adapters) as loop:
        outcomes = run_all(loop, [(digest, prompt, PoolingParams("tokens")) for digest, prompt in wanted])
    for (digest, prompt), outcome in zip(wanted, outcomes, strict=True):
        with with_delta(plain, adapters.get(digest)), torch.inference_mode():
            expected = plain.model(input_ids=torch.tensor([prompt])).last_hidden_state[0]
        torch.testing.assert_close(outcome.values, expected, atol=1e-5, rtol=1e-4)


def test_sliding_windows_are_honoured(load_tiny: LoadTiny, tmp_path: object) -> None:
    def with_window() -> Base:
        base = load_tiny("qwen2")
        for layer in base.model.layers:
            layer.self_attn.sliding_window = 8
        base.model.config.sliding_window = 8
        base.model.config.use_sliding_window = True
        base.model.config.layer_types = ["sliding_attention"] * 2
        base.model.has_sliding_layers = True
        return base

    plain, window_free = with_window(), load_tiny("qwen2")
    long_prompts = [prompt for prompt in prompts(12) if len(prompt) > 20]
    assert long_prompts
    settings = EngineSettings(max_step_tokens=32)
    with running_engine(with_window(), {}, settings) as loop:
        outcomes = run_all(loop, [("base", prompt, GREEDY) for prompt in long_prompts])
    answers = [outcome.tokens for outcome in outcomes]
    assert answers == [continue_alone(plain, None, prompt, GREEDY.max_tokens) for prompt in long_prompts]
    assert answers != [continue_alone(window_free, None, prompt, GREEDY.max_tokens) for prompt in long_prompts]


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
