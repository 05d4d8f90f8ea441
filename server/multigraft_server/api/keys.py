"""Keys: made, listed, revoked. The secret of a new one is in the answer that makes it, and nowhere else."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from multigraft_adapters.registry.keys import KEY_NAME_PATTERN, Key, NewKey
from multigraft_server.api.context import ActorDep, PartsDep
from multigraft_server.parts import Parts

MAX_SECONDS = 10 * 366 * 86_400

router = APIRouter()


class KeyBody(BaseModel):
    """What a key is to be; see `NewKey`. `expires_in` is in seconds; null never ends."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(json_schema_extra={"pattern": KEY_NAME_PATTERN})]
    scopes: Annotated[list[str], Field(max_length=64, json_schema_extra={"minItems": 1})]
    tenant: str | None = None
    expires_in: Annotated[float, Field(gt=0, le=MAX_SECONDS)] | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrent: int | None = None

    def new_key(self) -> NewKey:
        """The key from now on."""
        ends = None if self.expires_in is None else datetime.now(UTC) + timedelta(seconds=self.expires_in)
        told = self.model_dump(exclude={"expires_in", "scopes"})
        return NewKey(scopes=tuple(self.scopes), expires_at=ends, **told)


@router.post("/v1/keys", status_code=201)
async def create_key(body: KeyBody, parts: PartsDep, actor: ActorDep) -> dict[str, Any]:
    """A new key, its secret with it."""
    key, secret = await make(parts, actor, body)
    return {**_shown(key), "key": secret}


@router.get("/v1/keys")
async def list_keys(parts: PartsDep) -> dict[str, Any]:
    """Every key, without secrets, the oldest first."""
    return {"keys": [_shown(key) for key in await asyncio.to_thread(parts.registry.keys.all)]}


@router.delete("/v1/keys/{id}")
async def revoke_key(id: str, parts: PartsDep, actor: ActorDep) -> dict[str, Any]:
    """Let a key open nothing any more; requests under way end as they would."""
    return _shown(await revoke(parts, actor, id))


async def make(parts: Parts, actor: str, body: KeyBody) -> tuple[Key, str]:
    """A new key, which is known from now on, and its secret. Raises InvalidRequestError."""
    made = await asyncio.to_thread(parts.registry.keys.create, body.new_key(), actor=actor)
    await asyncio.to_thread(parts.keyring.refresh)
    return made


async def revoke(parts: Parts, actor: str, id: str) -> Key:
    """The key, which opens nothing any more. Raises KeyNotFoundError."""
    key = await asyncio.to_thread(parts.registry.keys.revoke, id, actor=actor)
    await asyncio.to_thread(parts.keyring.refresh)
    return key


def _shown(key: Key) -> dict[str, Any]:
    new = key.new
    return {
        "id": key.id,
        "name": new.name,
        "scopes": list(new.scopes),
        "tenant": new.tenant,
        "requests_per_minute": new.requests_per_minute,
        "tokens_per_minute": new.tokens_per_minute,
        "max_concurrent": new.max_concurrent,
        "created_at": key.created_at.isoformat(),
        "expires_at": new.expires_at.isoformat() if new.expires_at else None,
        "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
    }
