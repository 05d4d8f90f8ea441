"""Keys: who may call the server, for what, until when and how much. Of a key's secret only a hash is kept."""

from __future__ import annotations

import fnmatch
import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from multigraft_adapters.errors import InvalidRequestError, KeyNotFoundError
from multigraft_adapters.registry.database import Database
from multigraft_adapters.registry.key_tables import KeyRow
from multigraft_adapters.registry.names import is_name
from multigraft_adapters.registry.tables import TaskRow
from multigraft_adapters.registry.writing import record

INFER = "infer"
ADMIN = "admin"
SCOPES = (INFER, "upload", "promote", "train", "metrics", ADMIN)
"""What a key may be for. `infer` may be narrowed to a pattern of task names, as in `infer:support-*`."""
NO_TENANTS = ("train", "metrics", ADMIN)
"""What shows more than one tenant's tasks."""
SECRET = re.compile(r"mg-([0-9a-f]{12})-[A-Za-z0-9_-]{43}")
_PATTERN = re.compile(r"[a-z0-9._*?-]{1,64}")
KEY_NAME_PATTERN = r"^[ -~]{1,64}$"
_NAME = re.compile(KEY_NAME_PATTERN)


@dataclass(frozen=True, slots=True)
class NewKey:
    """What a key is to be. Limits are per minute, and of requests at once; None is no limit. A key of a tenant
    sees that tenant's tasks only."""

    name: str
    scopes: tuple[str, ...]
    tenant: str | None = None
    expires_at: datetime | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrent: int | None = None

    def check(self) -> None:
        """Raises InvalidRequestError for what no key can be."""
        if not _NAME.fullmatch(self.name):
            raise InvalidRequestError("name: 1 to 64 plain characters", param="name")
        if not self.scopes:
            raise InvalidRequestError(f"scopes: at least one of {', '.join(SCOPES)}", param="scopes")
        for scope in self.scopes:
            check_scope(scope)
        if self.tenant is not None and not is_name(self.tenant):
            raise InvalidRequestError("tenant: written as a task's name is", param="tenant")
        beyond = [scope for scope in self.scopes if self.tenant is not None and scope in NO_TENANTS]
        if beyond:
            raise InvalidRequestError(f"tenant: a key with the scope {beyond[0]!r} has none", param="tenant")
        if self.expires_at is not None and self.expires_at <= datetime.now(UTC):
            raise InvalidRequestError("expires_at: lies in the past", param="expires_at")
        for limit in ("requests_per_minute", "tokens_per_minute", "max_concurrent"):
            value = getattr(self, limit)
            if value is not None and not 1 <= value <= 10**9:
                raise InvalidRequestError(f"{limit}: 1 to 1000000000, or none", param=limit)


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is kept: all but its secret, of which there is a hash. `id` is the part of the secret that may
    be shown."""

    id: str
    new: NewKey
    created_at: datetime
    revoked_at: datetime | None
    secret_hash: str = field(repr=False)


class Keys:
    """The keys of a registry. Every change leaves an event and bumps the change counter."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, new: NewKey, *, actor: str = "") -> tuple[Key, str]:
        """A new key with its secret, which nothing tells again. Raises InvalidRequestError."""
        new.check()
        id = secrets.token_hex(6)
        secret = f"mg-{id}-{secrets.token_urlsafe(32)}"
        row = KeyRow(
            id=id,
            name=new.name,
            secret_hash=hash_of(secret),
            scopes=list(new.scopes),
            tenant=new.tenant,
            requests_per_minute=new.requests_per_minute,
            tokens_per_minute=new.tokens_per_minute,
            max_concurrent=new.max_concurrent,
            created_at=datetime.now(UTC),
            expires_at=new.expires_at,
        )
        with self._database.writing() as session:
            session.add(row)
            detail = {"key": id, "name": new.name, "scopes": list(new.scopes), "tenant": new.tenant}
            record(session, actor, "create_key", "", detail)
            session.flush()
            return _key(row), secret

    def revoke(self, id: str, *, actor: str = "") -> Key:
        """Lets a key open nothing any more; again changes nothing. Raises KeyNotFoundError."""
        with self._database.writing() as session:
            row = session.get(KeyRow, id)
            if row is None:
                raise KeyNotFoundError(f"no key has the id {id[:64]!r}", param="id")
            if row.revoked_at is None:
                row.revoked_at = datetime.now(UTC)
                record(session, actor, "revoke_key", "", {"key": id, "name": row.name})
                session.flush()
            return _key(row)

    def all(self) -> list[Key]:
        """Every key, revoked ones too, the oldest first."""
        with self._database.reading() as session:
            return _all(session)

    def with_tenants(self) -> tuple[list[Key], dict[str, str | None]]:
        """Every key, and the tenant of every task, as they are at one moment."""
        with self._database.reading() as session:
            owners = session.execute(select(TaskRow.name, TaskRow.tenant))
            return _all(session), {row.name: row.tenant for row in owners}


def check_scope(scope: str) -> None:
    """Raises InvalidRequestError for what is no scope."""
    name, colon, pattern = scope.partition(":")
    if name not in SCOPES or (colon and (name != INFER or not _PATTERN.fullmatch(pattern))):
        raise InvalidRequestError(
            f"scopes: {scope[:80]!r} is none of {', '.join(SCOPES)}, or infer:<pattern of task names>",
            param="scopes",
        )


def allows(scopes: Sequence[str], wanted: str, task: str | None = None) -> bool:
    """Whether scopes hold the wanted one; `infer` for a task, or for some task where none is given."""
    if ADMIN in scopes:
        return True
    if wanted != INFER:
        return wanted in scopes
    patterns = [scope.partition(":")[2] or "*" for scope in scopes if scope.partition(":")[0] == INFER]
    return any(task is None or fnmatch.fnmatchcase(task, pattern) for pattern in patterns)


def hash_of(secret: str) -> str:
    """What is kept of a secret. It has 256 random bits, so that one round of SHA-256 cannot be guessed back."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _all(session: Session) -> list[Key]:
    return [_key(row) for row in session.scalars(select(KeyRow).order_by(KeyRow.created_at, KeyRow.id))]


def _key(row: KeyRow) -> Key:
    new = NewKey(
        name=row.name,
        scopes=tuple(row.scopes),
        tenant=row.tenant,
        expires_at=row.expires_at,
        requests_per_minute=row.requests_per_minute,
        tokens_per_minute=row.tokens_per_minute,
        max_concurrent=row.max_concurrent,
    )
    return Key(row.id, new, row.created_at, row.revoked_at, row.secret_hash)
