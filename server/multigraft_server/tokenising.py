"""From texts and chats to token ids, on a small pool of threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerFast

from multigraft_adapters.bases.families import traits_of
from multigraft_adapters.bases.spec import BaseSpec
from multigraft_adapters.errors import InvalidRequestError
from multigraft_adapters.windows import ReadText, read_question, read_text
from multigraft_server.reading import Reader

Pixels = np.ndarray[Any, np.dtype[np.float32]]


class TextInput(NamedTuple):
    """A text, or a pair of texts that are read as one sequence."""

    text: str
    pair: str | None = None


class Tokens(NamedTuple):
    """One sequence. `type_ids` only where the base takes them. An image's ids are zeros, and it has `pixels`."""

    ids: tuple[int, ...]
    type_ids: tuple[int, ...] | None = None
    pixels: Pixels | None = None


def plain_backend(tokenizer: Any) -> Any | None:
    """A tokenizer's own backend, where transformers adds nothing to it but time: a tenth of it is the backend's.

    None for a tokenizer of another kind, or of a class that encodes or decodes in its own way.
    """
    own = PreTrainedTokenizerFast
    names = ("__call__", "_encode_plus", "decode", "_decode")
    is_plain = isinstance(tokenizer, own) and all(
        getattr(type(tokenizer), name) is getattr(own, name) for name in names
    )
    return tokenizer.backend_tokenizer if is_plain else None


class Tokeniser(Reader):
    """Owns the base's tokenizer and the threads that use it.

    An image base has none: no route that takes text reaches it there.
    """

    def __init__(self, tokenizer: Any, spec: BaseSpec, threads: int) -> None:
        super().__init__("tokenise", threads)
        self._tokenizer = tokenizer
        self._takes_types = traits_of(spec.model_type).token_types
        self._vocab_size = spec.vocab_size
        # NOTE: the first call switches off the padding and truncation that a tokenizer file may ask for. It
        # must be over before two threads share the tokenizer, since changing it while it is in use raises.
        if tokenizer is not None:
            self._encode_slowly(TextInput("warm"))
        self._backend = plain_backend(tokenizer)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer itself, to read tokens with."""
        return self._tokenizer

    @property
    def has_chat_template(self) -> bool:
        return bool(self._tokenizer.chat_template)

    async def texts(self, inputs: Sequence[TextInput], param: str = "inputs") -> list[Tokens]:
        """The tokens of each input, with the special tokens that the base expects around it.

        Raises InvalidRequestError naming `param` for a text that is not Unicode or that is no token at all.
        """
        key = ("texts", tuple(inputs), param)
        return await self.run_once(key, lambda: [self._encode(one, param) for one in inputs])

    async def read(self, texts: Sequence[str], param: str = "inputs") -> list[ReadText]:
        """The tokens of each text with their places in it.

        Raises InvalidRequestError naming `param` for a text that is not Unicode or that has no token of its own.
        """
        key = ("read", tuple(texts), param)
        return await self.run_once(key, lambda: [self._read(text, param) for text in texts])

    async def read_question(self, question: str, context: str, param: str) -> ReadText:
        """The tokens of a question and its context, with their places in the context.

        Raises InvalidRequestError naming `param`'s `question` or `context`, as `read`.
        """
        key = ("question", question, context, param)
        return await self.run_once(key, lambda: self._read_question(question, context, param))

    def of_window(self, window: ReadText) -> Tokens:
        """A window of a text as the base takes it."""
        return Tokens(window.ids, window.type_ids if self._takes_types else None)

    async def chat(self, messages: Sequence[Mapping[str, str]]) -> Tokens:
        """The tokens of a chat in the base's template, up to where the assistant answers.

        Raises InvalidRequestError when the base has no template, or its template refuses the chat.
        """
        return await self.run(lambda: self._encode_chat(messages))

    def of_ids(self, ids: Sequence[int], param: str) -> Tokens:
        """Tokens that came as numbers, taken as they are. Raises InvalidRequestError for one that is none."""
        wrong = next((one for one in ids if not 0 <= one < self._vocab_size), None)
        if wrong is not None:
            raise InvalidRequestError(
                f"{param}: {wrong} is no token; they go from 0 to {self._vocab_size - 1}", param=param
            )
        return Tokens(tuple(ids), (0,) * len(ids) if self._takes_types else None)

    def _encode(self, one: TextInput, param: str) -> Tokens:
        _check_unicode(one.text, param)
        _check_unicode(one.pair or "", param)
        if self._backend is None:
            return _checked(self._encode_slowly(one), param)
        encoded = self._backend.encode(one.text, one.pair or None)
        types = tuple(encoded.type_ids) if self._takes_types else None
        return _checked(Tokens(tuple(encoded.ids), types), param)

    def _encode_slowly(self, one: TextInput) -> Tokens:
        """The tokens as transformers gives them, by any tokenizer."""
        encoded = self._tokenizer(
            one.text,
            one.pair,
            return_attention_mask=False,
            return_token_type_ids=self._takes_types,
            verbose=False,
        )
        types = tuple(encoded["token_type_ids"]) if self._takes_types else None
        return Tokens(tuple(encoded["input_ids"]), types)

    def _read(self, text: str, param: str) -> ReadText:
        _check_unicode(text, param)
        return _with_tokens(read_text(self._tokenizer, text), param)

    def _read_question(self, question: str, context: str, param: str) -> ReadText:
        _check_unicode(question, f"{param}.question")
        _check_unicode(context, f"{param}.context")
        return _with_tokens(read_question(self._tokenizer, question, context), f"{param}.context")

    def _encode_chat(self, messages: Sequence[Mapping[str, str]]) -> Tokens:
        if not self.has_chat_template:
            raise InvalidRequestError("this base has no chat template: use /v1/completions", param="messages")
        for message in messages:
            _check_unicode(message["content"], "messages")
        try:
            text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise InvalidRequestError(
                f"the base's chat template refuses this chat: {error}", param="messages"
            ) from None
        encoded = self._tokenizer(text, add_special_tokens=False, return_attention_mask=False, verbose=False)
        return _checked(Tokens(tuple(encoded["input_ids"])), "messages")


def _check_unicode(text: str, param: str) -> None:
    # JSON can spell half a surrogate pair, which is no character and which no tokenizer reads.
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequestError(f"{param} holds half of a surrogate pair", param=param) from None


def _checked(tokens: Tokens, param: str) -> Tokens:
    if not tokens.ids:
        raise InvalidRequestError(f"{param} has no tokens", param=param)
    return tokens


def _with_tokens(text: ReadText, param: str) -> ReadText:
    if text.start == text.stop:
        raise InvalidRequestError(f"{param} has no tokens", param=param)
    return text
