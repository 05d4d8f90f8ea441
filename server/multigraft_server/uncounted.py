"""Metrics that count nothing, where the setting `metrics` is off."""

from __future__ import annotations

from typing import Any

from multigraft_server.metrics import Metrics


class Uncounted(Metrics):
    """Has every series, at 0."""

    def request(self, *told: Any, **more: Any) -> None:
        """Nothing; as all below."""

    def first_token(self, *told: Any, **more: Any) -> None: ...

    def next_token(self, *told: Any, **more: Any) -> None: ...

    def queued(self, *told: Any, **more: Any) -> None: ...

    def step(self, **told: Any) -> None: ...

    def out_of_memory(self) -> None: ...

    def step_stalled(self) -> None: ...

    def prefix_lookup(self, **told: Any) -> None: ...

    def adapter_load(self, **told: Any) -> None: ...

    def eviction(self, **told: Any) -> None: ...

    def merge_switched(self, **told: Any) -> None: ...
