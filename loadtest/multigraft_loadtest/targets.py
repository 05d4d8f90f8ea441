"""The servers that can be driven: how each wants to be asked, and whether an answer is what was asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any, Literal

from multigraft_loadtest.problems import CannotStartError
from multigraft_loadtest.records import Record
from multigraft_loadtest.workload import Request

Api = Literal["completions", "chat"]
ADAPTER_HEADER = "x-multigraft-adapter"


@dataclass(frozen=True, slots=True)
class Target:
    """A kind of server. `template` makes a model's name of a task's, `base` is the bare base's name.

    `ignores_eos` tells that it can be made to generate as many tokens as asked. `adapters` are the digests that
    may answer for each task (None is the base); None where the server does not say who answered. Servers that end
    a connection after a stream without saying so, as llama.cpp's, get a new one for each request.
    """

    name: str
    api: Api = "completions"
    base: str = ""
    template: str = "{task}"
    ignores_eos: bool = False
    keeps_connections: bool = True
    adapters: Mapping[str | None, Set[str]] | None = None
    extra: Callable[[Request], dict[str, Any]] | None = None
    """Fields that a request needs beside the usual ones."""

    def model(self, task: str | None) -> str:
        return self.base if task is None else self.template.format(task=task)

    def route_and_body(self, request: Request) -> tuple[str, dict[str, Any]]:
        """Raises CannotStartError for a kind of request that the server has no route for."""
        more = self.extra(request) if self.extra else {}
        if request.kind == "generation":
            route, body = (_lorax if self.name == "lorax" else _openai)(self, request)
        elif self.name == "multigraft" and request.kind == "embedding":
            # Two numbers of each vector: JSON of all of them would be measured, and not the model.
            body = {"model": self.model(request.task), "input": list(request.texts), "dimensions": 2}
            route = "/v1/embeddings"
        elif self.name == "multigraft" and request.task is not None:
            route, body = f"/v1/tasks/{request.task}/predict", {"inputs": list(request.texts)}
        else:
            raise CannotStartError(f"the target {self.name} has no route for {request.kind} by {request.label}")
        return route, body | more

    def encode(self, request: Request) -> tuple[str, bytes]:
        """The route, and the body's bytes."""
        route, body = self.route_and_body(request)
        return route, json.dumps(body, separators=(",", ":")).encode()

    def judge(self, record: Record) -> None:
        """Whether a whole answer is by the right adapter and of the right length."""
        if self.adapters is not None and record.adapter not in self.adapters.get(record.request.task, set()):
            record.fate, record.code = "wrong", "adapter"
            record.problem = f"{record.request.label} was answered by {record.adapter}"
        elif record.request.kind == "generation" and self.ignores_eos:
            if record.tokens != record.request.max_tokens:
                record.fate, record.code = "wrong", "length"
                record.problem = f"{record.tokens} tokens, and {record.request.max_tokens} were asked for"


def _openai(target: Target, request: Request) -> tuple[str, dict[str, Any]]:
    body: dict[str, Any] = {
        "model": target.model(request.task),
        "max_tokens": request.max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if target.ignores_eos:
        body["ignore_eos"] = True
    if target.api == "chat":
        return "/v1/chat/completions", body | {"messages": [{"role": "user", "content": request.texts[0]}]}
    return "/v1/completions", body | {"prompt": request.texts[0]}


def _lorax(target: Target, request: Request) -> tuple[str, dict[str, Any]]:
    parameters: dict[str, Any] = {
        "max_new_tokens": request.max_tokens,
        "ignore_eos_token": target.ignores_eos,
        "details": True,
    }
    if request.task is not None:
        parameters["adapter_id"] = target.model(request.task)
        parameters["adapter_source"] = "local"
    return "/generate_stream", {"inputs": request.texts[0], "parameters": parameters}


def _sglang_fields(template: str) -> Callable[[Request], dict[str, Any]]:
    return lambda request: {} if request.task is None else {"lora_path": template.format(task=request.task)}


NAMES = ("multigraft", "openai", "vllm", "sglang", "lorax")


def make_target(name: str, *, api: Api, base: str, template: str) -> Target:
    """A target by its name. SGLang takes the adapter in `lora_path`, LoRAX in `adapter_id`, others in `model`."""
    if name == "sglang":
        return Target(name, api, base, base, ignores_eos=True, extra=_sglang_fields(template))
    is_known = name != "openai"
    return Target(name, api, base, template, ignores_eos=is_known, keeps_connections=is_known)
