"""Which scope each route needs. What is not listed needs `admin`."""

from __future__ import annotations

from multigraft_adapters.registry.keys import ADMIN, INFER

ANY = "any"
"""Any valid key will do; what it does not see is left out of the answer."""

SCOPES: dict[str, str] = {
    "POST /v1/tasks/{ref:path}/predict": INFER,
    "POST /v1/predict": INFER,
    "POST /v1/chat/completions": INFER,
    "POST /v1/completions": INFER,
    "POST /v1/embeddings": INFER,
    "GET /v1/models": ANY,
    "GET /v1/models/{ref:path}": ANY,
    "GET /v1/tasks": ANY,
    "GET /v1/tasks/{task}": ANY,
    "GET /v1/tasks/{task}/versions/{number:int}": ANY,
    "GET /v1/tasks/{task}/aliases/{alias}": ANY,
    "POST /v1/tasks/{task}/versions": "upload",
    "PUT /v1/tasks/{task}/aliases/{alias}": "promote",
    "DELETE /v1/tasks/{task}/aliases/{alias}": "promote",
    "POST /v1/tasks/{task}/rollback": "promote",
    "DELETE /v1/tasks/{task}/versions/{number:int}": "promote",
    "PUT /v1/tasks/{task}/versions/{number:int}/tags/{tag}": "promote",
    "DELETE /v1/tasks/{task}/versions/{number:int}/tags/{tag}": "promote",
    "POST /v1/tasks/{task}/pin": "promote",
    "DELETE /v1/tasks/{task}/pin": "promote",
    "POST /v1/tasks/{task}/merge": "promote",
    "DELETE /v1/tasks/{task}/merge": "promote",
    "GET /metrics": "metrics",
    "GET /v1/engine": "metrics",
    "GET /v1/events": "metrics",
    "POST /v1/files": "train",
    "GET /v1/files": "train",
    "GET /v1/files/{file_id}": "train",
    "GET /v1/files/{file_id}/content": "train",
    "DELETE /v1/files/{file_id}": "train",
    "GET /v1/keys": ADMIN,
    "POST /v1/keys": ADMIN,
    "DELETE /v1/keys/{id}": ADMIN,
    "POST /v1/load_lora_adapter": ADMIN,
    "POST /v1/unload_lora_adapter": ADMIN,
}
TRAINING = "/v1/fine_tuning/"
"""What is below it needs `train`."""


def scope_of(method: str, template: str) -> str:
    """The scope that a route needs, by its method and the template of its path."""
    if template.startswith(TRAINING):
        return "train"
    return SCOPES.get(f"{'GET' if method == 'HEAD' else method} {template}", ADMIN)
