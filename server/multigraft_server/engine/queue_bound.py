"""How much may wait before a request, in turns of the engine; pure Python, no torch."""

from __future__ import annotations

from collections import Counter

from multigraft_adapters.errors import OverloadedError
from multigraft_server.engine.requests import Request, SamplingParams
from multigraft_server.engine.settings import EngineSettings

Kind = bool
"""Whether requests generate: they wait for a row, the others for tokens of a step."""


class QueueBound:
    """Predicts the wait of a request from what waits before it, and refuses what would wait too long.

    Answers that are being generated count with those that wait for their rows; inputs are computed in one step.

    Its unit is what the engine computes at once: a full step of inputs, a full set of running answers. How long
    that takes depends on the machine and on its other work. By how much a request takes longer that waits for so
    many of them does not.

    What waits before a request of a task is the task's own work w, and of every other task's at most as much,
    since tasks have equal turns: the sum of min(w_i, w) over all tasks i.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self._room = {
            False: _times(settings.max_waiting_steps, settings.max_step_tokens),
            True: _times(settings.max_waiting_rounds, settings.max_running_rows, running=1),
        }
        self._waiting: dict[Kind, Counter[str]] = {False: Counter(), True: Counter()}

    def check(self, task: str, generates: Kind) -> None:
        """Raises OverloadedError when a request of this task would wait for longer than it may."""
        room, waiting = self._room[generates], self._waiting[generates]
        own = waiting[task]
        if room is None or own == 0:
            return
        before = sum(min(work, own) for work in waiting.values())
        if before >= room:
            unit = "answers" if generates else "tokens"
            raise OverloadedError(f"{before} {unit} are before a request for {task!r}, and {room} may be")

    def enter(self, request: Request) -> None:
        """A request is open from now on."""
        kind, work = _of(request)
        self._waiting[kind][request.task] += work

    def leave(self, request: Request) -> None:
        """It has ended."""
        kind, work = _of(request)
        waiting = self._waiting[kind]
        waiting[request.task] -= work
        if not waiting[request.task]:
            del waiting[request.task]


def _times(turns: float | None, size: int, running: int = 0) -> int | None:
    return None if turns is None else max(1, round((turns + running) * size))


def _of(request: Request) -> tuple[Kind, int]:
    generates = isinstance(request.params, SamplingParams)
    return generates, 1 if generates else max(1, len(request.token_ids))
