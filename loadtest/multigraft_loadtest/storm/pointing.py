"""The operations that move aliases, and pins.

Each returns whether it was refused as it should be; None when there was nothing to do.
"""

from __future__ import annotations

import asyncio

from multigraft_loadtest.storm.act import UNKNOWN, Act, UnexpectedAnswerError, body_of
from multigraft_loadtest.storm.ledger import PRODUCTION

CANARY = "canary"
SPLITS = (0.1, 0.5, 0.75)
"""Shares of the first of two versions."""


async def promote(act: Act) -> bool | None:
    await act.point(PRODUCTION, {act.means.draw.choice(act.book.live): 1.0})
    return False


async def canary(act: Act) -> bool | None:
    await act.point(CANARY, {act.means.draw.choice(act.book.live): 1.0})
    return False


async def promote_stale(act: Act) -> bool | None:
    """With a revision that the alias has no longer, it is refused."""
    body = body_of({act.means.draw.choice(act.book.live): 1.0})
    answer = await act.http.put(
        f"{act.route}/aliases/{PRODUCTION}", json=body, headers={"if-match": '"999999999"'}
    )
    act.check(answer, 409)
    return True


async def race(act: Act) -> bool | None:
    """Two promotions at once from the same revision, to versions that are not the present ones: one wins."""
    alias = act.book.alias(PRODUCTION)
    others = [number for number in act.book.live if {number: 1.0} != alias.weights]
    if len(others) < 2 or alias.revision == UNKNOWN:
        return None
    rivals = act.means.draw.sample(others, 2)
    ways = [(act.process, act.http), act.means.draw.choice(act.means.running())]
    headers = {"if-match": f'"{alias.revision}"'}
    puts = [
        http.put(f"{act.route}/aliases/{PRODUCTION}", json={"version": version}, headers=headers)
        for (_, http), version in zip(ways, rivals, strict=True)
    ]
    sent_s = act.means.clock()
    answers = await asyncio.gather(*puts)
    done_s = act.means.clock()
    for answer in answers:
        act.check(answer, 200, 409)
    won = [place for place, answer in enumerate(answers) if answer.status_code == 200]
    if len(won) != 1:
        raise UnexpectedAnswerError(f"{len(won)} of two promotions at once were accepted")
    alias.changed({rivals[won[0]]: 1.0}, sent_s, done_s, ways[won[0]][0])
    act.agree(alias, answers[won[0]].json())
    return False


async def rollback(act: Act) -> bool | None:
    """Back to the state before; refused where there is none, or where a version of it is retired."""
    alias = act.book.alias(PRODUCTION)
    before = alias.trail[-2] if len(alias.trail) > 1 else None
    sent_s = act.means.clock()
    answer = await act.http.post(f"{act.route}/rollback", json={})
    if before is None or not set(before) <= set(act.book.live):
        act.check(answer, 409)
        return True
    told = act.check(answer, 200)
    alias.rolled_back(sent_s, act.means.clock(), act.process)
    act.agree(alias, told)
    return False


async def split(act: Act) -> bool | None:
    """Production, or the canary, over two versions."""
    if len(act.book.live) < 2:
        return None
    first, second = act.means.draw.sample(act.book.live, 2)
    share = act.means.draw.choice(SPLITS)
    alias = act.means.draw.choice((PRODUCTION, PRODUCTION, CANARY))
    await act.point(alias, {first: share, second: 1 - share})
    return False


async def pin(act: Act) -> bool | None:
    """Of all tasks at most one is pinned: this one, or that one no longer."""
    if act.means.pinned is not None:
        name, act.means.pinned = act.means.pinned, None
        act.check(await act.http.delete(f"/v1/tasks/{name}/pin"), 200)
        return False
    answer = await act.http.post(f"{act.route}/pin")
    act.check(answer, 200, 409)
    if answer.status_code == 200:
        act.means.pinned = act.book.name
    return answer.status_code == 409
