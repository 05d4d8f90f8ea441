"""Uploading an adapter, and the report of its verification."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import urlencode

from fastapi import APIRouter
from starlette.datastructures import FormData, UploadFile
from starlette.responses import Response

from multigraft_adapters.checks import size
from multigraft_adapters.declaration import TaskDeclaration, parse_declaration
from multigraft_adapters.errors import InvalidRequestError, MultigraftError, RouteNotFoundError
from multigraft_adapters.manifest import TASK_TYPES
from multigraft_server.api.adapters import MAX_FIELD_BYTES, MAX_PARTS, add_version, check_upload, examined
from multigraft_server.api.forms import read_form
from multigraft_server.console.reports import Told
from multigraft_server.console.view import View, ViewDep

HOME = "/console/upload"
FIELDS = ("task", "alias", "task_type", "labels")
"""What the form has beside its files."""

router = APIRouter(prefix="/console")


@router.get("/upload")
async def ask(view: ViewDep) -> Response:
    """The form; the address may fill its fields."""
    given = {name: view.request.query_params.get(name, "") for name in FIELDS}
    return view.page("upload.html", at="upload", given=given, task_types=TASK_TYPES)


@router.post("/upload/versions")
async def upload(view: ViewDep) -> Response:
    """Verify the files and make them a version, as the API's upload does; then to the report."""
    with view.parts.uploads.admitted():
        limits = {"max_files": MAX_PARTS, "max_fields": MAX_PARTS, "max_part_size": MAX_FIELD_BYTES}
        files, fields = await read_form(view.request, _read, **limits)
        try:
            if not files:
                raise InvalidRequestError("choose the files of an adapter", param="file")
            told = await _publish(view, files, fields)
        except MultigraftError as error:
            view.say("refused", view.told(error))
            return view.go(f"{HOME}?{urlencode(fields)}")
    return view.go(f"{HOME}/reports/{view.console.reports.put(view.visitor.token, told)}")


@router.get("/upload/reports/{id}")
async def report(id: str, view: ViewDep) -> Response:
    """What verification found. Raises RouteNotFoundError when this process does not know any more."""
    told = view.console.reports.get(view.visitor.token, id)
    if told is None:
        raise RouteNotFoundError("the report is kept no longer; the same files, uploaded again, get the same one")
    return view.page("report.html", at="upload", told=told)


async def _publish(view: View, files: Mapping[str, bytes], fields: Mapping[str, str]) -> Told:
    task, alias = fields["task"], fields["alias"] or None
    check_upload(view.parts, view.caller, task, alias)
    report = await examined(view.parts, dict(files), _declaration(fields))
    sizes = tuple((name, size(len(content))) for name, content in files.items())
    told = Told(task, sizes, report.checks, alias=alias or "")
    if report.adapter is None:
        return told
    told = replace(told, digest=report.adapter.digest)
    try:
        version, is_new = await add_version(view.parts, view.caller, view.actor, task, report.adapter, alias)
    except MultigraftError as error:
        return replace(told, problem=view.told(error))
    return replace(told, version=version.number, is_new=is_new)


async def _read(form: FormData) -> tuple[dict[str, bytes], dict[str, str]]:
    """The files by name, and the fields. Raises InvalidRequestError when two files have one name."""
    files: dict[str, bytes] = {}
    for part in form.getlist("file"):
        if isinstance(part, UploadFile) and part.filename:
            if part.filename in files:
                raise InvalidRequestError(f"the file {part.filename[:80]!r} was chosen twice", param="file")
            files[part.filename] = await part.read()
    return files, {name: _text(form.get(name)) for name in FIELDS}


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _declaration(fields: Mapping[str, str]) -> TaskDeclaration | None:
    """What the form says of an adapter that has no task.json; labels are lines, in the order of their numbers."""
    labels = [line.strip() for line in fields["labels"].splitlines() if line.strip()]
    said = {
        "task_type": fields["task_type"] or None,
        "id2label": {str(number): label for number, label in enumerate(labels)} or None,
    }
    given = {name: value for name, value in said.items() if value is not None}
    return parse_declaration(json.dumps(given).encode()) if given else None
