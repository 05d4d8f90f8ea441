"""What the engine tells of itself while it runs; metrics implement it."""

from __future__ import annotations

from typing import Literal, Protocol

Tier = Literal["device", "host"]
Direction = Literal["merge", "restore"]


class Observer(Protocol):
    """Called from the engine's threads; must be quick and must not raise."""

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
        """One step ended. `phase` is `decode`, `prefill` or `mixed`; the base counts as an adapter."""

    def out_of_memory(self) -> None:
        """A step ran out of memory, and is tried again in halves."""

    def prefix_lookup(self, *, queried_tokens: int, cached_tokens: int) -> None:
        """A prompt was looked up in the prefix cache; so many of its tokens need not be computed."""

    def adapter_load(self, *, tier: Tier, seconds: float, outcome: Literal["ok", "error"]) -> None:
        """An adapter was brought into a tier, or could not be."""

    def eviction(self, *, tier: Tier) -> None:
        """An adapter left a tier to make room."""

    def merge_switched(self, *, direction: Direction, seconds: float) -> None:
        """An adapter was merged into the weights, so long after it was asked for; or the originals are back."""


class SilentObserver:
    """An observer for engines that nobody watches."""

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
        pass

    def out_of_memory(self) -> None:
        pass

    def prefix_lookup(self, *, queried_tokens: int, cached_tokens: int) -> None:
        pass

    def adapter_load(self, *, tier: Tier, seconds: float, outcome: Literal["ok", "error"]) -> None:
        pass

    def eviction(self, *, tier: Tier) -> None:
        pass

    def merge_switched(self, *, direction: Direction, seconds: float) -> None:
        pass
