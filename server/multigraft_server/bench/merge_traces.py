"""Traces of requests: read from JSONL, or drawn with a hot task's share and bursts."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from multigraft_adapters.errors import InvalidRequestError
from multigraft_server.engine.merge_costs import MergeCosts, PassSeconds


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request: when it came in seconds, whose it is, its prompt's tokens, and those of its answer, 0 for an
    input that is pooled."""

    at_s: float
    task: str
    prompt_tokens: int
    answer_tokens: int = 0


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    at_s: float = Field(ge=0, allow_inf_nan=False)
    task: str = Field(min_length=1)
    prompt_tokens: int = Field(ge=1)
    answer_tokens: int = Field(default=0, ge=0)


def read_trace(file: Path) -> list[Arrival]:
    """The arrivals of a JSONL file, by time. Raises InvalidRequestError naming the first bad line."""
    found = []
    for number, line in enumerate(file.read_text("utf-8").splitlines(), start=1):
        try:
            found.append(Arrival(**_Line.model_validate_json(line).model_dump()))
        except ValidationError as error:
            problem = error.errors()[0]
            raise InvalidRequestError(
                f"{file}, line {number}: {problem['msg']} ({problem['loc']}); a line is "
                '{"at_s": 0.5, "task": "hot", "prompt_tokens": 75, "answer_tokens": 64}'
            ) from None
    if not found:
        raise InvalidRequestError(f"{file} has no line")
    return sorted(found, key=lambda arrival: arrival.at_s)


def write_trace(arrivals: Iterable[Arrival]) -> str:
    """The same as text."""
    return "".join(json.dumps(asdict(arrival)) + "\n" for arrival in arrivals)


def draw_trace(
    *,
    share: float,
    rate: float,
    seconds: float,
    cv: float = 1.0,
    tasks: int = 8,
    prompt_tokens: int = 75,
    answer_tokens: int = 64,
    seed: int = 0,
) -> Iterator[Arrival]:
    """Requests of `tasks` tasks, of which `hot` has a share and the others the rest in equal parts.

    `rate` requests per second come with gamma-distributed gaps of the coefficient of variation `cv` (shape
    1 / cv^2, scale cv^2 / rate): 1 is Poisson, 4 comes in bursts. Each burst is one task's: within a gap shorter
    than a tenth of the mean one, the task stays.
    """
    draw, now, task = random.Random(f"merge trace {seed}"), 0.0, "hot"
    names = ["hot", *(f"cold-{number}" for number in range(1, tasks))]
    weights = [share, *([(1 - share) / (tasks - 1)] * (tasks - 1) if tasks > 1 else ())]
    while True:
        gap = draw.gammavariate(1 / cv**2, cv**2 / rate)
        now += gap
        if now >= seconds:
            return
        if cv <= 1 or gap > 0.1 / rate:
            (task,) = draw.choices(names, weights)
        yield Arrival(now, task, prompt_tokens, answer_tokens)


SMOLLM2 = MergeCosts(
    original=PassSeconds.of({1: 0.016, 16: 0.026, 64: 0.040, 512: 0.190}),
    merged=PassSeconds.of({1: 0.013, 16: 0.022, 64: 0.034, 512: 0.160}),
    switch_s=0.1,
)
"""Costs like those of SmolLM2 with LoRAs of rank 16 on two cores: the simulator's, where none are given."""


class _Costs(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    original: dict[int, float] = Field(min_length=1)
    merged: dict[int, float] = Field(min_length=1)
    switch_s: float = Field(ge=0)


def read_costs(file: Path) -> MergeCosts:
    """A table of costs: the seconds of a pass by its tokens on the original weights and on merged ones, and of a
    switch. Raises InvalidRequestError."""
    try:
        found = _Costs.model_validate_json(file.read_text("utf-8"))
    except ValidationError as error:
        problem = error.errors()[0]
        raise InvalidRequestError(f"{file}: {problem['loc']}: {problem['msg']}") from None
    return MergeCosts(PassSeconds.of(found.original), PassSeconds.of(found.merged), found.switch_s)
