"""What travels between the HTTP side and the engine: plain data, no torch, no HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

BASE_DIGEST = "base"
"""What stands for the bare base wherever an adapter's digest is named."""

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a generating row picks its next token.

    `temperature` 0 is greedy. `logprobs` asks for that many alternatives beside the chosen token (0: only the
    chosen one, None: none at all). `seed` makes the draws of this request reproducible.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class PoolingParams:
    """What a row without generation returns.

    `head` is what the adapter's own computes: logits or a vector, or logits for every token where it reads every
    token's state. `embedding` is the mean-pooled, normalised vector of the bare base. `tokens` is every token's
    hidden state.
    """

    output: Literal["head", "embedding", "tokens"]


@dataclass(frozen=True, slots=True)
class VirtualTokens:
    """What an adapter puts before each of its rows: so many tokens, which take the row's first positions.

    `cached` ones are given by their keys and values; the others are embeddings, computed with the row.
    """

    count: int = 0
    cached: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One sequence to compute: a prompt to continue or an input to pool.

    `digest` is the adapter that computes it (`BASE_DIGEST` for the bare base), `task` the name that metrics and
    fairness count it under. Of the requests that wait, those of a lower `priority` go first. Only requests of one
    `cache_salt` share cached prefixes. On an image base
    the input is `pixels` (channels, height, width), in the shape that the base takes, and `token_ids` holds a
    zero for each of its tokens. Times are seconds of `time.monotonic`.
    `sink` is called from the engine's thread with each event of this request, in order; the last one is a
    `Finished` or a `Failed`, exactly once.
    """

    id: str
    task: str
    digest: str
    token_ids: tuple[int, ...]
    params: SamplingParams | PoolingParams
    sink: Callable[[Event], None]
    arrival: float
    deadline: float | None = None
    priority: int = 0
    cache_salt: str = ""
    token_type_ids: tuple[int, ...] | None = None
    virtual: VirtualTokens = VirtualTokens()
    """Filled in by the engine, from the adapter; as is `adapter_bytes`, which its slot takes, and `loaded`, when
    the adapter came that the request had to wait for."""
    adapter_bytes: int = 0
    loaded: float | None = None
    pixels: np.ndarray[Any, np.dtype[np.float32]] | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token. `top_logprobs` are (token id, log-probability) pairs, best first.

    The first one of an answer says how many of the prompt's tokens came from the prefix cache.
    """

    token_id: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Pooled:
    """What a pooling row computed: logits (labels,), a vector (hidden,), or such for each token (tokens, ...)."""

    values: np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, slots=True)
class Finished:
    """The request's answer is complete."""

    reason: FinishReason
    timing: Timing


@dataclass(frozen=True, slots=True)
class Failed:
    """The request ended without a complete answer; `error` says why."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Timing:
    """When the request arrived, first ran and ended (`time.monotonic` seconds), and the widest step it was in.

    `loaded` is when its adapter came, where it had to wait for that; `head` when the heads of its last step began.
    """

    arrival: float
    started: float
    finished: float
    step_adapters: int = 1
    step_rows: int = 1
    loaded: float | None = None
    head: float | None = None


Event = Token | Pooled | Finished | Failed


@dataclass(frozen=True, slots=True)
class MergeSnapshot:
    """Which adapter is merged into the base's weights, or about to be, and what that has cost.

    `error` is why the last wish failed, until one succeeds. `switch_seconds` is from the last wish to its end,
    `switches` counts merges and their ends. `steps` are those while an adapter was merged, by how they were
    computed; `pass_seconds` what passes cost, by weights (`original`, `merged`, `base`: the bare base at the
    start) and tokens. `budget_bytes` is the most that merged weights may take.
    """

    state: Literal["idle", "building", "merged"] = "idle"
    digest: str | None = None
    error: str | None = None
    switch_seconds: float = 0.0
    switches: int = 0
    budget_bytes: int = 0
    steps: Mapping[str, int] = field(default_factory=dict)
    pass_seconds: Mapping[str, Mapping[int, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """The engine's state at one moment, for `GET /v1/engine` and the gauges."""

    running: int
    waiting: int
    waiting_by_task: Mapping[str, int]
    running_by_task: Mapping[str, int]
    slots: Mapping[int, str] = field(default_factory=dict)
    """Slot number to the digest that it holds; slot 0, the base, is not listed."""
    num_slots: int = 0
    host_digests: tuple[str, ...] = ()
    kv_tokens_used: int = 0
    kv_tokens_capacity: int = 0
    prefix_tokens_used: int = 0
    prefix_tokens_capacity: int = 0
    prefix_queried_tokens: int = 0
    prefix_cached_tokens: int = 0
    bytes: Mapping[str, int] = field(default_factory=dict)
    """Memory that the engine has taken, by what it is for: `weights`, `merged_weights`, `banks`, `heads`,
    `kv_cache`, `prefix_cache` and `host`, the adapters in host memory."""
    slot_bytes: int = 0
    """Of the adapters in slots; the banks have room for more."""
    slot_budget_bytes: int | None = None
    host_budget_bytes: int = 0
    kernels: str = "off"
    """`compiled`, or why torch's operations are used in their place."""
    steps: int = 0
    step_tokens: int = 0
    """That a step may have: fewer for a while after one ran out of memory."""
    widest_step_adapters: int = 0
    loading: tuple[str, ...] = ()
    failed_loads: Mapping[str, str] = field(default_factory=dict)
    """Digest to why it could not be loaded, while that is remembered."""
    merge: MergeSnapshot = MergeSnapshot()
