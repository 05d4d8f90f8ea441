"""The prefix cache: whatever it saves computing, answers are those without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multigraft_server.engine.kv import KVCache
from multigraft_server.engine.kv_table import KVTable
from multigraft_server.engine.loop import EngineLoop
from multigraft_server.engine.observer import SilentObserver
from multigraft_server.engine.prefix_store import PrefixStore
from multigraft_server.engine.prefix_table import BLOCK_TOKENS, Chain, PrefixSpace, PrefixTable
from multigraft_server.engine.requests import BASE_DIGEST, SamplingParams, Token
from multigraft_server.engine.settings import EngineSettings
from tests.engine.conftest import LoadTiny
from tests.engine.harness import Outcome, make_request, random_adapter, running_engine
from tests.engine.test_engine import wait_until
from tests.parity.cells import CellMaker
from tests.parity.forms import FORMS
from tests.parity.references import greedy
from tests.parity.variants import VARIANTS

GREEDY = SamplingParams(max_tokens=10, temperature=0.0, ignore_eos=True)
SAMPLED = SamplingParams(max_tokens=10, temperature=1.3, top_p=0.95, seed=5, ignore_eos=True)
OFF = EngineSettings(prefix_cache_bytes=0)
SHARED = [8 + (7 * place) % 250 for place in range(50)]


class Lookups(SilentObserver):
    """What the engine tells of computed and of cached prompt tokens."""

    def __init__(self) -> None:
        self.computed = 0
        self.queried = 0
        self.cached = 0

    def step(self, **told: Any) -> None:
        self.computed += told["prompt_tokens"]

    def prefix_lookup(self, *, queried_tokens: int, cached_tokens: int) -> None:
        self.queried += queried_tokens
        self.cached += cached_tokens


def ask(
    loop: EngineLoop,
    prompts: Sequence[list[int]],
    params: SamplingParams = GREEDY,
    digest: str = BASE_DIGEST,
    **more: Any,
) -> list[Outcome]:
    """All at once; ends when all have ended."""
    outcomes = [Outcome() for _ in prompts]
    with loop.together():
        for outcome, prompt in zip(outcomes, prompts, strict=True):
            loop.submit(replace(make_request(outcome, prompt, params, digest=digest), **more))
    assert outcomes
    for outcome in outcomes:
        assert outcome.tokens
    return outcomes


def cached(outcome: Outcome) -> int:
    return next(event.cached_tokens for event in outcome.events if isinstance(event, Token))


def tails(count: int, length: int = 12) -> list[list[int]]:
    generator = torch.Generator().manual_seed(count)
    return [torch.randint(8, 260, (length,), generator=generator).tolist() for _ in range(count)]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("max_step_tokens", [2048, 40])
def test_answers_with_cached_prefixes_are_those_without(
    family: str, params: SamplingParams, max_step_tokens: int, load_tiny: LoadTiny
) -> None:
    prompts = [SHARED + tail for tail in tails(6)] + [SHARED[:32], SHARED[:48], SHARED, SHARED + [9]]
    settings = EngineSettings(max_step_tokens=max_step_tokens, max_running_rows=6)
    with running_engine(load_tiny(family), {}, replace(settings, prefix_cache_bytes=0)) as loop:
        expected = [ask(loop, [prompt], params)[0].tokens for prompt in prompts]
    with running_engine(load_tiny(family), {}, settings) as loop:
        first = ask(loop, prompts[:1], params)
        assert cached(first[0]) == 0
        crowd = ask(loop, prompts, params)
        alone = [ask(loop, [prompt], params)[0] for prompt in prompts]
        wait_until(lambda: loop.snapshot().running == 0)
    for outcomes in (crowd, alone):
        assert [outcome.tokens for outcome in outcomes] == expected
    # The last token of a prompt is computed in any case.
    assert [cached(outcome) for outcome in crowd] == [48] + [48] * 5 + [16, 32, 48, 48]
    assert [cached(outcome) for outcome in alone] == [48] * 6 + [16, 32, 48, 48]


def test_every_method_is_exact_with_its_own_cached_prefixes(
    load_tiny: LoadTiny, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """Prefix tuning's keys and values and prompt tuning's embeddings come before what is cached."""
    maker = CellMaker(tiny_folder("llama"), load_tiny("llama").spec, tmp_path)
    chat = next(form for form in FORMS if form.peft_type == "CAUSAL_LM")
    cells = {cell.digest: cell for variant in VARIANTS if (cell := maker.cell(variant, chat)).served}
    verified = {digest: cell.verified for digest, cell in cells.items() if cell.verified}
    assert {"prompt", "prefix", "lora", "ia3", "bottleneck"} == {cell.variant.method for cell in cells.values()}
    prompts = [SHARED + tail for tail in tails(3)]
    with running_engine(load_tiny("llama"), verified, EngineSettings(slots=len(cells))) as loop:
        for digest, cell in cells.items():
            outcomes = [ask(loop, [prompt], digest=digest)[0] for prompt in prompts]
            assert [cached(outcome) > 32 for outcome in outcomes] == [False, True, True], cell.name
            assert cached(outcomes[0]) == 0, cell.name
            for prompt, outcome in zip(prompts, outcomes, strict=True):
                assert outcome.tokens == greedy(cell, prompt, GREEDY.max_tokens), cell.name


def test_a_new_version_never_meets_the_old_one_s_prefixes(load_tiny: LoadTiny) -> None:
    base = load_tiny("llama")
    versions = {name: random_adapter(base.spec, name, 4, seed) for seed, name in enumerate(("old", "new"))}
    with running_engine(load_tiny("llama"), versions, OFF) as loop:
        expected = {name: ask(loop, [SHARED], digest=name)[0].tokens for name in versions}
    assert expected["old"] != expected["new"]
    with running_engine(base, versions) as loop:
        for name, hits in [("old", 0), ("new", 0), ("old", 48), ("new", 48)]:
            [outcome] = ask(loop, [SHARED], digest=name, task="chat")
            assert (outcome.tokens, cached(outcome)) == (expected[name], hits)
        assert cached(ask(loop, [SHARED], task="chat")[0]) == 0, "the base has none of an adapter's"


def test_a_salt_keeps_callers_apart(load_tiny: LoadTiny) -> None:
    with running_engine(load_tiny("llama"), {}) as loop:
        told = [cached(ask(loop, [SHARED], cache_salt=salt)[0]) for salt in ("", "a", "b", "a", "")]
    assert told == [0, 0, 0, 48, 48]


def test_a_chat_that_goes_on_has_its_answers_cached_too(load_tiny: LoadTiny) -> None:
    with running_engine(load_tiny("llama"), {}) as loop:
        turn = [*SHARED, *ask(loop, [SHARED])[0].tokens]
        [outcome] = ask(loop, [turn + tails(1)[0]])
    assert len(SHARED) + GREEDY.max_tokens == 60
    assert cached(outcome) == 48
    assert len(turn) - 1 < 64  # the last token of an answer is never computed, so the fourth block is not whole
    with running_engine(load_tiny("llama"), {}) as loop:
        longer = replace(GREEDY, max_tokens=30)
        turn = [*SHARED, *ask(loop, [SHARED], longer)[0].tokens]
        assert cached(ask(loop, [turn + tails(1)[0]])[0]) == 64


def test_what_many_ask_for_at_once_is_computed_once(load_tiny: LoadTiny) -> None:
    told = Lookups()
    prompts = [(SHARED * 3)[:130] + tail for tail in tails(16)]
    with running_engine(load_tiny("llama"), {}, observer=told) as loop:
        ask(loop, prompts)
    assert told.computed == 142 + 15 * (142 - 128)
    assert (told.queried, told.cached) == (16 * 142, 15 * 128)


def test_a_prefix_that_was_cancelled_half_way_holds_nobody_up(load_tiny: LoadTiny) -> None:
    settings = EngineSettings(max_step_tokens=9, max_running_rows=8)
    prompt = (SHARED * 4)[:190]
    with running_engine(load_tiny("llama"), {}, settings) as loop:
        for _ in range(3):
            outcome, request = Outcome(), None
            request = make_request(outcome, prompt, GREEDY)
            loop.submit(request)
            wait_until(lambda: loop.snapshot().running == 1)
            loop.cancel(request.id)
        assert ask(loop, [prompt, prompt])[0].tokens
        wait_until(lambda: loop.snapshot().running == 0)
        assert loop.alive


def test_a_small_cache_forgets_what_was_not_used_for_longest(load_tiny: LoadTiny) -> None:
    base = load_tiny("llama")
    assert base.spec.kv is not None
    block_bytes = BLOCK_TOKENS * base.spec.kv.numbers_per_token * 4
    others = [tail * 4 for tail in tails(12)]
    with running_engine(load_tiny("llama"), {}, OFF) as loop:
        expected = [ask(loop, [prompt])[0].tokens for prompt in [SHARED, *others]]
    with running_engine(base, {}, EngineSettings(prefix_cache_bytes=8 * block_bytes + 5)) as loop:
        for prompt, tokens in zip(others, expected[1:], strict=True):
            assert ask(loop, [SHARED])[0].tokens == expected[0]
            assert ask(loop, [prompt])[0].tokens == tokens
            assert 0 < loop.snapshot().prefix_tokens_used <= loop.snapshot().prefix_tokens_capacity == 128
        assert cached(ask(loop, [SHARED])[0]) == 48
        assert cached(ask(loop, [others[0]])[0]) == 0


def test_without_a_cache_nothing_is_looked_up(load_tiny: LoadTiny) -> None:
    told = Lookups()
    with running_engine(load_tiny("llama"), {}, OFF, told) as loop:
        assert [cached(ask(loop, [SHARED])[0]) for _ in range(2)] == [0, 0]
        assert loop.snapshot().prefix_tokens_capacity == 0
    assert (told.queried, told.computed) == (0, 2 * len(SHARED))


def test_blocks_go_into_another_row_as_they_came(load_tiny: LoadTiny) -> None:
    layout = load_tiny("llama").spec.kv
    assert layout is not None
    cache = KVCache(layout, 4096, torch.device("cpu"), torch.float32)
    rows = KVTable(slab_tokens=4096, num_slabs=2)
    source, target = rows.allocate(100), rows.allocate(300)
    cache.ensure(source.slab)
    content = torch.randn(2, layout.layers, layout.heads, 48, layout.head_dim)
    cache.write(source, content)
    store = PrefixStore(cache, 5)
    store.save([(3, 0), (4, 16)], source)
    store.save([(0, 32)], source)
    cache.write(source, torch.zeros_like(content))
    store.restore([(3, 0), (4, 16), (0, 32)], target)
    assert torch.equal(cache.tokens(target, 0, 48), content)
    assert not cache.tokens(target, 48, 300).any()


class Kept:
    """A model of the store: which tokens each place was saved after, against the table's own account."""

    def __init__(self, num_blocks: int) -> None:
        self.table = PrefixTable(num_blocks)
        self.saved: dict[int, tuple[PrefixSpace, tuple[int, ...]]] = {}
        self.rows: list[tuple[Chain, list[int]]] = []

    def begin(self, digest: str, tokens: list[int]) -> None:
        space = self.table.space(digest, "")
        chain = self.table.open(space, tokens, self.table.find(space, tokens))
        for index, block in enumerate(chain.blocks[: chain.num_passed]):
            assert block.place is not None
            assert self.saved[block.place] == (space, tuple(tokens[: (index + 1) * BLOCK_TOKENS]))
        self.rows.append((chain, tokens))

    def compute(self, pick: int, num_computed: int, *, fails: bool) -> None:
        chain, tokens = self.rows[pick % len(self.rows)]
        for blocks in self.table.saves(chain, min(num_computed, len(tokens))):
            if fails:
                return
            for place, start in blocks:
                self.saved[place] = (chain.space, tuple(tokens[: start + BLOCK_TOKENS]))

    def end(self, pick: int, answer: list[int]) -> None:
        chain, tokens = self.rows[pick % len(self.rows)]
        self.compute(pick, len(tokens), fails=False)
        tokens += answer
        self.table.extend(chain, tokens)
        self.compute(pick, len(tokens), fails=False)
        self.table.close(chain)
        self.rows.remove((chain, tokens))

    def check(self) -> None:
        self.table.check_integrity(chain for chain, _ in self.rows)
        assert self.table.used_tokens <= self.table.capacity_tokens


# Few different blocks, so that prompts share them.
block_lists = st.lists(st.integers(0, 2), max_size=5)
operations = st.one_of(
    st.tuples(st.just("begin"), st.sampled_from(["a", "b"]), block_lists, st.integers(0, 15)),
    st.tuples(st.just("compute"), st.integers(0, 9), st.integers(0, 100), st.booleans()),
    st.tuples(st.just("cancel"), st.integers(0, 9)),
    st.tuples(st.just("end"), st.integers(0, 9), block_lists),
    st.tuples(st.just("merge"), st.sampled_from(["unmerged", "merged"])),
)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 8), st.lists(operations, max_size=40))
def test_a_block_is_found_only_after_the_tokens_that_it_was_saved_after(
    num_blocks: int, steps: list[tuple[Any, ...]]
) -> None:
    kept = Kept(num_blocks)
    for name, *given_ in steps:
        if name == "begin":
            digest, blocks, rest = given_
            kept.begin(digest, [block for block in blocks for _ in range(BLOCK_TOKENS)] + [9] * rest)
        elif name == "merge":
            kept.table.merged = given_[0]
        elif kept.rows and name == "compute":
            kept.compute(given_[0], given_[1], fails=given_[2])
        elif kept.rows and name == "cancel":
            kept.table.close(kept.rows.pop(given_[0] % len(kept.rows))[0])
        elif kept.rows and name == "end":
            kept.end(given_[0], [block for block in given_[1] for _ in range(BLOCK_TOKENS)])
        kept.check()
    while kept.rows:
        kept.end(0, [])
        kept.check()
