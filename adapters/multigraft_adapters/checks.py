"""What verification asked of an adapter, one check after another: what it found, and every reason to refuse."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

State = Literal["passed", "refused", "not reached"]


@dataclass(frozen=True, slots=True)
class Check:
    """One check. `figure` is what was found by one that passed; a check without figure and problems could not be
    made, since what it reads was refused before."""

    name: str
    figure: str
    problems: tuple[str, ...]

    @property
    def state(self) -> State:
        if self.problems:
            return "refused"
        return "passed" if self.figure else "not reached"


@dataclass(slots=True)
class Checks:
    """The checks so far. Whoever looks at something notes what is wrong in `problems`; `end` closes a check over
    what was noted since the one before."""

    problems: list[str] = field(default_factory=list)
    made: list[Check] = field(default_factory=list)
    _num_told: int = 0

    def end(self, name: str, figure: str = "") -> None:
        """A check has been made, or could not be (no figure, and nothing noted)."""
        found = tuple(self.problems[self._num_told :])
        self._num_told = len(self.problems)
        self.made.append(Check(name, "" if found else figure, found))


def size(num_bytes: int) -> str:
    """A number of bytes for a reader, in powers of 1000."""
    value, units = float(num_bytes), ["kB", "MB", "GB"]
    if num_bytes < 1000:
        return f"{num_bytes} B"
    while units and value >= 1000:
        value, unit = value / 1000, units.pop(0)
    return f"{value:.1f} {unit}"
