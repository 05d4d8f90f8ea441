"""The keys as this process knows them: read again when the registry changes, so that no request waits for it."""

from __future__ import annotations

import hmac
from datetime import UTC, datetime

from multigraft_adapters.registry import Registry
from multigraft_adapters.registry.keys import SECRET, Key, hash_of
from multigraft_server.access.callers import ANYONE, Caller
from multigraft_server.access.limits import Limits

OWN = "own"
"""The id of the server's own key; that of a key in the registry is hexadecimal."""


class Keyring:
    """Tells who has a secret. `refresh` is called when the server starts, from time to time, and after a change of
    this process'; while the registry cannot be read, what was last known is true."""

    def __init__(self, registry: Registry, api_key: str | None) -> None:
        self._registry = registry
        self._own = hash_of(api_key) if api_key else None
        self._keys: dict[str, Key] | None = None
        self._owners: dict[str, str | None] = {}
        self._limits: dict[str, Limits] = {}
        self._counter = -1

    def refresh(self) -> None:
        """Read the keys, and whose tasks are, if anything has changed. Raises RegistryUnavailableError."""
        counter = self._registry.change_counter()
        if counter == self._counter:
            return
        keys, self._owners = self._registry.keys.with_tenants()
        for key in keys:
            if key.id not in self._limits:
                self._limits[key.id] = Limits(key.new)
        self._keys = {key.id: key for key in keys}
        self._counter = counter

    @property
    def is_open(self) -> bool:
        """Whether anyone may call: without a key of the server's own, as long as nobody has made one."""
        return self._own is None and self._keys is not None and not self._keys

    def caller_of(self, authorization: str) -> Caller | None:
        """Who sent the header `Authorization`; None where the server is closed to it."""
        if self.is_open:
            return ANYONE
        scheme, _, secret = authorization.partition(" ")
        holder = self.holder_of(secret.strip()) if scheme.lower() == "bearer" else None
        return None if holder is None else self.caller_with(holder)

    def holder_of(self, secret: str) -> str | None:
        """The id of the key that has the secret, `OWN` for the server's own; None for a secret of no key."""
        # Both digests have one length, so the comparison takes the same time for every secret.
        if self._own is not None and hmac.compare_digest(hash_of(secret), self._own):
            return OWN
        found = SECRET.fullmatch(secret)
        key = (self._keys or {}).get(found[1]) if found else None
        return key.id if key is not None and hmac.compare_digest(hash_of(secret), key.secret_hash) else None

    def caller_with(self, holder: str) -> Caller | None:
        """Who has the key of this id, which `holder_of` told; None once it is revoked or has ended."""
        if holder == OWN:
            return ANYONE if self._own is not None else None
        key = (self._keys or {}).get(holder)
        if key is None:
            return None
        is_over = key.new.expires_at is not None and key.new.expires_at <= datetime.now(UTC)
        return None if is_over or key.revoked_at is not None else self._caller(key)

    def _caller(self, key: Key) -> Caller:
        new = key.new
        limits = self._limits[key.id]
        return Caller(
            name=f"key {key.id} {new.name}",
            scopes=new.scopes,
            tenant=new.tenant,
            limits=limits if any(limits.of) else None,
            owner_of=lambda task: self._owners.get(task),
            key_id=key.id,
        )
