"""The operations that merge tasks, where the servers are started to merge.

Each returns whether it was refused as it should be; None when there was nothing to do.
"""

from __future__ import annotations

from collections.abc import Sequence

from multigraft_loadtest.storm.act import Act, UnexpectedAnswerError


def merges(serve_options: Sequence[str]) -> bool:
    """Whether servers with these options merge anything."""
    chosen = [option.removeprefix("--merge=") for option in serve_options if option.startswith("--merge=")]
    chosen += [value for name, value in zip(serve_options, serve_options[1:], strict=False) if name == "--merge"]
    return bool(chosen) and chosen[-1] != "off"


async def merge(act: Act) -> bool | None:
    """Merge the task until further notice; refused where its method cannot be, or another wish comes between."""
    answer = await act.http.post(f"{act.route}/merge")
    told = act.check(answer, 200, 409)
    if answer.status_code == 409:
        if told["error"]["code"] != "merge_refused":
            raise UnexpectedAnswerError(f"it cannot be merged: {told['error']}")
        return True
    if act.book.by_digest(told["digest"]) is None:
        raise UnexpectedAnswerError(f"{told['digest']} was merged, which is no version of it")
    return False


async def merge_by_policy(act: Act) -> bool | None:
    """Leave it to the policy again."""
    act.check(await act.http.put("/v1/merge", json={"mode": "auto"}), 200)
    return False
