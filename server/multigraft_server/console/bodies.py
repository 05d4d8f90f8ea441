"""The bodies of the API's routes, made from what a form says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from multigraft_server.api.problems import as_ours

Body = TypeVar("Body", bound=BaseModel)


def body_of(model: type[Body], values: Mapping[str, Any]) -> Body:
    """The body; raises InvalidRequestError in the API's words."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        found = [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()]
        raise as_ours(RequestValidationError(found)) from None
