"""A hook of mkdocs': pages of the site that are written elsewhere. Those at the top of the repository, and the
reference of the API, which is made of the OpenAPI document."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi.routing import APIRoute
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from multigraft_server.api.auth import OPEN_PATHS
from multigraft_server.api.scopes import scope_of
from multigraft_server.app import ROUTERS, openapi_document

LIMITS = {
    "minimum": "at least",
    "maximum": "at most",
    "exclusiveMinimum": "above",
    "exclusiveMaximum": "below",
    "maxLength": "of at most",
}
ROOT = Path(__file__).parents[2]
AT_THE_TOP = {
    "README.md": "index.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages."""
    for source, page in AT_THE_TOP.items():
        text = (ROOT / source).read_text("utf-8")
        files.append(File.generated(config, page, content=as_page(text)))
    files.append(File.generated(config, "api.md", content="\n".join(reference(openapi_document()))))
    return files


def as_page(text: str) -> str:
    """A page at the top of the repository as one of the site: links to it lead to the site's pages."""
    text = re.sub(r"\]\(docs/", "](", text)
    for source, page in AT_THE_TOP.items():
        text = text.replace(f"]({source}", f"]({page}")
    return re.sub(r"\[([^\]]+)\]\((?:LICENSE)\)", r"\1", text)


def reference(document: dict[str, Any]) -> Iterator[str]:
    """The lines of the reference: each route with parameters, body and answers, then the bodies' fields."""
    yield "# Reference of the API"
    yield "\nMade of the document that a server gives at `GET /openapi.json`. [HTTP](http.md) tells what it means."
    scopes = dict(scopes_of_routes())
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"\n## `{method.upper()} {path}`\n"
            yield operation.get("description", operation.get("summary", "")) + "\n"
            yield f"Scope: {scopes[method.upper(), path]}.\n"
            yield from parameters(operation)
            yield from contents("Body", operation.get("requestBody", {}))
            for status, answer in operation["responses"].items():
                yield from contents("Other answers" if status == "default" else f"Answer {status}", answer)
    yield "\n# Bodies"
    for name, schema in document["components"]["schemas"].items():
        yield f"\n## {name}\n"
        yield schema.get("description", "") + "\n"
        yield from fields(schema)


def scopes_of_routes() -> Iterator[tuple[tuple[str, str], str]]:
    """What a key needs, by method and path."""
    for router in ROUTERS:
        for route in router.routes:
            if isinstance(route, APIRoute):
                for method in route.methods:
                    open_to_all = route.path in OPEN_PATHS
                    yield (
                        (method, route.path_format),
                        "no key" if open_to_all else f"`{scope_of(method, route.path)}`",
                    )


def parameters(operation: dict[str, Any]) -> Iterator[str]:
    """A table of a route's parameters."""
    rows = operation.get("parameters", [])
    if rows:
        yield "| parameter | in | type | |"
        yield "|---|---|---|---|"
    for row in rows:
        needed = "required" if row.get("required") else "optional"
        yield f"| `{row['name']}` | {row['in']} | {type_of(row['schema'])} | {needed} |"


def contents(title: str, described: dict[str, Any]) -> Iterator[str]:
    """What a body or an answer is, by its media type."""
    for media, content in described.get("content", {}).items():
        yield f"\n{title}, `{media}`: {type_of(content.get('schema', {}))}"


def fields(schema: dict[str, Any]) -> Iterator[str]:
    """A table of an object's fields."""
    needed = schema.get("required", [])
    if schema.get("properties"):
        yield "| field | type | default | |"
        yield "|---|---|---|---|"
    for name, field in schema.get("properties", {}).items():
        default = "required" if name in needed else f"`{json.dumps(field.get('default'))}`"
        yield f"| `{name}` | {type_of(field)} | {default} | {cell(field.get('description', ''))} |"


def type_of(schema: dict[str, Any]) -> str:
    """A type in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(type_of(one) for one in schema[several]))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {type_of(schema.get('items', {}))}"
    limits = [f"{sign} {schema[key]}" for key, sign in LIMITS.items() if key in schema]
    kind = schema.get("type", "any")
    return " ".join(["/".join(kind) if isinstance(kind, list) else kind, ", ".join(limits)]).strip()


def cell(text: str) -> str:
    """A text that may stand in a table."""
    return " ".join(text.replace("|", "\\|").split())
