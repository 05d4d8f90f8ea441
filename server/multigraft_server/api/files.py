"""`/v1/files`: the files of training jobs, as OpenAI's clients upload and read them."""

from __future__ import annotations

import asyncio
import hashlib
import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.datastructures import FormData, UploadFile
from starlette.responses import Response

from multigraft_adapters.errors import (
    IntegrityError,
    InvalidDataError,
    InvalidRequestError,
    NotFoundError,
)
from multigraft_adapters.registry import FINE_TUNE, StoredFile, new_file
from multigraft_adapters.strict_json import parse_object
from multigraft_server.api.context import PartsDep
from multigraft_server.api.forms import read_form
from multigraft_server.parts import Parts

MAX_FILES = 10_000
MAX_PROBLEMS = 20
MAX_PARTS = 8
MAX_FIELD_BYTES = 64 * 1024

_UNPRINTABLE = re.compile(r"[^\w .()+,@=-]")

router = APIRouter()


@router.post("/v1/files")
async def upload_file(request: Request, parts: PartsDep) -> dict[str, Any]:
    """Keep a file of training data, JSONL with an object on every line, which is checked now."""
    with parts.uploads.admitted():
        name, content = await _read_upload(request)
        return file_json(await keep_file(parts, name, content))


async def keep_file(parts: Parts, name: str, content: bytes) -> StoredFile:
    """The file of training data, checked and stored. Within `parts.uploads.admitted`. Raises InvalidDataError."""
    return await parts.uploads.run(lambda: _keep(parts, plain_name(name), content))


@router.get("/v1/files")
async def list_files(
    parts: PartsDep,
    purpose: str | None = None,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_FILES)] = MAX_FILES,
    order: Literal["asc", "desc"] = "desc",
) -> dict[str, Any]:
    """The files, newest first; `after` an id goes on from there."""
    listed = parts.registry.files.listed
    found, has_more = await asyncio.to_thread(listed, purpose, after, limit, order == "asc")
    return page_json([file_json(one) for one in found], has_more)


@router.get("/v1/files/{file_id}")
async def get_file(file_id: str, parts: PartsDep) -> dict[str, Any]:
    """One file, without its content."""
    return file_json(await asyncio.to_thread(parts.registry.files.get, file_id))


@router.get("/v1/files/{file_id}/content")
async def get_file_content(file_id: str, parts: PartsDep) -> Response:
    """The bytes of a file."""
    found = await asyncio.to_thread(parts.registry.files.get, file_id)
    content = await parts.uploads.run(lambda: _content(parts, found))
    headers = {"content-disposition": f'attachment; filename="{found.id}"', "x-content-type-options": "nosniff"}
    return Response(content, media_type="application/octet-stream", headers=headers)


@router.delete("/v1/files/{file_id}")
async def delete_file(file_id: str, parts: PartsDep) -> dict[str, Any]:
    """Forget a file, unless a job that has not ended needs it."""
    found = await asyncio.to_thread(parts.registry.files.delete, file_id)
    await parts.uploads.run(lambda: parts.store.blobs.delete(found.key))
    return {"id": file_id, "object": "file", "deleted": True}


def file_json(file: StoredFile) -> dict[str, Any]:
    """A file as OpenAI's clients read it."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.num_bytes,
        "created_at": int(file.created_at.timestamp()),
        "expires_at": None,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def page_json(items: list[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    """A page of a list, which goes on after its last id."""
    ends = {"first_id": items[0]["id"] if items else None, "last_id": items[-1]["id"] if items else None}
    return {"object": "list", "data": items, "has_more": has_more, **ends}


async def _read_upload(request: Request) -> tuple[str, bytes]:
    """The name and the content of the one file."""
    limits = {"max_files": 1, "max_fields": MAX_PARTS, "max_part_size": MAX_FIELD_BYTES}
    return await read_form(request, _read_parts, **limits)


async def _read_parts(form: FormData) -> tuple[str, bytes]:
    file, purpose = form.get("file"), form.get("purpose")
    if not isinstance(file, UploadFile):
        raise InvalidRequestError("the upload has no part 'file': send it as multipart/form-data", param="file")
    if purpose != FINE_TUNE:
        raise InvalidRequestError(f"purpose must be {FINE_TUNE!r}: other files are not kept", param="purpose")
    spare = sorted(set(form) - {"file", "purpose"})
    if spare:
        raise InvalidRequestError(f"{spare[0][:80]} is not supported for files", param=spare[0][:80])
    return file.filename or "", await file.read()


def plain_name(filename: str) -> str:
    """How the file is shown; nothing is ever opened by it."""
    last = filename.replace("\\", "/").rpartition("/")[2]
    return _UNPRINTABLE.sub("_", last)[-200:] or "file.jsonl"


def _keep(parts: Parts, name: str, content: bytes) -> StoredFile:
    _check_lines(name, content)
    row = new_file(f"sha256:{hashlib.sha256(content).hexdigest()}", name, FINE_TUNE, len(content))
    parts.store.blobs.put(row.key, content)
    return parts.registry.files.add(row)


def _check_lines(name: str, content: bytes) -> None:
    """Raises InvalidDataError with the lines that are no JSON objects, or when there are none at all."""
    problems: list[str] = []
    has_rows = False
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            has_rows = True
            parse_object(f"{name}:{number}", line, problems)
        if len(problems) > MAX_PROBLEMS:
            problems[MAX_PROBLEMS:] = ["and more"]
            break
    if not has_rows:
        problems.append(f"{name}: the file is empty")
    if problems:
        raise InvalidDataError("the file is not JSONL", problems, param="file")


def _content(parts: Parts, file: StoredFile) -> bytes:
    try:
        content = parts.store.blobs.get(file.key)
    except NotFoundError:
        raise IntegrityError(f"the content of the file {file.id} is gone from the store") from None
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != file.digest:
        raise IntegrityError(f"the content of the file {file.id} is damaged")
    return content
