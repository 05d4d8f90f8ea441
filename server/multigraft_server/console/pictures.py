"""The playground of a base that reads images: one picture to several tasks or versions, side by side.

A picture fits no address, so it is sent with a form, and the page that answers cannot be kept by its address.
"""

from __future__ import annotations

import base64
import re
from urllib.parse import urlencode

from fastapi import APIRouter
from starlette.datastructures import FormData, UploadFile
from starlette.responses import Response

from multigraft_server.api.forms import read_form
from multigraft_server.console.outputs import Question
from multigraft_server.console.playground import MAX_COLUMNS, ask_all, asked_ones, filled
from multigraft_server.console.view import ViewDep

HOME = "/console/playground"
KIND = re.compile(r"image/[\w.+-]{1,40}", re.ASCII)

router = APIRouter(prefix="/console")


@router.post("/playground/picture")
async def play(view: ViewDep) -> Response:
    """Every answer about the picture of a form."""
    given, picture, kind = await read_form(view.request, _read, max_files=1, max_fields=MAX_COLUMNS)
    refs = asked_ones(given)
    if not refs or not picture:
        view.say("refused", "choose a picture, and at least one task")
        return view.go(f"{HOME}?{urlencode([('ref', ref) for ref in refs])}")
    encoded = base64.b64encode(picture).decode()
    columns = await ask_all(view, refs, Question(picture=encoded))
    shown = f"data:{kind};base64,{encoded}" if KIND.fullmatch(kind) else ""
    return await filled(view, refs, columns, picture=shown)


async def _read(form: FormData) -> tuple[list[str], bytes, str]:
    """The references, and the picture with its media type."""
    refs = [one for one in form.getlist("ref") if isinstance(one, str)]
    part = form.get("picture")
    if not isinstance(part, UploadFile):
        return refs, b"", ""
    return refs, await part.read(), part.content_type or ""
