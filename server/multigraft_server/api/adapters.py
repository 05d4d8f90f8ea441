"""Uploading adapters as versions of tasks."""

from __future__ import annotations

import asyncio
from collections import Counter

from fastapi import APIRouter, Request
from starlette.datastructures import FormData, UploadFile
from starlette.responses import JSONResponse, Response

from multigraft_adapters.declaration import PART, TaskDeclaration, parse_declaration
from multigraft_adapters.errors import InvalidAdapterError, PermissionDeniedError
from multigraft_adapters.registry import Version, check_alias_name, check_task_name
from multigraft_adapters.verify import Report, VerifiedAdapter, examine
from multigraft_server.access.callers import Caller
from multigraft_server.api.auth import CallerDep
from multigraft_server.api.context import ActorDep, PartsDep
from multigraft_server.api.forms import read_form
from multigraft_server.parts import Parts

MAX_PARTS = 32
MAX_FIELD_BYTES = 1024 * 1024

router = APIRouter()


@router.post("/v1/tasks/{task}/versions")
async def upload(
    task: str, request: Request, parts: PartsDep, actor: ActorDep, caller: CallerDep, alias: str | None = None
) -> Response:
    """Verify an adapter and make it the task's next version; the same content again is the version it was.

    Nothing of a refused adapter is kept.
    """
    check_upload(parts, caller, task, alias)
    with parts.uploads.admitted():
        limits = {"max_files": MAX_PARTS, "max_fields": MAX_PARTS, "max_part_size": MAX_FIELD_BYTES}
        files, declaration = await read_form(request, _read_parts, **limits)
        adapter = (await examined(parts, files, declaration)).accepted()
        version, is_new = await add_version(parts, caller, actor, task, adapter, alias)
    answer = {"task": version.task, "version": version.number, "digest": version.digest}
    return JSONResponse(answer, 201 if is_new else 200)


def check_upload(parts: Parts, caller: Caller, task: str, alias: str | None) -> None:
    """Raises InvalidRequestError for a bad name, PermissionDeniedError where the caller may not promote."""
    check_task_name(task, parts.spec.name)
    if alias is not None:
        check_alias_name(alias)
        if not caller.may("promote"):
            raise PermissionDeniedError("the key has not the scope 'promote', which ?alias= needs")


async def examined(parts: Parts, files: dict[str, bytes], declaration: TaskDeclaration | None) -> Report:
    """What verification finds of an upload, which is stored if it is accepted. Within `parts.uploads.admitted`."""
    return await parts.uploads.run(lambda: _keep(parts, files, declaration))


async def add_version(
    parts: Parts, caller: Caller, actor: str, task: str, adapter: VerifiedAdapter, alias: str | None
) -> tuple[Version, bool]:
    """Make a stored adapter the task's next version, or find that it is one; and have the alias name it."""
    if alias is not None:
        await parts.residency.load_before_promotion(task, digests=[adapter.digest])
    add = parts.registry.add_version
    version, is_new = await parts.uploads.run(
        lambda: add(task, adapter, alias=alias, tenant=caller.tenant, actor=actor)
    )
    if version.number == 1:
        await asyncio.to_thread(parts.keyring.refresh)
    return version, is_new


async def _read_parts(form: FormData) -> tuple[dict[str, bytes], TaskDeclaration | None]:
    """The uploaded files by name, and the declaration. Raises InvalidAdapterError naming every problem."""
    files: dict[str, bytes] = {}
    declaration: bytes | None = None
    problems: list[str] = []
    for name, part in form.multi_items():
        if name == PART:
            declaration = await part.read() if isinstance(part, UploadFile) else part.encode()
        elif name == "file" and isinstance(part, UploadFile):
            files[part.filename or ""] = await part.read()
        else:
            problems.append(f"the upload has a part {name[:80]!r}; parts are 'file', repeated, and {PART!r}")
    names = Counter(part.filename or "" for part in form.getlist("file") if isinstance(part, UploadFile))
    problems += [f"the file {name[:80]!r} is there {count} times" for name, count in names.items() if count > 1]
    if not files:
        problems.append("the upload has no part 'file': send the adapter's files as multipart/form-data")
    if problems:
        raise InvalidAdapterError("the upload cannot be read", problems)
    return files, parse_declaration(declaration) if declaration is not None else None


def _keep(parts: Parts, files: dict[str, bytes], declaration: TaskDeclaration | None) -> Report:
    report = examine(files, parts.spec, declaration=declaration)
    if report.adapter is not None:
        parts.store.put(report.adapter.digest, report.adapter.files)
    return report
