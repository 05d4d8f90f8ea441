"""What steps cost with and without a merge, and what a merge would have saved of steps that were seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class PassSeconds:
    """Measured seconds of a pass over the base by its tokens: linear between two points and, beyond the last one,
    as between the last two; below the first one, as that."""

    points: tuple[tuple[int, float], ...]

    @classmethod
    def of(cls, seconds: Mapping[int, float]) -> PassSeconds:
        return cls(tuple(sorted(seconds.items())))

    def at(self, tokens: float) -> float | None:
        """None when nothing has been measured."""
        if not self.points:
            return None
        if len(self.points) == 1 or tokens <= self.points[0][0]:
            return self.points[0][1]
        pairs = list(pairwise(self.points))
        (low, below), (high, above) = next((pair for pair in pairs if tokens <= pair[1][0]), pairs[-1])
        return below + (above - below) * (tokens - low) / (high - low)


@dataclass(frozen=True, slots=True)
class MergeCosts:
    """What passes take on the original weights, every row's delta beside them, and on merged ones; and `switch_s`,
    what a switch takes from steps, in seconds of their time. Where merged passes have not been measured they save
    nothing.
    """

    original: PassSeconds
    merged: PassSeconds
    switch_s: float

    def original_s(self, tokens: int) -> float:
        """A step on the original weights."""
        return self.original.at(tokens) or 0.0

    def step_s(self, hot: int, cold: int) -> float:
        """A step with `hot` tokens of the merged adapter and `cold` ones of others, computed the cheaper way: all
        on the original weights, or the hot ones in a pass on the merged weights and the cold ones in another."""
        together, own = self.original_s(hot + cold), self.merged.at(hot)
        if not hot or own is None:
            return together
        return min(together, own + (self.original_s(cold) if cold else 0.0))


@dataclass(frozen=True, slots=True)
class StepSeen:
    """A step that has run: its tokens by adapter, the requests that began in it by adapter, its seconds, and how
    long rows had waited between it and the step before."""

    tokens: Mapping[str, int]
    requests: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Weighed:
    """Some steps seen from one adapter: the seconds of its own tokens unmerged, those that its merge would save,
    and the requests that began."""

    own_s: float = 0.0
    saved_s: float = 0.0
    requests: int = 0

    def __add__(self, other: Weighed) -> Weighed:
        return Weighed(self.own_s + other.own_s, self.saved_s + other.saved_s, self.requests + other.requests)


@dataclass(frozen=True, slots=True)
class Standing:
    """One adapter among what was seen. `share` of all service, by what its tokens cost unmerged, `request_share`
    of the requests that began, and `gain`, the share of all steps' time that merging it saves."""

    share: float = 0.0
    request_share: float = 0.0
    gain: float = 0.0


@dataclass(frozen=True, slots=True)
class Weighing:
    """Steps as the policy keeps them: how many, what they take unmerged, and what is of which adapter."""

    steps: int = 0
    seconds: float = 0.0
    adapters: Mapping[str, Weighed] = field(default_factory=dict)

    @classmethod
    def of(cls, steps: Iterable[StepSeen], costs: MergeCosts) -> Weighing:
        """Steps by what they cost on this machine; what they took themselves depends on what was merged."""
        count, whole = 0, 0.0
        adapters: dict[str, Weighed] = {}
        for step in steps:
            total = sum(step.tokens.values())
            unmerged = costs.original_s(total)
            count, whole = count + 1, whole + unmerged
            for digest, own in step.tokens.items():
                saved = unmerged - costs.step_s(own, total - own)
                weighed = Weighed(unmerged * own / total, saved, step.requests.get(digest, 0))
                adapters[digest] = adapters.get(digest, Weighed()) + weighed
        return cls(count, whole, adapters)

    def __add__(self, other: Weighing) -> Weighing:
        nothing = Weighed()
        adapters = {
            digest: self.adapters.get(digest, nothing) + other.adapters.get(digest, nothing)
            for digest in {**self.adapters, **other.adapters}
        }
        return Weighing(self.steps + other.steps, self.seconds + other.seconds, adapters)

    def renamed(self, old: str, new: str) -> Weighing:
        """What is of one adapter counted for another one."""
        adapters = {digest: one for digest, one in self.adapters.items() if digest != old}
        if old in self.adapters:
            adapters[new] = adapters.get(new, Weighed()) + self.adapters[old]
        return Weighing(self.steps, self.seconds, adapters)

    def standing(self, digest: str) -> Standing:
        """Where an adapter stands; 0 everywhere when nothing was computed."""
        own = self.adapters.get(digest, Weighed())
        began = sum(one.requests for one in self.adapters.values())
        if self.seconds <= 0:
            return Standing()
        return Standing(
            own.own_s / self.seconds, own.requests / began if began else 0.0, own.saved_s / self.seconds
        )
