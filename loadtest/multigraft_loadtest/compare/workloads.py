"""The two workloads of the targets, G and C, and how much of them is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from multigraft_loadtest.random_adapters import RandomAdapter, label_count, random_adapter
from multigraft_loadtest.shapes import EMBEDDED
from multigraft_loadtest.texts import Lengths, in_turn
from multigraft_loadtest.workload import Traffic, Workload

TASKS = 8
G_BASE, G_CLIENTS, G_RANK = "smollm2", 16, 16
C_BASE, C_CLIENTS, C_RANK, C_TEXTS = "minilm", 32, 8, 8
PROMPT_WORDS, OUTPUT_TOKENS = Lengths(75, 75), Lengths(64, 64)
LOAD = 0.7
"""Of the measured capacity, in the rows of fairness."""

HOT = "hot:0.9"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is asked. `g` and `g1` are requests of workload G by 16 clients and by one, `c` those of C."""

    rounds: int
    g: int
    g1: int
    c: int
    open_seconds: float
    growth_seconds: float

    @classmethod
    def usual(cls, rounds: int | None, *, is_quick: bool) -> Sizes:
        """Three rounds, or one when it must be quick."""
        return cls(rounds or 1, 32, 2, 96, 15.0, 30.0) if is_quick else cls(rounds or 3, 64, 6, 256, 60.0, 600.0)


def lora_adapters() -> list[RandomAdapter]:
    """G's: rank 16 on all seven linear modules of each layer."""
    return [random_adapter(EMBEDDED[G_BASE], "lora", index, rank=G_RANK) for index in range(TASKS)]


def label_adapters() -> list[RandomAdapter]:
    """C's: rank 8 on all linear modules, eight different label counts."""
    return [
        random_adapter(EMBEDDED[C_BASE], "lora", index, rank=C_RANK, labels=label_count(index))
        for index in range(TASKS)
    ]


def generate(
    tasks: Sequence[str | None], requests: int, seed: int, *, clients: int = G_CLIENTS, warm_up: int = 0
) -> Workload:
    """Workload G: prompts of about 75 tokens without a common beginning, 64 tokens, the tasks in turn."""
    return Workload([(_g(tasks), 1.0)], clients=clients, num_requests=requests, seed=seed, warm_up=warm_up)


def fill(tasks: Sequence[str | None], seed: int) -> Workload:
    """As many rows at once as run at once, each filling the place that it gets in the KV cache."""
    long = Traffic(
        "generation", tasks, is_even=True, prompt_words=Lengths(120, 120), output_tokens=Lengths(125, 125)
    )
    return Workload([(long, 1.0)], clients=32, num_requests=32, seed=seed, warm_up=0)


def classify(
    tasks: Sequence[str | None],
    texts: Sequence[str],
    requests: int,
    seed: int,
    *,
    texts_per_request: int = C_TEXTS,
    warm_up: int = 0,
) -> Workload:
    """Workload C: real short texts, 32 clients, the tasks in turn. The base alone is asked for embeddings."""
    traffic = _c(tasks, texts, texts_per_request)
    return Workload([(traffic, 1.0)], clients=C_CLIENTS, num_requests=requests, seed=seed, warm_up=warm_up)


def open_loop(traffic: Traffic, capacity: float, popularity: str, seconds: float, seed: int) -> Workload:
    """The same requests at 70% of a capacity in requests per second, with Poisson arrivals."""
    return Workload(
        [(_with(traffic, popularity), 1.0)], rate=LOAD * capacity, seconds=seconds, seed=seed, warm_up=0
    )


def sample(texts: Sequence[str], requests: int, seed: int) -> list[str]:
    """The texts that so many requests of `classify` carry."""
    return list(islice(in_turn(texts, seed), requests * C_TEXTS))


def _g(tasks: Sequence[str | None]) -> Traffic:
    return Traffic("generation", tasks, is_even=True, prompt_words=PROMPT_WORDS, output_tokens=OUTPUT_TOKENS)


def _c(tasks: Sequence[str | None], texts: Sequence[str], texts_per_request: int) -> Traffic:
    kind = "embedding" if None in tasks else "classification"
    return Traffic(kind, tasks, is_even=True, texts=texts, texts_per_request=texts_per_request)  # type: ignore[arg-type]


def _with(traffic: Traffic, popularity: str) -> Traffic:
    return Traffic(
        traffic.kind,
        traffic.tasks,
        popularity,
        texts=traffic.texts,
        texts_per_request=traffic.texts_per_request,
        prompt_words=traffic.prompt_words,
        output_tokens=traffic.output_tokens,
    )
