"""Names of tasks and aliases, and the references of requests: `topic`, `topic@3`, `topic@canary`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import NamedTuple

from multigraft_adapters.errors import InvalidRequestError, TaskNotFoundError, VersionNotFoundError

PRODUCTION = "production"
"""The alias that a bare task name means."""

MAX_LISTED = 5
"""How many existing names an error message lists."""

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
REFERENCE_PATTERN = r"^[^@\n][^@]*(@.+)?$"
"""The rules of names and references, as descriptions of the API tell them; a path drops a line's end."""
_NAME = re.compile(NAME_PATTERN)
_NAME_RULE = "1 to 64 of a-z, 0-9, '.', '_' and '-', the first a letter or a digit"
MAX_TAG_CHARS = 256
_DIGITS = re.compile(r"[0-9]+")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


class Reference(NamedTuple):
    """What a request names. `task` is None for the base; `selector` is a version's number or an alias."""

    task: str | None
    selector: int | str


def is_name(text: str) -> bool:
    """Whether a task or an alias can be called so; what cannot never reaches the database."""
    return _NAME.fullmatch(text) is not None


def check_task_name(name: str, base_name: str) -> None:
    """Raises InvalidRequestError (param `task`) unless `name` can name a task beside this base."""
    if not _NAME.fullmatch(name):
        raise InvalidRequestError(f"{name[:80]!r} is not a task name: {_NAME_RULE}", param="task")
    if name == base_name:
        raise InvalidRequestError(f"{name!r} is the base's name, a task must have another", param="task")


def check_alias_name(name: str) -> None:
    """Raises InvalidRequestError (param `alias`) unless `name` can name an alias; a number never can."""
    if not _NAME.fullmatch(name):
        raise InvalidRequestError(f"{name[:80]!r} is not an alias name: {_NAME_RULE}", param="alias")
    if _DIGITS.fullmatch(name):
        raise InvalidRequestError(f"{name!r} is not an alias name: it is all digits", param="alias")


def check_tag(name: str, value: str | None) -> None:
    """Raises InvalidRequestError (param `tag` or `value`) unless these can be a version's tag; None removes it."""
    if not _NAME.fullmatch(name):
        raise InvalidRequestError(f"{name[:80]!r} is not a tag's name: {_NAME_RULE}", param="tag")
    if value is not None and (len(value) > MAX_TAG_CHARS or "\0" in value):
        problem = f"a tag's value has at most {MAX_TAG_CHARS} characters, none of them NUL"
        raise InvalidRequestError(problem, param="value")


def parse_reference(ref: str, base_name: str) -> Reference:
    """Splits `task`, `task@3` or `task@alias`, each with an optional prefix `base:` or `<the base's name>:`.

    The base's own name gives `Reference(None, "production")`. Whether the task exists is not looked up here.
    Raises TaskNotFoundError when the prefix names another base, VersionNotFoundError for a version of the
    base or a number that no version can have, InvalidRequestError (param `task`) when a part is missing.
    """
    bare = _without_prefix(ref, base_name)
    if bare == base_name:
        return Reference(None, PRODUCTION)
    task, at, selector = bare.partition("@")
    if not task or (at and not selector):
        raise InvalidRequestError(
            f"{ref[:80]!r} is not a reference: task, task@version or task@alias", param="task"
        )
    if task == base_name:
        raise VersionNotFoundError(f"{task!r} is the base: it has no versions and no aliases", param="task")
    return Reference(task, _selector(task, selector) if at else PRODUCTION)


def unknown_task(name: str, existing: Iterable[str]) -> TaskNotFoundError:
    """The error for a task that does not exist: it lists close names, else the names that exist."""
    names = sorted(existing)
    close = difflib.get_close_matches(name.lower(), names, n=MAX_LISTED)
    message = f"no task is named {name[:80]!r}"
    if close:
        message += f"; did you mean {_listed(close, ' or ')}?"
    elif names:
        message += f"; the tasks are {_listed(names)}"
    else:
        message += "; there are no tasks yet"
    return TaskNotFoundError(message, param="task", near=close or names[:MAX_LISTED])


def unknown_selector(
    task: str, selector: int | str, versions: Iterable[int], aliases: Iterable[str]
) -> VersionNotFoundError:
    """The error for a version or alias that a task does not have: it lists those it has, newest first."""
    numbers, names = sorted(versions, reverse=True), sorted(aliases)
    wanted = f"version {selector}" if isinstance(selector, int) else f"alias {selector[:80]!r}"
    known = [f"the versions {_listed(numbers)}"] if numbers else []
    known += [f"the aliases {_listed(names)}"] if names else ["no aliases"]
    return VersionNotFoundError(
        f"task {task!r} has no {wanted}; it has {' and '.join(known)}",
        param="task" if isinstance(selector, str) else "version",
        versions=numbers[:MAX_LISTED],
        aliases=names[:MAX_LISTED],
    )


def _without_prefix(ref: str, base_name: str) -> str:
    if ref == base_name:
        return ref
    for prefix in (f"{base_name}:", "base:"):
        if ref.startswith(prefix):
            return ref[len(prefix) :]
    prefix, colon, _ = ref.partition(":")
    if colon:
        raise TaskNotFoundError(
            f"{ref[:80]!r} is for the base {prefix[:80]!r}, this server's base is {base_name!r}",
            param="task",
        )
    return ref


def _selector(task: str, text: str) -> int | str:
    if _NUMBER.fullmatch(text):
        return int(text)
    if _DIGITS.fullmatch(text):
        raise VersionNotFoundError(
            f"task {task!r} has no version {text[:20]}: versions count from 1", param="task"
        )
    return text


def _listed(names: Iterable[object], joint: str = ", ") -> str:
    shown = [repr(name) for name in names]
    text = joint.join(shown[:MAX_LISTED])
    return text if len(shown) <= MAX_LISTED else f"{text} and {len(shown) - MAX_LISTED} more"
