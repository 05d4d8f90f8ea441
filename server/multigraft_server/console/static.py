"""Styles and scripts, open to everyone, and home."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from multigraft_adapters.errors import RouteNotFoundError
from multigraft_server.console.view import ViewDep

FOR_GOOD = "public, max-age=31536000, immutable"

router = APIRouter(prefix="/console")


@router.get("/static/{name}")
async def static(name: str, request: Request, view: ViewDep) -> Response:
    """A style or a script. Asked for by its content's digest, it is kept by the browser for good."""
    asset = view.console.assets.get(name)
    if asset is None:
        raise RouteNotFoundError("no file has this name")
    is_named = request.query_params.get("v") == asset.digest
    headers = {"cache-control": FOR_GOOD if is_named else "no-cache", "content-type": asset.content_type}
    return Response(asset.body, headers=headers)


@router.get("")
@router.get("/")
async def home(view: ViewDep) -> Response:
    """The first page that the caller may see."""
    return view.go(view.navigation[0].path)
