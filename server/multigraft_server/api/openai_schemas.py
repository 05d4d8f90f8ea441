"""The bodies of OpenAI's routes: the fields that are served, vLLM's among them, and those that are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from multigraft_adapters.errors import InvalidRequestError
from multigraft_adapters.registry.names import REFERENCE_PATTERN
from multigraft_server.api.terms import Asking, TermsBody
from multigraft_server.calls import Terms
from multigraft_server.engine.requests import SamplingParams

MAX_LOGPROBS = 20
SMALLEST_TOP_P = 1e-6
"""What `top_p` 0, which OpenAI takes, means: only the likeliest token."""

HARMLESS: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "echo": (False,),
    "suffix": ("",),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "chat_template": (),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "min_tokens": (0,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "allowed_token_ids": ([],),
    "length_penalty": (1,),
    "use_beam_search": (False,),
    "prompt_logprobs": (),
    "truncate_prompt_tokens": (),
    "skip_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
}
"""Fields that change the meaning and are not supported, with the values by which they ask for nothing."""

Stop = Annotated[str, Field(min_length=1, max_length=256)]


def _check_lists(given: Any) -> Any:
    """Raises ValueError for a list with nothing in it, of which the types below would tell less."""
    if given == []:
        raise ValueError("an empty list holds no text and no tokens")
    if isinstance(given, list) and [] in given:
        raise ValueError("a list of tokens in it is empty")
    return given


TokenIds = list[Annotated[int, Field(ge=0, strict=True)]]
TextOrTokens = Annotated[str | TokenIds | list[str] | list[TokenIds], BeforeValidator(_check_lists)]


class OpenAIBody(TermsBody):
    """A body of OpenAI's: fields that we do not know are ignored. `user` stands in for `x-multigraft-sticky`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    model: Annotated[str, WithJsonSchema({"type": "string", "pattern": REFERENCE_PATTERN})]
    user: str | None = None

    def terms(self, asking: Asking) -> Terms:
        """All that was asked for."""
        return super().terms(replace(asking, sticky=asking.sticky or self.user))

    def refuse_unsupported(self) -> None:
        """Raises InvalidRequestError for a field that would change the answer's meaning, and cannot be served."""
        for name, value in (self.model_extra or {}).items():
            if value is not None and value not in HARMLESS.get(name, (value,)):
                raise InvalidRequestError(f"{name} is not supported", param=name)


class StreamOptions(BaseModel):
    """`include_usage` asks for a last chunk with the counts of tokens."""

    include_usage: bool | None = None


class SamplingBody(OpenAIBody):
    """What chat and text completions share. `temperature` and `top_p` are 1 by default, as OpenAI's."""

    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    ignore_eos: bool = False
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def includes_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, max_tokens: int, logprobs: int | None) -> SamplingParams:
        """The engine's parameters for an answer of at most `max_tokens`."""
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else max(self.top_p, SMALLEST_TOP_P),
            top_k=max(self.top_k or 0, 0),
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            seed=self.seed,
            ignore_eos=self.ignore_eos,
            logprobs=logprobs,
        )


class TextPart(BaseModel):
    """A part of a message's content; only text is served."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One message of a chat. `developer` is what OpenAI calls a system message now."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)

    def for_template(self) -> dict[str, str]:
        """The message as chat templates know it."""
        return {"role": "system" if self.role == "developer" else self.role, "content": self.text}


class ChatBody(SamplingBody):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    def refuse_unsupported(self) -> None:
        """As of every body; and for two fields that contradict each other."""
        OpenAIBody.refuse_unsupported(self)
        if (
            None not in (self.max_tokens, self.max_completion_tokens)
            and self.max_tokens != self.max_completion_tokens
        ):
            raise InvalidRequestError(
                "max_tokens and max_completion_tokens mean the same: give one of them", param="max_tokens"
            )
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequestError("top_logprobs asks for logprobs: true", param="top_logprobs")

    @property
    def limit(self) -> int | None:
        """The most tokens asked for."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def num_logprobs(self) -> int | None:
        """How many alternatives to tell beside each token; None for no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionBody(SamplingBody):
    """`POST /v1/completions`."""

    prompt: TextOrTokens
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None


class EmbeddingBody(OpenAIBody):
    """`POST /v1/embeddings`."""

    input: TextOrTokens
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
