"""One step after another: plan, place adapters, run the base, answer."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from multigraft_adapters.errors import (
    AdapterLoadError,
    ContextLengthError,
    DeadlineError,
    MultigraftError,
    RequestCancelledError,
    StepFailedError,
)
from multigraft_server.engine import out_of_memory
from multigraft_server.engine.device_tier import DeviceTier
from multigraft_server.engine.emitting import emit
from multigraft_server.engine.heads import PoolingRow, pooling_answers
from multigraft_server.engine.host_tier import HostAdapter, HostTier
from multigraft_server.engine.merge_costs import StepSeen
from multigraft_server.engine.merging import Merger
from multigraft_server.engine.observer import Observer
from multigraft_server.engine.parked import ParkedRequests
from multigraft_server.engine.passes import Hot, Passes
from multigraft_server.engine.plan import Row, StepPlan
from multigraft_server.engine.pooling import slot_groups
from multigraft_server.engine.prefix_store import PrefixStore
from multigraft_server.engine.requests import (
    BASE_DIGEST,
    EngineSnapshot,
    Event,
    Failed,
    Finished,
    FinishReason,
    Pooled,
    Request,
    SamplingParams,
)
from multigraft_server.engine.runner import Runner
from multigraft_server.engine.sampler import sample
from multigraft_server.engine.scheduler import Scheduler
from multigraft_server.engine.tiers import Loaded, Tiers
from multigraft_server.engine.work import WorkLog

logger = logging.getLogger(__name__)


class Engine:
    """All state of one serving process; every method runs on one thread (see `loop.EngineLoop`).

    Each accepted request ends exactly once: its sink gets a `Finished` or a `Failed` as the last event.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        host: HostTier,
        device: DeviceTier,
        merger: Merger,
        prefixes: PrefixStore | None,
        observer: Observer,
        budget: out_of_memory.StepBudget,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._host = host
        self._device = device
        self.merger = merger
        self._passes = Passes(runner, clock, None if merger.is_off else WorkLog())
        self._tiers = Tiers(host, device, scheduler.slots)
        self._prefixes = prefixes
        self._observer = observer
        self._budget = budget
        self._clock = clock
        self._parked = ParkedRequests()
        self._prefix_queried = 0
        self._prefix_cached = 0
        self._steps = 0
        self._widest_step = 0

    @property
    def steps(self) -> int:
        """How many steps have been run."""
        return self._steps

    @torch.inference_mode()
    def prepare(self) -> None:
        """Measure what must be known before the first step: passes of the base, where an adapter may be merged."""
        if self._passes.work is not None and not self._runner.takes_images:
            self._passes.measure_base(self._runner.max_length)

    def take_steps(self) -> list[StepSeen]:
        """The steps since the last call, where an adapter may be merged; callable from any one thread."""
        return [] if self._passes.work is None else self._passes.work.take()

    def accept(self, request: Request) -> None:
        """Queue a request, or park it until its adapter is in host memory."""
        if request.digest == BASE_DIGEST:
            self._scheduler.add(request)
            return
        try:
            state = self._host.want(request.digest, self._clock())
        except MultigraftError as error:
            emit(request, Failed(error))
            return
        if state == "ready":
            self._queue(request)
        else:
            self._parked.add(request)

    def adapter_arrived(self, digest: str, result: HostAdapter | MultigraftError) -> None:
        """A load has ended: its requests are queued, or fail with it."""
        self._host.arrived(digest, result, self._clock())
        for request in self._parked.take_waiting_for(digest):
            if isinstance(result, MultigraftError):
                self._end(request, Failed(result))
            else:
                self._queue(replace(request, loaded=self._clock()))
        error = result if isinstance(result, MultigraftError) else None
        self._tiers.tell(digest, error)
        self.merger.arrived(digest, error)

    def cancel(self, request_id: str, error: MultigraftError | None = None) -> None:
        """End a request, because its caller is gone or for the reason given; it may have ended already."""
        request = self._scheduler.remove(request_id) or self._parked.take(request_id)
        if request is not None:
            self._end(request, Failed(error or RequestCancelledError("the request was cancelled")))

    def fetch_ahead(self, digest: str, done: Loaded) -> None:
        """As `Tiers.fetch_ahead`."""
        self._tiers.fetch_ahead(digest, done, self._clock())

    def keep(self, digests: frozenset[str]) -> None:
        """As `Tiers.keep`."""
        self._tiers.keep(digests, self._clock())

    def let_go(self, digests: Iterable[str]) -> None:
        """As `Tiers.let_go`."""
        leaving = tuple(digests)
        self.merger.let_go(leaving)
        self._tiers.let_go(leaving)

    @torch.inference_mode()
    def step(self) -> bool:
        """Run one step; False when there was nothing to do."""
        has_tended = self._tiers.tend(now := self._clock())
        self._scheduler.limits = self._budget.limits(now)
        plan = self._scheduler.plan(now)
        self._end_expired(plan)
        placements = plan.placements
        plan = self._place(plan)
        if not plan.rows:
            return has_tended or bool(placements)
        started = self._clock()
        try:
            self._restore(plan)
            self._passes.hot = self._hot()
            generated = self._compute(plan)
        except Exception as error:
            self._fail_step(plan, error)
            return True
        self._observe(plan, started, generated)
        return True

    def fail_all(self, error: MultigraftError) -> None:
        """End every request with an error; the engine keeps none."""
        open_requests = [row.request for row in self._scheduler.running] + self._scheduler.waiting
        open_requests += self._parked.take_all()
        for request in open_requests:
            self._scheduler.remove(request.id)
            self._end(request, Failed(error))
        self._tiers.tell_all(error)

    def snapshot(self) -> EngineSnapshot:
        """The engine's state now."""
        running = self._scheduler.running
        waiting = Counter(self._scheduler.waiting_by_task())
        waiting.update(request.task for request in self._parked)
        slots, kv, prefixes = self._scheduler.slots, self._scheduler.kv, self._scheduler.prefixes
        return EngineSnapshot(
            running=len(running),
            waiting=waiting.total(),
            waiting_by_task=dict(waiting),
            running_by_task=dict(Counter(row.request.task for row in running)),
            slots=slots.digests(),
            num_slots=slots.num_slots,
            host_digests=self._host.digests(),
            kv_tokens_used=kv.used_tokens,
            kv_tokens_capacity=kv.capacity_tokens,
            prefix_tokens_used=prefixes.used_tokens if prefixes else 0,
            prefix_tokens_capacity=prefixes.capacity_tokens if prefixes else 0,
            prefix_queried_tokens=self._prefix_queried,
            prefix_cached_tokens=self._prefix_cached,
            bytes=self._bytes(),
            kernels=self._runner.kernels,
            slot_bytes=slots.used_bytes,
            slot_budget_bytes=slots.budget_bytes,
            host_budget_bytes=self._host.budget_bytes,
            steps=self._steps,
            step_tokens=self._scheduler.limits.max_step_tokens,
            widest_step_adapters=self._widest_step,
            loading=self._host.loading(),
            failed_loads={digest: failed.error.message for digest, failed in self._host.failed().items()},
            merge=self._passes.told(self.merger.snapshot()),
        )

    def check_integrity(self) -> None:
        """Raise IntegrityError when the books of any owner do not add up."""
        self._scheduler.check_integrity()
        self._host.check_integrity()
        self._device.check_integrity()
        self.merger.check_integrity()

    def close(self) -> None:
        """End the engine's helpers."""
        self.merger.close()
        self._host.close()

    def _bytes(self) -> dict[str, int]:
        return {
            "weights": self._runner.weight_bytes,
            "merged_weights": self.merger.num_bytes,
            "banks": self._device.num_bytes,
            "heads": self._device.head_bytes,
            "kv_cache": self._runner.kv_bytes,
            "prefix_cache": self._prefixes.num_bytes if self._prefixes else 0,
            "host": self._host.num_bytes,
        }

    def _hot(self) -> Hot | None:
        """The merged weights, where their adapter is in a slot."""
        weights = self.merger.weights
        slot = None if weights is None else self._scheduler.slots.slot_of(weights.digest)
        return None if weights is None or slot is None else Hot(weights, slot)

    def _queue(self, request: Request) -> None:
        """Hand a request whose adapter is in host memory to the scheduler, with its virtual tokens."""
        adapter, budget = self._host.get(request.digest), self._scheduler.slots.budget_bytes
        virtual = adapter.delta.virtual
        if budget is not None and adapter.num_bytes > budget:
            message = f"adapter {request.digest} needs {adapter.num_bytes} bytes of the device's {budget}"
            self._end(request, Failed(AdapterLoadError(message)))
            return
        if virtual.count == 0:
            self._scheduler.add(replace(request, adapter_bytes=adapter.num_bytes))
            return
        answer = request.params.max_tokens if isinstance(request.params, SamplingParams) else 0
        total, most = virtual.count + len(request.token_ids) + answer, self._runner.max_length
        if total > most:
            message = f"with the adapter's {virtual.count} virtual tokens it needs {total} tokens of {most}"
            self._end(request, Failed(ContextLengthError(message)))
        else:
            self._scheduler.add(replace(request, virtual=virtual, adapter_bytes=adapter.num_bytes))

    def _place(self, plan: StepPlan) -> StepPlan:
        """Write the slots. Rows whose adapter could not be written end; the others are left of the plan."""
        failed = self._tiers.place(plan.placements)
        if not failed:
            return plan
        for row in plan.admitted:
            error = failed.get(row.request.digest)
            if error is not None and self._scheduler.remove(row.request.id) is not None:
                self._end(row.request, Failed(StepFailedError(f"its adapter could not be written: {error}")))
        for digest in failed:
            self._scheduler.slots.drop(digest)
        return replace(
            plan,
            rows=tuple(part for part in plan.rows if part.row.request.digest not in failed),
            admitted=tuple(row for row in plan.admitted if row.request.digest not in failed),
            placements=tuple(placement for placement in plan.placements if placement.digest not in failed),
        )

    def _compute(self, plan: StepPlan) -> int:
        """Answer the rows, in two halves where memory does not suffice; how many tokens were generated."""
        try:
            hidden = self._passes.run(plan.rows)
        except Exception as error:
            if not out_of_memory.is_out_of_memory(error):
                raise
            logger.warning("a step over %d tokens ran out of memory: %s", plan.num_tokens, error)
        else:
            return self._answer_rows(plan, hidden)
        self._observer.out_of_memory()
        self._budget.shrink(plan.num_tokens, self._clock())
        out_of_memory.free_memory()
        halves = (replace(plan, rows=rows, placements=()) for rows in out_of_memory.halves(plan.rows))
        return sum(self._compute_half(half) for half in halves)

    def _compute_half(self, plan: StepPlan) -> int:
        try:
            return self._answer_rows(plan, self._passes.run(plan.rows))
        except Exception as error:
            self._fail_step(plan, error)
            return 0

    def _answer_rows(self, plan: StepPlan, hidden: Tensor) -> int:
        self._advance(plan)
        self._answer_pooling_rows(plan, hidden)
        return self._extend_generating_rows(plan, hidden)

    def _advance(self, plan: StepPlan) -> None:
        for part in plan.rows:
            self._scheduler.advance(part)
            if not part.is_decode:
                self._save(part.row)

    def _restore(self, plan: StepPlan) -> None:
        """Copy what the prefix cache has into the rows that begin."""
        for row in plan.admitted:
            if self._prefixes is None or row.chain is None or row.kv is None:
                continue
            if row.num_restored:
                self._prefixes.restore(row.chain.places(row.num_restored), row.kv)
            queried, cached = len(row.request.token_ids), row.num_cached
            self._prefix_queried += queried
            self._prefix_cached += cached
            self._observer.prefix_lookup(queried_tokens=queried, cached_tokens=cached)

    def _save(self, row: Row, *, has_ended: bool = False) -> None:
        for blocks in self._scheduler.saves(row, has_ended=has_ended):
            assert self._prefixes is not None and row.kv is not None  # rows with a chain have both
            self._prefixes.save(blocks, row.kv)

    def _answer_pooling_rows(self, plan: StepPlan, hidden: Tensor) -> None:
        parts = plan.spans(lambda part: part.row.pooling is not None)
        rows = [PoolingRow(part.row, start, stop) for part, start, stop in parts]
        began = self._clock()
        for row, values in pooling_answers(hidden, rows, self._device.head, self._passes.base_pooler):
            self._answer(row, values, began)

    def _extend_generating_rows(self, plan: StepPlan, hidden: Tensor) -> int:
        parts = plan.spans(lambda part: part.row.sampling is not None and part.ends_pending)
        if not parts:
            return 0
        rows = [part.row for part, _, _ in parts]
        groups = slot_groups([row.slot for row in rows])
        logits = self._passes.logits(hidden[[stop - 1 for _, _, stop in parts]], groups)
        for row, token in zip(rows, sample(logits, rows), strict=True):
            reason = self._scheduler.append(row, token.token_id)
            is_first = row.num_generated == 1
            emit(row.request, replace(token, cached_tokens=row.num_cached) if is_first else token)
            if reason is not None:
                self._finish(row, reason)
        return len(rows)

    def _answer(self, row: Row, values: Tensor, head: float) -> None:
        emit(row.request, Pooled(values.cpu().numpy()))
        self._finish(row, "stop", head)

    def _finish(self, row: Row, reason: FinishReason, head: float | None = None) -> None:
        self._save(row, has_ended=True)
        self._scheduler.finish(row)
        self._end(row.request, Finished(reason, row.timing(self._clock(), head)))

    def _end(self, request: Request, event: Event) -> None:
        if request.digest != BASE_DIGEST:
            self._host.release(request.digest)
        emit(request, event)

    def _end_expired(self, plan: StepPlan) -> None:
        for request in [
            *self._parked.take_late(self._clock()),
            *plan.expired,
            *(row.request for row in plan.expired_rows),
        ]:
            self._end(request, Failed(DeadlineError("the deadline passed before the answer was complete")))

    def _fail_step(self, plan: StepPlan, error: Exception) -> None:
        """End the step's rows and forget what it placed: a half-written slot must never answer."""
        logger.error("a step over %d rows failed", len(plan.rows), exc_info=error)
        failure = out_of_memory.failure_of(error)
        for part in plan.rows:
            if self._scheduler.remove(part.row.request.id) is not None:
                self._end(part.row.request, Failed(failure))
        for placement in plan.placements:
            self._tiers.forget(placement)

    def _observe(self, plan: StepPlan, started: float, generated: int) -> None:
        self._steps += 1
        self._widest_step = max(self._widest_step, plan.num_adapters)
        self._observer.step(
            phase=plan.phase,
            seconds=self._clock() - started,
            rows=len(plan.rows),
            adapters=plan.num_adapters,
            prompt_tokens=sum(part.count for part in plan.rows if not part.is_decode),
            generated_tokens=generated,
        )
