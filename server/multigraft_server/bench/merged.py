"""What a merge changes: the likeliest tokens, the time of a step, and the steps during which it is built."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median

import torch

from multigraft_adapters.bases import Base
from multigraft_adapters.errors import MultigraftError
from multigraft_server.bench.adapters import random_adapter
from multigraft_server.bench.steps import ask_all, make_request
from multigraft_server.engine.build import build_engine
from multigraft_server.engine.loop import EngineLoop
from multigraft_server.engine.observer import SilentObserver
from multigraft_server.engine.requests import Event, SamplingParams, Token
from multigraft_server.engine.settings import EngineSettings

ADAPTERS = ("one", "other")
NEAR_TIE = 2.0**-4
"""Of the two likeliest tokens' log-probabilities: logits of 8 to 16 are numbers of bf16 that are so far apart."""
PROMPT_TOKENS = 32


@dataclass
class Ends(SilentObserver):
    """When steps ended."""

    at: list[float] = field(default_factory=list)

    def step(
        self,
        *,
        phase: str,
        seconds: float,
        rows: int,
        adapters: int,
        prompt_tokens: int,
        generated_tokens: int,
    ) -> None:
        self.at.append(time.perf_counter())


def measure_merges(
    base: Base, *, rows: int, rank: int, texts: int, answer: int, switches: int
) -> dict[str, float]:
    """The figures of a decoder with adapters of a rank on all linear modules, by name.

    Tokens are compared after the unmerged adapter's own answers: `texts` of them, of `answer` tokens each.
    """
    ends = Ends()
    adapters = {
        name: replace(random_adapter("lora", base.spec, rank=rank, labels=2, seed=seed), digest=name)
        for seed, name in enumerate(ADAPTERS)
    }
    loop = build_engine(base, EngineSettings(slots=len(adapters), merge="pin"), lambda name: adapters[name], ends)
    loop.start()
    try:
        agreement = _agreement(loop, base.spec.vocab_size, texts, answer)
        return agreement | _switching(loop, ends, base.spec.vocab_size, rows, switches)
    finally:
        loop.stop()


def _agreement(loop: EngineLoop, vocabulary: int, texts: int, answer: int) -> dict[str, float]:
    prompts = _prompts(vocabulary, texts)
    params = SamplingParams(max_tokens=answer, temperature=0.0, ignore_eos=True, logprobs=2)
    unmerged = _answers(loop, prompts, params)
    read = [
        [*prompt, *(token.token_id for token in tokens[:index])]
        for prompt, tokens in zip(prompts, unmerged, strict=True)
        for index in range(answer)
    ]
    _merge(loop, ADAPTERS[0])
    merged = [tokens[0] for tokens in _answers(loop, read, replace(params, max_tokens=1))]
    wanted = [token for tokens in unmerged for token in tokens]
    same = [one.token_id == other.token_id for one, other in zip(wanted, merged, strict=True)]
    clear = [agrees for agrees, one in zip(same, wanted, strict=True) if _margin(one) > NEAR_TIE]
    return {
        "tokens": float(len(same)),
        "same likeliest token": sum(same) / len(same),
        "near ties": float(len(same) - len(clear)),
        "same likeliest token, near ties aside": sum(clear) / len(clear) if clear else 1.0,
    }


def _switching(loop: EngineLoop, ends: Ends, vocabulary: int, rows: int, switches: int) -> dict[str, float]:
    """Merge in turn while rows of the first adapter run."""
    seconds: list[tuple[float, float]] = []
    calm: list[float] = []
    during: list[float] = []
    for switch in range(switches):
        _merge(loop, None)
        done = threading.Event()
        merging = threading.Thread(target=_merge_soon, args=(loop, ends, ADAPTERS[switch % 2], seconds, done))
        first = len(ends.at)
        merging.start()
        while not done.is_set():
            prompts = _prompts(vocabulary, rows)
            _answers(loop, prompts, SamplingParams(max_tokens=64, temperature=0.0, ignore_eos=True))
        merging.join()
        started, ended = seconds[-1]
        gaps = [(later - at, later) for at, later in zip(ends.at[first:], ends.at[first + 1 :], strict=False)]
        calm += [gap for gap, at in gaps if at < started]
        during += [gap for gap, at in gaps if started <= at <= ended]
    return {
        f"a step of {rows} rows, ms": 1000 * median(calm),
        "a step while a merge is built, ms": 1000 * median(during),
        "the longest of them, in steps": max(during) / median(calm),
        "the longest other one, in steps": max(calm[rows:]) / median(calm),
        "a merge, s": median(ended - started for started, ended in seconds),
        "bytes of the second copy, MB": loop.snapshot().bytes["merged_weights"] / 1e6,
    }


def _merge_soon(
    loop: EngineLoop, ends: Ends, name: str, seconds: list[tuple[float, float]], done: threading.Event
) -> None:
    """Merge after a number of steps, and note when that began and ended."""
    first = len(ends.at)
    while len(ends.at) < first + 40:
        time.sleep(0.002)
    started = time.perf_counter()
    _merge(loop, name)
    seconds.append((started, time.perf_counter()))
    done.set()


def _merge(loop: EngineLoop, name: str | None) -> None:
    told: list[MultigraftError | None] = []
    done = threading.Event()

    def tell(error: MultigraftError | None) -> None:
        told.append(error)
        done.set()

    loop.merge(name, tell)
    done.wait()
    if told[0] is not None:
        raise told[0]


def _answers(loop: EngineLoop, prompts: Sequence[Sequence[int]], params: SamplingParams) -> list[list[Token]]:
    """The first adapter's answers."""
    tokens: list[list[Token]] = [[] for _ in prompts]

    def sink(own: list[Token], event: Event) -> None:
        if isinstance(event, Token):
            own.append(event)

    ask_all(
        loop,
        [
            make_request(ADAPTERS[0], prompt, params, partial(sink, own))
            for prompt, own in zip(prompts, tokens, strict=True)
        ],
    )
    return tokens


def _margin(token: Token) -> float:
    (_, best), (_, second) = token.top_logprobs
    return best - second


def _prompts(vocabulary: int, number: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(number)
    prompts: list[list[int]] = torch.randint(10, vocabulary, (number, PROMPT_TOKENS), generator=generator).tolist()
    return prompts
