"""The faults. Each is injected, held for some seconds, and lifted; each returns when it is."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from multigraft_loadtest.faults import wall_clock
from multigraft_loadtest.faults.scene import Scene
from multigraft_loadtest.faults.traffic import Clock, Fault, Injected
from multigraft_loadtest.server import PRODUCTION

HOLD_S = 4.0
LOCK_S = 12.0
"""Longer than a writer waits for the registry."""
STALLED = 24

_Ask = Callable[[], int]
WEIGHTS = "adapter_model.safetensors"


async def kill(scene: Scene, clock: Clock) -> Injected:
    """SIGKILL, and a new process on the same data: recovery is from the kill on, its start included."""
    return await _restart(scene, clock, signal.SIGKILL)


async def stop(scene: Scene, clock: Clock) -> Injected:
    """SIGTERM, and a new process when the old one has ended."""
    return await _restart(scene, clock, signal.SIGTERM)


async def _restart(scene: Scene, clock: Clock, number: signal.Signals) -> Injected:
    uploaded = await asyncio.to_thread(scene.upload, "extra")
    injected = Injected(clock())
    injected.expect("an upload just before", uploaded, 201)
    await asyncio.to_thread(scene.kill, number)
    assert scene.child is not None
    injected.notes.append(f"exit code {scene.child.process.returncode} after {clock() - injected.lifted_s:.1f} s")
    await asyncio.to_thread(scene.start)
    return injected


async def full_disk(scene: Scene, clock: Clock) -> Injected:
    """No file of the server may become longer than 4 KiB: what it would write fails, what it has is readable."""
    before = resource.prlimit(scene.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(scene.pid, resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        found = [await asyncio.to_thread(scene.upload, "extra", PRODUCTION) for _ in range(2)]
        await asyncio.sleep(HOLD_S)
    finally:
        resource.prlimit(scene.pid, resource.RLIMIT_FSIZE, before)
    injected = Injected(clock())
    for status in found:
        injected.expect("an upload meanwhile", status, 503)
    injected.expect("an upload afterwards", await asyncio.to_thread(scene.upload, "extra", PRODUCTION), 201)
    return injected


async def corrupt_file(scene: Scene, clock: Clock) -> Injected:
    """A byte of a version's weights is changed on the disk before its first use."""
    weights, ask = await _cold_version(scene)
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    found = [await asyncio.to_thread(ask) for _ in range(2)]
    weights.write_bytes(content)
    injected = Injected(clock())
    for status in found:
        injected.expect("a request to it", status, 500)
    await _until_ok(ask, injected, clock)
    return injected


async def slow_store(scene: Scene, clock: Clock) -> Injected:
    """A version's weights are a pipe into which nothing is written for some seconds."""
    weights, ask = await _cold_version(scene)
    content = weights.read_bytes()
    weights.unlink()
    os.mkfifo(weights)
    asking = asyncio.create_task(asyncio.to_thread(ask))
    await asyncio.sleep(HOLD_S)
    lifted_s = clock()
    await asyncio.to_thread(weights.write_bytes, content)
    injected = Injected(lifted_s)
    injected.expect("the request that waited for it", await asking, 200)
    weights.unlink()
    weights.write_bytes(content)
    return injected


async def locked_registry(scene: Scene, clock: Clock) -> Injected:
    """Another process holds an exclusive transaction on the registry's database."""
    (file,) = scene.own.glob("registry.sqlite")
    with closing(sqlite3.connect(file, timeout=5, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        uploading = asyncio.create_task(asyncio.to_thread(scene.upload, "extra", PRODUCTION))
        await asyncio.sleep(LOCK_S)
        other.execute("ROLLBACK")
    injected = Injected(clock())
    # Where the verification takes long, the writer may still wait when the lock is gone.
    injected.expect("an upload meanwhile", await uploading, 503, 201)
    injected.expect("an upload afterwards", await asyncio.to_thread(scene.upload, "extra", PRODUCTION), 201)
    return injected


async def stalled_clients(scene: Scene, clock: Clock) -> Injected:
    """Clients that do not read what they asked for, that stop within a body, and within a head."""
    base = (await asyncio.to_thread(scene.call, "GET", "/v1/engine")).json()["base"]["name"]
    body = json.dumps({"model": base, "input": list(scene.texts) * 4}).encode()
    head = "POST /v1/embeddings HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    whole = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    before = await asyncio.to_thread(_descriptors, scene.pid)
    with ExitStack() as stack:
        for number in range(STALLED):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", scene.port))
            connection.sendall((whole, whole[:-10], whole[:40])[number % 3])
        await asyncio.sleep(1.0)
        meanwhile = await asyncio.to_thread(_descriptors, scene.pid)
        await asyncio.sleep(3 * HOLD_S)
        after = await asyncio.to_thread(_descriptors, scene.pid)
    injected = Injected(clock())
    injected.notes.append(
        f"descriptors of the server: {before}, with {STALLED} such clients {meanwhile}, then {after}"
    )
    if after - before > STALLED // 2:
        injected.problems.append("most of the stalled connections were not cut off")
    return injected


async def _cold_version(scene: Scene) -> tuple[Path, _Ask]:
    """A version that nobody has asked for: its weights' file, and how to ask it."""
    task = "cold"
    status = await asyncio.to_thread(scene.upload, task)
    assert status == 201, f"an upload was answered {status}"
    number = max(number for name, number in scene.acknowledged if name == task)

    def ask() -> int:
        return scene.call("POST", f"/v1/tasks/{task}@{number}/predict", json={"inputs": "a"}).status_code

    return scene.files_of(task, number) / WEIGHTS, ask


async def _until_ok(ask: _Ask, injected: Injected, clock: Clock) -> None:
    while (status := await asyncio.to_thread(ask)) != 200 and clock() < injected.lifted_s + 10:
        await asyncio.sleep(0.1)
    injected.expect(f"{clock() - injected.lifted_s:.1f} s after it was whole again", status, 200)


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


FAULTS: dict[str, Fault] = {
    "kill": kill,
    "stop": stop,
    "full-disk": full_disk,
    "corrupt-file": corrupt_file,
    "locked-registry": locked_registry,
    "slow-store": slow_store,
    "stalled-clients": stalled_clients,
    wall_clock.NAME: wall_clock.clock_jump,
}
MAY_LOSE = frozenset({"kill"})
"""What a killed process was computing is lost; its clients see the connection break."""
