"""Which scope each route of the console needs, as `api/scopes.py` has it for the API. What is not listed needs
`admin`."""

from __future__ import annotations

from multigraft_adapters.registry.keys import ADMIN, INFER
from multigraft_server.api.scopes import ANY

OPEN_ROUTES = frozenset({"GET /console/login", "POST /console/login", "GET /console/static/{name}"})
"""These are for everyone."""

SCOPES: dict[str, str] = {
    "GET /console": ANY,
    "GET /console/": ANY,
    "POST /console/logout": ANY,
    "GET /console/overview": "metrics",
    "GET /console/overview/live": "metrics",
    "GET /console/tasks": ANY,
    "GET /console/tasks/{task}": ANY,
    "GET /console/tasks/{task}/diff": ANY,
    "GET /console/tasks/{task}/versions/{number:int}": ANY,
    "GET /console/tasks/{task}/promote": "promote",
    "POST /console/tasks/{task}/promote": "promote",
    "GET /console/tasks/{task}/split": "promote",
    "POST /console/tasks/{task}/split": "promote",
    "GET /console/tasks/{task}/rollback": "promote",
    "POST /console/tasks/{task}/rollback": "promote",
    "GET /console/tasks/{task}/unname": "promote",
    "POST /console/tasks/{task}/unname": "promote",
    "GET /console/tasks/{task}/versions/{number:int}/retire": "promote",
    "POST /console/tasks/{task}/versions/{number:int}/retire": "promote",
    "GET /console/tasks/{task}/pin": "promote",
    "POST /console/tasks/{task}/pin": "promote",
    "GET /console/events": "metrics",
    "GET /console/playground": INFER,
    "POST /console/playground/chat": INFER,
    "POST /console/playground/picture": INFER,
    "GET /console/upload": "upload",
    "POST /console/upload/versions": "upload",
    "GET /console/upload/reports/{id}": "upload",
    "GET /console/jobs": "train",
    "GET /console/jobs/live": "train",
    "GET /console/jobs/new": "train",
    "POST /console/jobs/files": "train",
    "GET /console/jobs/{job_id}": "train",
    "GET /console/jobs/{job_id}/live": "train",
    "GET /console/jobs/{job_id}/{change}": "train",
    "POST /console/jobs/{job_id}/{change}": "train",
}


def scope_of(method: str, template: str) -> str:
    """The scope that a route needs, by its method and the template of its path."""
    return SCOPES.get(f"{'GET' if method == 'HEAD' else method} {template}", ADMIN)
