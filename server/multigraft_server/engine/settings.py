"""The engine's limits, complete and frozen."""

from __future__ import annotations

from dataclasses import dataclass

from multigraft_adapters.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What one engine may use.

    `slots`: adapters resident on the device beside the base. `max_running_rows`: generating rows at once.
    `max_step_rows`, `max_step_tokens`: the size of one step. `max_waiting_requests`, `max_waiting_tokens`: the
    queue's bounds. `kv_bytes`: the KV cache. `host_bytes`: adapters kept in host memory. `age_bound_s`: after
    this wait a request goes before all younger ones. `retry_load_s`: how long a failed load is remembered.
    """

    slots: int = 16
    max_running_rows: int = 32
    max_step_rows: int = 512
    max_step_tokens: int = 2048
    max_waiting_requests: int = 4096
    max_waiting_tokens: int = 2_000_000
    kv_bytes: int = 2 * 1024**3
    host_bytes: int = 4 * 1024**3
    age_bound_s: float = 2.0
    retry_load_s: float = 5.0

    def __post_init__(self) -> None:
        for name in ("slots", "max_running_rows", "max_step_rows", "max_step_tokens", "kv_bytes"):
            if getattr(self, name) < 1:
                raise InvalidRequestError(f"{name} must be at least 1, not {getattr(self, name)}", param=name)
        if self.max_step_tokens < self.max_running_rows:
            raise InvalidRequestError(
                f"max_step_tokens ({self.max_step_tokens}) must be at least max_running_rows "
                f"({self.max_running_rows}): each running row takes one token of a step",
                param="max_step_tokens",
            )
