"""What there is of one kind of thing, by name: the methods, the kinds of head. Each is one registration."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


class Catalogue(Mapping[str, T]):
    """Entries by name; `keys_of` gives what else an entry is found by, which no two share."""

    def __init__(self, what: str, keys_of: Callable[[T], Collection[str]]) -> None:
        self._what = what
        self._keys_of = keys_of
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> None:
        """Raises ValueError when the name is not lower case, or it or one of the entry's keys is taken."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a {self._what}'s name: lower-case letters, digits and _")
        keys = list(self._keys_of(entry))
        if name in self._entries or any(self.of(key) is not None for key in keys):
            raise ValueError(f"the {self._what} {name!r} ({', '.join(keys)}) is already registered")
        self._entries[name] = entry

    def of(self, key: object) -> T | None:
        """The entry that is found by a key, if there is one."""
        return next((entry for entry in self._entries.values() if key in self._keys_of(entry)), None)

    def __getitem__(self, name: str) -> T:
        """Raises KeyError naming those that exist."""
        if name not in self._entries:
            raise KeyError(f"no {self._what} {name!r}; there are {', '.join(sorted(self._entries))}")
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
