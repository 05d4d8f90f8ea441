"""What a predictor is, and how one prediction or many are run in the engine's next step."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from multigraft_adapters.errors import InvalidRequestError
from multigraft_server.answers import Answer
from multigraft_server.calls import Call
from multigraft_server.engine.requests import PoolingParams, SamplingParams
from multigraft_server.parts import Parts
from multigraft_server.tokenising import TextInput, Tokens


class Parameters(BaseModel):
    """The `parameters` of a task type: unknown names and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Prepared:
    """One prediction, ready for the engine: its rows, and how their answers become the output."""

    rows: Sequence[tuple[Tokens, SamplingParams | PoolingParams]]
    read: Callable[[Sequence[Answer]], Awaitable[Any]]

    def submit(self, parts: Parts, call: Call) -> list[Answer]:
        """Give every row to the engine. Raises what the engine raises when it takes one no more."""
        return [Answer(parts.engine, call, tokens, params) for tokens, params in self.rows]


class Predictor(Protocol):
    """Checks and tokenises the inputs of one task type. Raises InputError; submits nothing."""

    async def prepare(self, parts: Parts, call: Call, inputs: Any, parameters: Mapping[str, Any]) -> Prepared: ...


def read_parameters(model: type[Model], parameters: Mapping[str, Any]) -> Model:
    """The parameters as the type's model; raises InvalidRequestError naming the first wrong one."""
    try:
        return model.model_validate(parameters)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(["parameters", *map(str, problem["loc"])])
        raise InvalidRequestError(f"{name}: {problem['msg']}", param=name) from None


def check_labels_exist(labels: Iterable[str], known: Iterable[str], param: str) -> None:
    """Raises InvalidRequestError naming `param` for a label that is none of those known."""
    names = sorted(known)
    unknown = sorted(set(labels).difference(names))
    if unknown:
        raise InvalidRequestError(
            f"{param}: {unknown[0]!r} is no label of this task; its labels are {', '.join(names[:20])}",
            param=param,
        )


def read_texts(inputs: Any, *, max_entries: int, pairs: bool = False) -> tuple[list[TextInput], bool]:
    """The texts in `inputs`, and whether they came as a list. Raises InvalidRequestError (param `inputs`)."""
    entries, is_list = read_entries(inputs, max_entries=max_entries)
    return [_read_text(entry, pairs) for entry in entries], is_list


def read_entries(inputs: Any, *, max_entries: int) -> tuple[list[Any], bool]:
    """The single inputs, and whether they came as a list. Raises InvalidRequestError (param `inputs`)."""
    is_list = isinstance(inputs, list)
    entries = inputs if is_list else [inputs]
    if not entries:
        raise InvalidRequestError("inputs is an empty list", param="inputs")
    if len(entries) > max_entries:
        raise InvalidRequestError(
            f"inputs has {len(entries)} entries, at most {max_entries} are taken", param="inputs"
        )
    return entries, is_list


def _read_text(entry: Any, pairs: bool) -> TextInput:
    if pairs and isinstance(entry, dict):
        if not {"text"} <= set(entry) <= {"text", "text_pair"}:
            raise InvalidRequestError("an input object has text and, if you like, text_pair", param="inputs")
        return TextInput(_non_empty(entry["text"]), _non_empty(entry.get("text_pair"), optional=True))
    return TextInput(_non_empty(entry) or "")


def _non_empty(value: Any, *, optional: bool = False) -> Any:
    if value is None and optional:
        return None
    if not isinstance(value, str):
        raise InvalidRequestError(f"inputs must be text, not {_json_name(value)}", param="inputs")
    if not value:
        raise InvalidRequestError("inputs is empty", param="inputs")
    return value


def _json_name(value: Any) -> str:
    names = {dict: "an object", list: "a list", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
