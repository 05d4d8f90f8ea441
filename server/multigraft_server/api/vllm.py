"""vLLM's routes that load and unload adapters by name: its bodies, answers and status codes, over the registry."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from starlette.responses import JSONResponse, PlainTextResponse, Response

from multigraft_adapters.artifact import CONFIG_FILE, MANIFEST_FILE, read_folder
from multigraft_adapters.declaration import TaskDeclaration
from multigraft_adapters.errors import (
    ConflictError,
    InvalidRequestError,
    MultigraftError,
    NotFoundError,
    RouteNotFoundError,
    TaskNotFoundError,
)
from multigraft_adapters.registry import PRODUCTION, Task, Version, check_task_name
from multigraft_adapters.strict_json import parse_object
from multigraft_adapters.verify import verify
from multigraft_server.api.context import ActorDep, PartsDep
from multigraft_server.api.problems import problem_of
from multigraft_server.parts import Parts

TYPES = {400: "InvalidUserInput", 404: "NotFoundError"}
"""vLLM's `type` of an error, by status."""

router = APIRouter()


class LoadBody(BaseModel):
    """What vLLM's clients send; fields that are not known are ignored, as there."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    lora_name: str = ""
    lora_path: str = ""
    load_inplace: bool = False


class UnloadBody(BaseModel):
    """As above; `lora_int_id` is ignored, the name decides."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    lora_name: str = ""


@router.post("/v1/load_lora_adapter")
async def load_lora_adapter(body: LoadBody, parts: PartsDep, actor: ActorDep) -> Response:
    """Make the adapter in a folder inside the setting `lora_folder` the production version of the task."""
    folder = _lora_folder(parts)
    return await _answered(
        _load(parts, folder, body, actor), f"Success: LoRA adapter '{body.lora_name}' added successfully."
    )


@router.post("/v1/unload_lora_adapter")
async def unload_lora_adapter(body: UnloadBody, parts: PartsDep, actor: ActorDep) -> Response:
    """Serve the task under its bare name no longer; what runs on it ends as after retiring."""
    _lora_folder(parts)
    done = f"Success: LoRA adapter '{body.lora_name}' removed successfully."
    return await _answered(asyncio.to_thread(_unload, parts, body.lora_name, actor), done)


async def _answered(work: Awaitable[None], done: str) -> Response:
    try:
        await work
    except MultigraftError as error:
        status = problem_of(error).status
        detail = {"message": error.message, "type": TYPES.get(status, "InternalServerError"), "param": error.param}
        return JSONResponse({"error": {**detail, "code": status}}, status)
    return PlainTextResponse(done)


def _lora_folder(parts: Parts) -> Path:
    folder = parts.settings.lora_folder
    if folder is None:
        raise RouteNotFoundError("this route is closed: the server's setting lora_folder opens it")
    return folder


async def _load(parts: Parts, folder: Path, body: LoadBody, actor: str) -> None:
    if not body.lora_name or not body.lora_path:
        raise InvalidRequestError("Both 'lora_name' and 'lora_path' must be provided.")
    check_task_name(body.lora_name, parts.spec.name)
    with parts.uploads.admitted():
        version = await parts.uploads.run(lambda: _publish(parts, folder, body, actor))
        await parts.residency.load([version.digest])


def _publish(parts: Parts, folder: Path, body: LoadBody, actor: str) -> Version:
    if not body.load_inplace and _is_loaded(_task(parts, body.lora_name)):
        raise InvalidRequestError(
            f"The lora adapter '{body.lora_name}' has already been loaded. If you want to load the adapter "
            "in place, set 'load_inplace' to True."
        )
    files = read_folder(_inside(folder, body.lora_path))
    adapter = verify(files, parts.spec, declaration=_declaration(files))
    parts.store.put(adapter.digest, adapter.files)
    return parts.registry.add_version(body.lora_name, adapter, alias=PRODUCTION, actor=actor)[0]


def _inside(folder: Path, path: str) -> Path:
    """The adapter's folder, with every symlink on the way followed, if that ends inside the allowed one."""
    root = folder.resolve()
    try:
        place = (root / path).resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        raise NotFoundError(f"there is no adapter at {path!r}", param="lora_path") from None
    if not place.is_relative_to(root) or not place.is_dir():
        raise NotFoundError(f"there is no adapter at {path!r}", param="lora_path")
    return place


def _declaration(files: dict[str, bytes]) -> TaskDeclaration | None:
    """vLLM's adapters generate: one that says nothing of its task is taken as such."""
    config = parse_object(CONFIG_FILE, files[CONFIG_FILE], [])
    says = MANIFEST_FILE in files or config is None or config.get("task_type")
    return None if says else TaskDeclaration(task_type="text-generation")


def _unload(parts: Parts, name: str, actor: str) -> None:
    task = _task(parts, name)
    if task is None or not _is_loaded(task):
        raise NotFoundError(f"The lora adapter '{name}' cannot be found.", param="lora_name")
    served, _ = parts.registry.alias(name, PRODUCTION)
    parts.registry.remove_alias(name, PRODUCTION, actor=actor)
    for number, _ in served.weights or ((served.version, 1.0),):
        try:
            parts.registry.retire(name, number, actor=actor)
        except ConflictError:
            continue  # another alias serves it on


def _task(parts: Parts, name: str) -> Task | None:
    try:
        return parts.registry.task(name)
    except TaskNotFoundError:
        return None


def _is_loaded(task: Task | None) -> bool:
    return task is not None and any(alias.name == PRODUCTION for alias in task.aliases)
