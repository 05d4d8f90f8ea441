"""Sends a workload to a server and records what becomes of it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from itertools import repeat
from time import perf_counter

from multigraft_loadtest.answers import error_text, read_outputs, read_stream, read_whole
from multigraft_loadtest.problems import LostAnswerError
from multigraft_loadtest.records import Record, Run
from multigraft_loadtest.targets import Target
from multigraft_loadtest.wire import Connections
from multigraft_loadtest.workload import Request, Workload

WARM_UP_CLIENTS = 16
Progress = Callable[[int], None]


class Client:
    """One server, asked as its target wants it. Every request ends in exactly one record, which has the outputs
    only if the client keeps them."""

    def __init__(
        self,
        url: str,
        target: Target,
        *,
        api_key: str | None = None,
        timeout_s: float = 600.0,
        keeps_outputs: bool = False,
    ) -> None:
        self._target = target
        self._keeps_outputs = keeps_outputs
        self._connections = Connections(url)
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout_s = timeout_s
        self._started = perf_counter()

    def start_clock(self, now: float) -> None:
        """Count the records' times from this moment of `perf_counter`."""
        self._started = now

    async def ask(self, request: Request) -> Record:
        """One request, sent at once."""
        return await self._ask(request, self._now())

    def close(self) -> None:
        """Close the connections that are idle."""
        self._connections.close()

    def run(self, workload: Workload, progress: Progress = lambda done: None) -> Run:
        """Warm up, then run the workload; `progress` is called with the number of answers so far."""
        return asyncio.run(self._run(workload, progress))

    async def _run(self, workload: Workload, progress: Progress) -> Run:
        records: list[Record] = []
        try:
            await self._closed(iter(workload.warm_up_requests()), WARM_UP_CLIENTS, None, records.append)
            records.clear()
            requests = workload.requests()
            if workload.num_requests is not None:
                requests = iter(list(requests))
            gc.collect()
            self._started = perf_counter()

            def keep(record: Record) -> None:
                records.append(record)
                progress(len(records))

            if workload.clients is None:
                await self._open(requests, keep)
            else:
                await self._closed(requests, workload.clients, workload.seconds, keep)
        finally:
            self.close()
        elapsed = max((record.ended_s for record in records), default=0.0)
        lag = max((record.sent_s - record.intended_s for record in records if workload.is_open), default=0.0)
        return Run(records, elapsed, lag)

    def _now(self) -> float:
        return perf_counter() - self._started

    async def _closed(
        self, requests: Iterator[Request], clients: int, seconds: float | None, keep: Callable[[Record], None]
    ) -> None:
        """So many clients; each takes the next request when it is free, until there is none or time is over."""
        self._started = perf_counter()

        async def ask_in_turn() -> None:
            while seconds is None or self._now() < seconds:
                request = next(requests, None)
                if request is None:
                    return
                keep(await self._ask(request, self._now()))

        await asyncio.gather(*(ask_in_turn() for _ in repeat(None, clients)))

    async def _open(self, requests: Iterator[Request], keep: Callable[[Record], None]) -> None:
        """Each request at its time, however many are under way."""

        async def ask(request: Request, intended_s: float) -> None:
            keep(await self._ask(request, intended_s))

        async with asyncio.TaskGroup() as group:
            for request in requests:
                intended_s = request.offset_s or 0.0
                await asyncio.sleep(max(0.0, intended_s - self._now()))
                group.create_task(ask(request, intended_s))

    async def _ask(self, request: Request, intended_s: float) -> Record:
        record = Record(request, intended_s)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._exchange(record)
        except LostAnswerError as error:
            record.fate, record.code, record.problem = "lost", "connection", str(error)
        except TimeoutError:
            record.fate, record.code = "lost", "timeout"
            record.problem = f"no answer within {self._timeout_s:.0f} s"
        record.ended_s = self._now()
        return record

    async def _exchange(self, record: Record) -> None:
        route, body = self._target.encode(record.request)
        record.sent_s = self._now()
        connection = await self._connections.take()
        try:
            sticky = record.request.sticky
            sent = self._headers if sticky is None else self._headers | {"x-multigraft-sticky": sticky}
            connection.send(self._connections.place.head(route, len(body), sent) + body)
            status, headers = await connection.head()
            record.headed_s = self._now()
            record.adapter = headers.get("x-multigraft-adapter")
            record.version = headers.get("x-multigraft-version")
            async with aclosing(connection.parts(headers)) as parts:  # type: ignore[type-var]
                await self._read(status, parts, record)
        except BaseException:
            connection.close()
            raise
        connection.can_be_kept = connection.can_be_kept and self._target.keeps_connections
        self._connections.give_back(connection)

    async def _read(self, status: int, parts: AsyncIterator[bytes], record: Record) -> None:
        if status != 200:
            record.fate, record.code = "failed", str(status)
            record.problem = error_text(await read_whole(parts))
        elif record.request.kind == "generation":
            await read_stream(parts, record, self._now)
        else:
            read_outputs(await read_whole(parts), record)
        if record.fate == "right":
            self._target.judge(record)
        if not self._keeps_outputs:
            record.outputs = []
