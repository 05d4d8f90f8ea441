"""What steps cost with and without a merge, and what a merge would have saved of steps that were seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

StepKind = Literal["decode", "prefill"]
"""A step that computes a prompt's tokens is a `prefill`, whatever else is in it: the prompt's tokens decide."""


@dataclass(frozen=True, slots=True)
class Line:
    """The time of a step by its tokens: `step_s` for each step and `token_s` for each token, in seconds."""

    step_s: float
    token_s: float

    def seconds(self, steps: float, tokens: float) -> float:
        """What so many steps of together so many tokens take."""
        return steps * self.step_s + tokens * self.token_s


@dataclass(frozen=True, slots=True)
class StepCosts:
    """Steps of one kind. `unmerged`: every row adds its own delta. `merged`: all rows are of the merged task.
    `corrected`: what rows of other tasks take on the merged weights, their own delta and the correction added;
    its `step_s` comes on top of the merged one's.
    """

    unmerged: Line
    merged: Line
    corrected: Line

    def mixed_s(self, steps: float, hot: float, cold: float) -> float:
        """Steps with `hot` tokens of the merged task and `cold` ones of others, computed the cheapest way.

        The ways are the original weights for all rows, the merged ones with a correction for the cold rows, and
        two passes, each over its own rows.
        """
        original = self.unmerged.seconds(steps, hot + cold)
        corrected = self.merged.seconds(steps, hot) + self.corrected.seconds(steps, cold)
        split = self.merged.seconds(steps, hot) + self.unmerged.seconds(steps, cold)
        return min(original, corrected, split)

    def alone_s(self, steps: float, tokens: float) -> float:
        """Steps of the merged task alone."""
        return min(self.merged.seconds(steps, tokens), self.unmerged.seconds(steps, tokens))


@dataclass(frozen=True, slots=True)
class MergeCosts:
    """Both kinds of step, and `switch_s`: what a switch takes from steps, in seconds of their time."""

    decode: StepCosts
    prefill: StepCosts
    switch_s: float

    def of(self, kind: StepKind) -> StepCosts:
        return self.decode if kind == "decode" else self.prefill


@dataclass(frozen=True, slots=True)
class Tally:
    """What was computed in steps of one kind, seen from one adapter: in steps of its rows alone, and in steps
    with others' rows: its own `hot` tokens there and the others' `cold` ones. `requests` began in them.
    """

    alone_steps: int = 0
    alone_tokens: int = 0
    mixed_steps: int = 0
    hot_tokens: int = 0
    cold_tokens: int = 0
    requests: int = 0

    @property
    def tokens(self) -> int:
        """Its own."""
        return self.alone_tokens + self.hot_tokens

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.alone_steps + other.alone_steps,
            self.alone_tokens + other.alone_tokens,
            self.mixed_steps + other.mixed_steps,
            self.hot_tokens + other.hot_tokens,
            self.cold_tokens + other.cold_tokens,
            self.requests + other.requests,
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """Steps of one kind: how many, of how many tokens, and what was of which adapter, by digest."""

    steps: int = 0
    tokens: int = 0
    adapters: Mapping[str, Tally] = field(default_factory=dict)

    def with_step(self, tokens: Mapping[str, int], requests: Mapping[str, int]) -> Seen:
        """These and one more step: its tokens, and the requests that began in it, by digest."""
        total = sum(tokens.values())
        adapters = dict(self.adapters)
        for digest, own in tokens.items():
            began = requests.get(digest, 0)
            if own == total:
                one = Tally(alone_steps=1, alone_tokens=own, requests=began)
            else:
                one = Tally(mixed_steps=1, hot_tokens=own, cold_tokens=total - own, requests=began)
            adapters[digest] = adapters.get(digest, Tally()) + one
        return Seen(self.steps + 1, self.tokens + total, adapters)

    def __add__(self, other: Seen) -> Seen:
        digests = {**self.adapters, **other.adapters}
        nothing = Tally()
        return Seen(
            self.steps + other.steps,
            self.tokens + other.tokens,
            {one: self.adapters.get(one, nothing) + other.adapters.get(one, nothing) for one in digests},
        )


@dataclass(frozen=True, slots=True)
class Observation:
    """The steps of some time, by kind."""

    decode: Seen = Seen()
    prefill: Seen = Seen()

    @property
    def steps(self) -> int:
        return self.decode.steps + self.prefill.steps

    def __add__(self, other: Observation) -> Observation:
        return Observation(self.decode + other.decode, self.prefill + other.prefill)

    def of(self, kind: StepKind) -> Seen:
        return self.decode if kind == "decode" else self.prefill

    def digests(self) -> set[str]:
        """The adapters that had rows in these steps."""
        return {*self.decode.adapters, *self.prefill.adapters}


KINDS: tuple[StepKind, ...] = ("decode", "prefill")


@dataclass(frozen=True, slots=True)
class Standing:
    """One adapter among what was seen. `share` of all service, by what its tokens cost unmerged, `request_share`
    of the requests that began, `gain`, the share of all steps' time that merging it saves, and that in seconds."""

    share: float = 0.0
    request_share: float = 0.0
    gain: float = 0.0
    saved_s: float = 0.0


def standing(seen: Observation, digest: str, costs: MergeCosts) -> Standing:
    """Where an adapter stands; 0 everywhere when nothing was computed."""
    whole = own = saved = 0.0
    began = all_began = 0
    for kind in KINDS:
        steps, cost = seen.of(kind), costs.of(kind)
        tally = steps.adapters.get(digest, Tally())
        whole += cost.unmerged.seconds(steps.steps, steps.tokens)
        own += cost.unmerged.seconds(_steps_of(tally), tally.tokens)
        alone = cost.unmerged.seconds(tally.alone_steps, tally.alone_tokens)
        saved += alone - cost.alone_s(tally.alone_steps, tally.alone_tokens)
        mixed = tally.mixed_steps, tally.hot_tokens, tally.cold_tokens
        saved += cost.unmerged.seconds(mixed[0], mixed[1] + mixed[2]) - cost.mixed_s(*mixed)
        began += tally.requests
        all_began += sum(one.requests for one in steps.adapters.values())
    if whole <= 0:
        return Standing()
    return Standing(own / whole, began / all_began if all_began else 0.0, saved / whole, saved)


def _steps_of(tally: Tally) -> float:
    """The steps that are an adapter's, a mixed one by its share of the tokens."""
    mixed = tally.hot_tokens + tally.cold_tokens
    return tally.alone_steps + (tally.mixed_steps * tally.hot_tokens / mixed if mixed else 0.0)
