"""A client that goes on asking the base while tasks are trained and pushed, and counts what became of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import httpx

PAUSE_SECONDS = 2.0
TIMEOUT_SECONDS = 120.0
TEXTS = ("The parcel has arrived.", "How do I log in?", "Thank you very much.", "Where is my refund?")


class Background:
    """`answered` and `failed` requests so far; `slowest_seconds` of an answer; `problem` of the last failure."""

    def __init__(self) -> None:
        self.answered = 0
        self.failed = 0
        self.slowest_seconds = 0.0
        self.problem: str | None = None

    def count(self, http: httpx.Client, path: str, body: dict[str, Any]) -> None:
        """Send one request and count it."""
        started = time.perf_counter()
        try:
            http.post(path, json=body).raise_for_status()
        except httpx.HTTPError as error:
            self.failed += 1
            self.problem = str(error) or type(error).__name__
        else:
            self.answered += 1
            self.slowest_seconds = max(self.slowest_seconds, time.perf_counter() - started)


@contextmanager
def asking_in_background(url: str, api_key: str | None, base: str, *, chats: bool = True) -> Iterator[Background]:
    """Embed with the bare base and, if it `chats`, chat, one request after the other, until the block ends."""
    counts, stop = Background(), threading.Event()
    thread = threading.Thread(target=_ask, args=(url, api_key, base, chats, counts, stop), name="background")
    thread.start()
    try:
        yield counts
    finally:
        stop.set()
        thread.join()


def _ask(url: str, api_key: str | None, base: str, chats: bool, counts: Background, stop: threading.Event) -> None:
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    with httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_SECONDS, trust_env=False) as http:
        for text in cycle(TEXTS):
            message = {"role": "user", "content": text}
            if chats:
                counts.count(http, "/v1/chat/completions", {"model": base, "messages": [message], "max_tokens": 8})
            counts.count(http, "/v1/embeddings", {"model": base, "input": text})
            if stop.wait(PAUSE_SECONDS):
                return
