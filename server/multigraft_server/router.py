"""From a reference to a call: name, version, lease; and the checks of type and length."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from multigraft_adapters.bases.spec import BaseSpec
from multigraft_adapters.errors import ContextLengthError, MultigraftError, OverloadedError, TaskTypeMismatchError
from multigraft_adapters.methods import virtual_tokens
from multigraft_adapters.registry import Registry, Routed, Version, parse_reference, point_of
from multigraft_adapters.registry.names import unknown_task
from multigraft_server.access.callers import ANYONE, Caller
from multigraft_server.calls import Call, Target, Terms, outcome_of
from multigraft_server.leases import Leases
from multigraft_server.metrics import UNKNOWN, Metrics
from multigraft_server.trails import TRAIL, note_call

DEFAULT_TERMS = Terms()
GENERATES = "text-generation"


class Router:
    """Finds out who answers a reference, once, when the request is admitted."""

    def __init__(
        self,
        spec: BaseSpec,
        registry: Registry,
        leases: Leases,
        metrics: Metrics,
        *,
        check_room: Callable[[str, bool], None],
        max_length: int,
        timeout_seconds: float,
    ) -> None:
        self.spec = spec
        self._registry = registry
        self._leases = leases
        self._metrics = metrics
        self._check_room = check_room
        self._max_length = max_length
        self._timeout_seconds = timeout_seconds

    async def open(self, ref: str, terms: Terms = DEFAULT_TERMS) -> Call:
        """Resolve the reference and take a lease; the caller closes the call.

        Of a split, a sticky key always gets the same version; without one each request is drawn. The deadline is
        the server's, or the caller's where that is earlier.

        Raises TaskNotFoundError, VersionNotFoundError or InvalidRequestError, counted as `__unknown__`, and
        OverloadedError where it would wait too long: before its input costs anything.
        """
        arrival = time.monotonic()
        try:
            self._check(ref, terms.caller)
            target = await self._draw(ref, terms.sticky)
        except MultigraftError as error:
            self._metrics.request(UNKNOWN, outcome_of(error), time.monotonic() - arrival)
            raise
        return self._begin(target, arrival, terms)

    def refuse_when_full(self, ref: str, caller: Caller) -> None:
        """Raises and counts the OverloadedError that `open` would, where the task is known without a read of the
        registry; otherwise does nothing, and leaves every other refusal to `open`. Takes microseconds."""
        arrival = time.monotonic()
        try:
            self._check(ref, caller)
            task, selector = parse_reference(ref, self.spec.name)
        except MultigraftError:
            return
        routed = self._registry.kept(task, selector) if task is not None else None
        if routed is None:
            return
        version = routed.heaviest
        try:
            self._check_room(version.task, version.task_type == GENERATES)
        except OverloadedError as error:
            if TRAIL.get() is None:
                self._metrics.request(version.task, outcome_of(error), time.monotonic() - arrival)
            else:
                self._call(Target(ref, version.task, version), arrival, Terms(caller=caller)).close(error)
            raise
        except MultigraftError:
            return

    def _begin(self, target: Target, arrival: float, terms: Terms) -> Call:
        call = self._call(target, arrival, terms)
        with call.closed_on_error():
            if target.task_type is not None:
                self._check_room(target.task, target.task_type == GENERATES)
        return call

    def _call(self, target: Target, arrival: float, terms: Terms) -> Call:
        lease = self._leases.acquire(target.task, target.number)
        seconds = min(self._timeout_seconds, terms.timeout_seconds or self._timeout_seconds)
        call = Call(target, lease, self._metrics, arrival, arrival + seconds, terms)
        note_call(call)
        return call

    def resolve(self, ref: str, caller: Caller = ANYONE) -> Target:
        """Who answers the reference now, most often where it is split. Reads the registry; raises as `open`."""
        self._check(ref, caller)
        if parse_reference(ref, self.spec.name).task is None:
            return Target(ref, self.spec.name, None)
        version = self._registry.resolve(ref)
        return Target(ref, version.task, version)

    def _check(self, ref: str, caller: Caller) -> None:
        """Raises TaskNotFoundError for what the caller may not ask, as if it did not exist."""
        task = parse_reference(ref, self.spec.name).task
        may = caller.may_infer_base(self.spec.name) if task is None else caller.may_infer(task)
        if not may:
            raise unknown_task(task or self.spec.name, ())

    async def _draw(self, ref: str, sticky: str | None) -> Target:
        task, selector = parse_reference(ref, self.spec.name)
        if task is None:
            return Target(ref, self.spec.name, None)
        routed = self._registry.kept(task, selector)
        if routed is None:
            # Not on a tokeniser's thread: those go on while a database keeps one waiting.
            routed = await asyncio.to_thread(self._registry.look_up, task, selector)
        return Target(ref, task, _pick(routed, task, sticky))

    def check_type(self, target: Target, wanted: str, route: str) -> None:
        """Raises TaskTypeMismatchError unless the target is of the wanted task type.

        The bare base of texts passes as `feature-extraction` and, if it is a decoder, as `text-generation`.
        """
        if target.task_type == wanted:
            return
        if target.version is not None:
            raise TaskTypeMismatchError(
                f"task {target.task!r} is of type {target.task_type}; {route} serves {wanted}", param="model"
            )
        if self.spec.image is not None:
            raise TaskTypeMismatchError(
                f"the base {target.task!r} reads images, and {route} takes text: its tasks of type "
                "image-classification answer on their predict route",
                param="model",
            )
        if wanted == GENERATES and self.spec.family != "decoder":
            raise TaskTypeMismatchError(
                f"the base {target.task!r} is an encoder: it embeds, but does not generate", param="model"
            )
        if wanted not in (GENERATES, "feature-extraction"):
            raise TaskTypeMismatchError(f"the bare base {target.task!r} serves no {wanted}", param="model")

    def longest_input(self, target: Target) -> int:
        """How many tokens one row of its adapter, or of the base, may have."""
        room = self._room(target)
        own = target.version.manifest.max_length if target.version else None
        return min(own or room, room)

    def check_input_length(self, target: Target, num_tokens: int, param: str = "inputs") -> None:
        """Raises ContextLengthError when an input to pool is longer than its adapter or the base takes."""
        limit = self.longest_input(target)
        if num_tokens > limit:
            raise ContextLengthError(
                f"the input has {num_tokens} tokens; {target.task!r} takes at most {limit}", param=param
            )

    def answer_tokens(
        self, target: Target, num_prompt: int, wanted: int | None, default: int, param: str = "inputs"
    ) -> int:
        """How many tokens an answer may have: `wanted`, else `default` or what the context leaves.

        Raises ContextLengthError when the prompt and the tokens asked for do not fit the base's context.
        """
        context = self._room(target)
        room = context - num_prompt
        if room < 1 or (wanted is not None and wanted > room):
            asked = f" and {wanted} tokens were asked for" if wanted is not None else ""
            raise ContextLengthError(
                f"the prompt has {num_prompt} tokens{asked}; {target.task!r} has room for {context}",
                param=param,
            )
        return min(default, room) if wanted is None else wanted

    def _room(self, target: Target) -> int:
        """The base's context, less what the adapter's virtual tokens take of it."""
        return self._max_length - (virtual_tokens(target.version.manifest) if target.version else 0)


def _pick(routed: Routed, task: str, sticky: str | None) -> Version:
    if not routed.is_split:
        return routed.heaviest
    return routed.pick(point_of(task, sticky) if sticky else random.random())
