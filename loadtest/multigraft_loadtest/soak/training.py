"""Training jobs, one after another, as a caller of the server sees them."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from multigraft_loadtest.texts import Lengths, random_texts

ROWS, WORDS = 64, Lengths(4, 12)
EPOCHS = 2
POLL_S = 0.5
ENDED = ("succeeded", "failed", "cancelled")


@dataclass(slots=True)
class Trained:
    """How jobs ended, and what went wrong."""

    succeeded: int = 0
    unfinished: int = 0
    """Cancelled when the time was over."""
    problems: list[str] = field(default_factory=list)


async def train_in_turn(url: str, base: str, seconds: float, clock: Callable[[], float], seed: int) -> Trained:
    """Jobs that classify random texts by random labels, as versions of two tasks, until the time is over."""
    trained, number = Trained(), 0
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as http:
        while clock() < seconds:
            try:
                await _one(http, base, f"trained-{number % 2}", seed + number, seconds, clock, trained)
            except (httpx.HTTPError, KeyError) as error:
                trained.problems.append(f"job {number}: {error or type(error).__name__}")
                await asyncio.sleep(POLL_S)
            number += 1
    return trained


async def _one(
    http: httpx.AsyncClient,
    base: str,
    task: str,
    seed: int,
    seconds: float,
    clock: Callable[[], float],
    trained: Trained,
) -> None:
    files = {"file": ("rows.jsonl", _rows(seed))}
    file = (await http.post("/v1/files", data={"purpose": "fine-tune"}, files=files)).raise_for_status().json()
    body = {
        "model": base,
        "training_file": file["id"],
        "suffix": task,
        "seed": seed,
        "hyperparameters": {"n_epochs": EPOCHS},
        "metadata": {"multigraft.promote": "always"},
    }
    job = (await http.post("/v1/fine_tuning/jobs", json=body)).raise_for_status().json()
    route = f"/v1/fine_tuning/jobs/{job['id']}"
    while job["status"] not in ENDED and clock() < seconds:
        await asyncio.sleep(POLL_S)
        job = (await http.get(route)).raise_for_status().json()
    if job["status"] == "succeeded":
        trained.succeeded += 1
    elif job["status"] in ENDED:
        trained.problems.append(f"job {job['id']} {job['status']}: {job['error']}")
    else:
        trained.unfinished += 1
        await http.post(f"{route}/cancel")


def _rows(seed: int) -> bytes:
    draw, texts = random.Random(seed), random_texts(WORDS, seed)
    rows = ({"text": next(texts), "label": draw.choice(("one", "two"))} for _ in range(ROWS))
    return "\n".join(map(json.dumps, rows)).encode()
