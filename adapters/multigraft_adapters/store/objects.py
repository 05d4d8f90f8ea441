"""A store in an object store: `sha256/<ab>/<hex>/<copy>/` holds one copy of an adapter's three files."""

from __future__ import annotations

import re
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from obstore.exceptions import BaseError
from obstore.store import S3Store

from multigraft_adapters.artifact import ARTIFACT_FILES, MANIFEST_FILE
from multigraft_adapters.errors import IntegrityError, StoreUnavailableError
from multigraft_adapters.store.blobs import PLACE, ObjectBlobs
from multigraft_adapters.store.store import Store, Stored, check_content, hex_of, not_held

FRESH_S = 60.0
"""A copy this young counts as put now: another one of it is not written."""
LOOKS = 2
"""A copy that was discarded while it was read looks damaged, and is not there at the next look."""
RETRIES = 2
SLOWEST_TRANSFER = 10
"""How many times the time-out a whole request may take in which bytes go on coming."""

_KEY = re.compile(r"sha256/([0-9a-f]{2})/(\1[0-9a-f]{62})/([0-9a-f]{32})/([^/]+)")
_FILES = tuple(sorted(ARTIFACT_FILES, key=lambda name: name == MANIFEST_FILE))
"""In the order of their writing: the copy is complete, and seen, when its manifest is there."""


@dataclass(slots=True)
class _Copy:
    """One copy of an adapter, as it is listed."""

    path: str
    sizes: dict[str, int] = field(default_factory=dict)
    changed_at_s: float = 0.0
    """When the last of its files was written, in seconds since 1970 by the object store's clock."""

    @property
    def is_complete(self) -> bool:
        return MANIFEST_FILE in self.sizes


class ObjectStore(Store):
    """An adapter may have several copies, each under a name of its own, written once and never again.

    Whoever puts an adapter whose copies are older than `FRESH_S` writes another. So nobody who discards old
    copies can meet a new one, and no lock is needed that an object store does not have.
    """

    def __init__(self, objects: Any, url: str, now_s: Callable[[], float]) -> None:
        """Over an obstore store; use `ObjectStore.of_s3`."""
        self._objects = objects
        self._url = url
        self._now_s = now_s
        self.blobs = ObjectBlobs(objects, url, now_s)

    @classmethod
    def of_s3(cls, url: str, timeout_s: float, now_s: Callable[[], float] = time.time) -> ObjectStore:
        """The store at `s3://bucket/prefix`, by the endpoint and the credentials of the variables `AWS_*`.

        `now_s` is the clock (seconds since 1970) against which the object store's times are held: the two must
        agree to much less than a collection's grace time.
        """
        wait = timedelta(seconds=timeout_s)
        objects = S3Store.from_url(
            url,
            client_options={
                "allow_http": True,  # the endpoint's URL says whether it is
                "connect_timeout": wait,
                "read_timeout": wait,
                "timeout": wait * SLOWEST_TRANSFER,
            },
            retry_config={"max_retries": RETRIES, "retry_timeout": wait},
        )
        return cls(objects, url, now_s)

    def get(self, digest: str) -> dict[str, bytes]:
        digits = hex_of(digest)
        damage: IntegrityError | None = None
        for _ in range(LOOKS):
            copies = self._complete(digits) if digits else []
            if not copies:
                raise not_held(digest)
            for copy in copies:
                try:
                    files = self._read(digest, copy)
                    check_content(digest, files)
                    return files
                except IntegrityError as error:
                    damage = damage or error
        assert damage is not None  # there was a copy
        raise damage

    def __contains__(self, digest: str) -> bool:
        digits = hex_of(digest)
        return bool(digits and self._complete(digits))

    def stored(self) -> list[Stored]:
        found = []
        for digits, copies in sorted(self._copies("sha256/")[0].items()):
            complete = _newest_first(copies)
            if complete:
                num_bytes = sum(sum(copy.sizes.values()) for copy in copies)
                found.append(Stored(f"sha256:{digits}", num_bytes, self._age_s(complete[0])))
        return found

    def discard(self, digest: str, older_than_s: float) -> bool:
        digits = hex_of(digest)
        copies = self._complete(digits) if digits else []
        for copy in reversed(copies):
            if self._age_s(copy) < older_than_s:
                return False
            self._delete(copy)
        return True

    def remains(self, older_than_s: float) -> list[str]:
        return [copy.path for copy in self._left(older_than_s)]

    def sweep(self, older_than_s: float) -> list[str]:
        left = self._left(older_than_s)
        for copy in left:
            self._delete(copy)
        return [copy.path for copy in left]

    def strays(self) -> list[str]:
        return sorted(key for key in self._copies(None)[1] if not key.startswith(f"{PLACE}/"))

    def _keep(self, digest: str, files: Mapping[str, bytes]) -> None:
        digits = hex_of(digest)
        assert digits is not None  # `put` sees to it
        if self._has_fresh(digest, digits):
            return
        path = f"sha256/{digits[:2]}/{digits}/{uuid.uuid4().hex}"
        for name in _FILES:
            with self._told(f"adapter {digest} cannot be kept"):
                self._objects.put(f"{path}/{name}", files[name], use_multipart=False)

    def _has_fresh(self, digest: str, digits: str) -> bool:
        fresh = [copy for copy in self._complete(digits) if self._age_s(copy) < FRESH_S]
        return any(self._is_intact(digest, copy) for copy in fresh)

    def _is_intact(self, digest: str, copy: _Copy) -> bool:
        try:
            check_content(digest, self._read(digest, copy))
        except IntegrityError:
            return False
        return True

    def _read(self, digest: str, copy: _Copy) -> dict[str, bytes]:
        """A copy's files; one that is not there is left out."""
        files: dict[str, bytes] = {}
        for name in copy.sizes:
            with self._told(f"adapter {digest} cannot be read"):
                try:
                    files[name] = self._objects.get(f"{copy.path}/{name}").bytes().to_bytes()
                except FileNotFoundError:
                    continue
        return files

    def _age_s(self, copy: _Copy) -> float:
        return max(0.0, self._now_s() - copy.changed_at_s)

    def _complete(self, digits: str) -> list[_Copy]:
        copies, _ = self._copies(f"sha256/{digits[:2]}/{digits}/")
        return _newest_first(copies.get(digits, []))

    def _left(self, older_than_s: float) -> list[_Copy]:
        """Copies that writers have not completed, and older ones of adapters that have a sound new one."""
        left = []
        for digits, copies in self._copies("sha256/")[0].items():
            old = [copy for copy in copies if self._age_s(copy) >= older_than_s]
            left += [copy for copy in old if not copy.is_complete]
            complete = _newest_first(copies)
            replaced = [copy for copy in complete[1:] if copy in old]
            if replaced and complete[0] in old and self._is_intact(f"sha256:{digits}", complete[0]):
                left += replaced
        return left

    def _delete(self, copy: _Copy) -> None:
        """The manifest first: from then on the copy is seen no more."""
        for name in sorted(copy.sizes, key=lambda name: name != MANIFEST_FILE):
            with self._told("a copy of an adapter cannot be discarded"):
                self._objects.delete(f"{copy.path}/{name}")

    def _copies(self, prefix: str | None) -> tuple[dict[str, list[_Copy]], list[str]]:
        """The copies by the digests' hex digits, and the keys that are of no copy."""
        copies: dict[str, dict[str, _Copy]] = defaultdict(dict)
        strays: list[str] = []
        for found in self._listed(prefix):
            match = _KEY.fullmatch(found["path"])
            if match is None:
                strays.append(found["path"])
                continue
            path, _, name = found["path"].rpartition("/")
            copy = copies[match[2]].setdefault(match[3], _Copy(path))
            copy.sizes[name] = found["size"]
            copy.changed_at_s = max(copy.changed_at_s, found["last_modified"].timestamp())
        return {digits: list(of_digest.values()) for digits, of_digest in copies.items()}, strays

    def _listed(self, prefix: str | None) -> Iterator[Any]:
        with self._told("the store cannot be listed"):
            for page in self._objects.list(prefix):
                yield from page

    @contextmanager
    def _told(self, problem: str) -> Iterator[None]:
        """What the object store refuses, or does not answer, as one sentence without its address.

        The reason, in the error's data, is for those who run the server.
        """
        try:
            yield
        except (BaseError, OSError) as error:
            reason = str(error).partition("\n")[0][:300]
            told = f"{self._url}: {reason}"
            raise StoreUnavailableError(f"{problem}: the object store fails", reason=told) from error


def _newest_first(copies: list[_Copy]) -> list[_Copy]:
    """The complete ones."""
    complete = [copy for copy in copies if copy.is_complete]
    return sorted(complete, key=lambda copy: (copy.changed_at_s, copy.path), reverse=True)
