"""The engine's limits, complete and frozen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from multigraft_adapters.errors import InvalidRequestError
from multigraft_server.engine.kernels import KernelMode
from multigraft_server.engine.quantising import Quantize

MergeMode = Literal["off", "auto", "pin"]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What one engine may use.

    `slots`: adapters resident on the device beside the base. `max_running_rows`: generating rows at once.
    `max_step_rows`, `max_step_tokens`: the size of one step. `max_mixed_tokens`: prompt tokens of a step in which
    answers go on, which wait for all of it. `max_step_adapters`: distinct adapters of a step, the base among
    them; None: as many as are resident. `max_waiting_requests`, `max_waiting_tokens`: the queue's bounds.
    `kv_bytes`: the KV cache. `prefix_cache_bytes`: prefixes kept beside it; 0 keeps none. `device_bytes`: adapters
    in slots; None: as much as the slots take. `host_bytes`: adapters kept in host memory. `age_bound_s`: after
    this wait neither a priority nor the want of room holds a request up any longer. `load_threads`: loads at
    once. `retry_load_s`: how long a failed load is remembered at first, twice as long after each further failure,
    up to `max_retry_load_s`. `kernels`: whether the compiled kernels compute what they can.
    `quantize`: in what the base's linear modules keep their weights, if not as they are. `merge`: whether an
    adapter may be merged into the weights, and who says which; the engine itself only knows `off` from the others.
    `merge_bytes`: the second copy of the weights that merging takes. `max_waiting_steps`,
    `max_waiting_rounds`: how many full steps of inputs, and full sets of running answers, may wait before a
    request; None: any number, up to the queue's bounds. `recover_s`: how long steps stay smaller after one ran out
    of memory, before they may have twice as many tokens again.
    """

    slots: int = 16
    max_running_rows: int = 32
    max_step_rows: int = 512
    max_step_tokens: int = 2048
    max_mixed_tokens: int = 512
    max_step_adapters: int | None = None
    max_waiting_requests: int = 4096
    max_waiting_tokens: int = 2_000_000
    max_waiting_steps: float | None = None
    max_waiting_rounds: float | None = None
    kv_bytes: int = 2 * 1024**3
    prefix_cache_bytes: int = 512 * 1024**2
    device_bytes: int | None = None
    host_bytes: int = 4 * 1024**3
    age_bound_s: float = 2.0
    load_threads: int = 4
    retry_load_s: float = 1.0
    max_retry_load_s: float = 60.0
    kernels: KernelMode = "auto"
    quantize: Quantize = "none"
    merge: MergeMode = "off"
    merge_bytes: int = 2 * 1024**3
    recover_s: float = 30.0

    def __post_init__(self) -> None:
        for name in (
            "slots",
            "max_running_rows",
            "max_step_rows",
            "max_step_tokens",
            "max_mixed_tokens",
            "max_step_adapters",
            "kv_bytes",
            "device_bytes",
            "host_bytes",
            "load_threads",
            "merge_bytes",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidRequestError(f"{name} must be at least 1, not {value}", param=name)
        for name in ("max_step_tokens", "max_step_rows"):
            if getattr(self, name) <= self.max_running_rows:
                raise InvalidRequestError(
                    f"{name} ({getattr(self, name)}) must be more than max_running_rows "
                    f"({self.max_running_rows}): each running row takes a token of a step, and prompts take some",
                    param=name,
                )
