"""What the clients of a storm ask: whom, by which reference, and what."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from multigraft_loadtest.popularity import shares
from multigraft_loadtest.storm.ledger import PRODUCTION, Ledger, TaskBook
from multigraft_loadtest.texts import Lengths, random_texts
from multigraft_loadtest.workload import Request

POPULARITY = "zipf:0.5"
"""All tasks are asked often, so that they push each other out of the slots."""

BY_NUMBER, BY_ALIAS, STICKY = 0.1, 0.1, 0.3
"""The shares of requests that name a version, that name another alias, and that have a key."""

HOT, HOT_SECONDS = 0.95, 5.0
"""The share of the hot task, and how long it is one, where servers merge."""

KEYS = 8
TEXTS = {"encoder": 8, "decoder": 2}
"""Texts of one classification."""

WORDS = Lengths(2, 8)
TOKENS = Lengths(4, 12)


@dataclass(slots=True)
class Asking:
    """Endless requests of one client, by its seed and by what there is to ask at the time.

    With a `clock` one task has most of the requests for some seconds, and then another one.
    """

    ledger: Ledger
    family: str
    seed: int
    clock: Callable[[], float] | None = None

    def requests(self) -> Iterator[Request]:
        draw, texts = random.Random(f"storm {self.seed}"), random_texts(WORDS, self.seed)
        books = list(self.ledger.values())
        weights = shares(POPULARITY, len(books))
        while True:
            (book,) = draw.choices(books, weights)
            if self.clock is not None and draw.random() < HOT:
                book = books[int(self.clock() / HOT_SECONDS) % len(books)]
            count = TEXTS[self.family] if book.kind == "classification" else 1
            tokens = TOKENS.draw(draw) if book.kind == "generation" else 0
            sticky = f"key {draw.randrange(KEYS)}" if draw.random() < STICKY else None
            asked = tuple(islice(texts, count))
            yield Request(0, book.kind, _reference(book, draw), asked, tokens, sticky=sticky)


def _reference(book: TaskBook, draw: random.Random) -> str:
    chance = draw.random()
    others = [name for name in book.aliases if name != PRODUCTION]
    if chance < BY_NUMBER and book.live:
        return f"{book.name}@{draw.choice(book.live)}"
    if chance < BY_NUMBER + BY_ALIAS and others:
        return f"{book.name}@{draw.choice(others)}"
    return book.name
