"""Tokenising: the same tokens as the tokenizer's own, from many threads at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from multigraft_adapters.errors import InvalidRequestError
from multigraft_server.tokenising import TextInput, Tokeniser, Tokens, plain_backend
from tests.server.conftest import LoadTiny
from tests.tiny import tiny_tokenizer


@pytest.fixture
def bert(load_tiny: LoadTiny) -> Iterator[Tokeniser]:
    base = load_tiny("bert")
    tokeniser = Tokeniser(base.tokenizer, base.spec, threads=2)
    yield tokeniser
    tokeniser.close()


@pytest.fixture
def llama(load_tiny: LoadTiny) -> Iterator[Tokeniser]:
    base = load_tiny("llama")
    tokeniser = Tokeniser(base.tokenizer, base.spec, threads=2)
    yield tokeniser
    tokeniser.close()


def test_a_pair_has_its_two_types(bert: Tokeniser) -> None:
    [tokens] = asyncio.run(bert.texts([TextInput("ab", "c")]))
    own = tiny_tokenizer(encoder=True)("ab", "c")
    assert tokens == Tokens(tuple(own["input_ids"]), (0, 0, 0, 0, 1, 1))


def test_a_decoder_gets_no_types(llama: Tokeniser) -> None:
    [tokens] = asyncio.run(llama.texts([TextInput("ab")]))
    assert tokens.type_ids is None
    assert llama.of_ids([1, 2], "prompt") == Tokens((1, 2), None)


def test_a_tokenizer_that_pads_and_truncates_by_itself_is_kept_from_it(
    tmp_path: Path, load_tiny: LoadTiny
) -> None:
    tokenizer = tiny_tokenizer(encoder=True)
    tokenizer.backend_tokenizer.enable_truncation(max_length=8)
    tokenizer.backend_tokenizer.enable_padding(length=8)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.backend_tokenizer.padding is not None
    tokeniser = Tokeniser(loaded, load_tiny("bert").spec, threads=4)

    async def many() -> list[list[Tokens]]:
        texts = [[TextInput("x" * length)] for length in range(1, 60)]
        return await asyncio.gather(*(tokeniser.texts(text) for text in texts))

    lengths = [len(tokens.ids) for [tokens] in asyncio.run(many())]
    tokeniser.close()
    assert lengths == [length + 2 for length in range(1, 60)]


def test_a_chat_is_written_in_the_base_s_template(llama: Tokeniser) -> None:
    tokens = asyncio.run(llama.chat([{"role": "user", "content": "hi"}]))
    text = tiny_tokenizer(encoder=False).decode(list(tokens.ids))
    assert text == "<|user|>hi<|end|><|assistant|>"


def test_a_base_without_a_template_does_not_chat(bert: Tokeniser) -> None:
    with pytest.raises(InvalidRequestError, match="no chat template"):
        asyncio.run(bert.chat([{"role": "user", "content": "hi"}]))


def test_a_template_that_refuses_a_chat_is_the_caller_s_mistake(load_tiny: LoadTiny) -> None:
    base = load_tiny("llama")
    base.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    tokeniser = Tokeniser(base.tokenizer, base.spec, threads=1)
    with pytest.raises(InvalidRequestError, match="roles must alternate"):
        asyncio.run(tokeniser.chat([{"role": "user", "content": "hi"}]))
    tokeniser.close()


@pytest.mark.parametrize("text", ["", "\ud83d"])
def test_what_has_no_tokens_or_is_no_text_is_refused(llama: Tokeniser, text: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        asyncio.run(llama.texts([TextInput(text)], "prompt"))
    assert raised.value.param == "prompt"


def test_a_number_that_is_no_token_is_refused(llama: Tokeniser) -> None:
    with pytest.raises(InvalidRequestError, match="99999 is no token"):
        llama.of_ids([1, 99999], "prompt")


@given(st.text(max_size=30), st.none() | st.text(max_size=10))
@settings(max_examples=60, deadline=None)
def test_the_backend_alone_gives_the_tokens_that_transformers_gives(text: str, pair: str | None) -> None:
    for encoder in (True, False):
        tokenizer = tiny_tokenizer(encoder=encoder)
        slow = tokenizer(text, pair, return_token_type_ids=True)
        backend: Any = plain_backend(tokenizer)
        fast = backend.encode(text, pair or None)
        assert fast.ids == slow["input_ids"]
        assert fast.type_ids == slow["token_type_ids"]


def test_a_tokenizer_that_encodes_in_its_own_way_is_asked_itself(load_tiny: LoadTiny) -> None:
    class Own(PreTrainedTokenizerFast):
        def __call__(self, *args: Any, **options: Any) -> Any:
            return super().__call__("own", **options)

    base = load_tiny("bert")
    make: Any = Own
    own = make(tokenizer_object=base.tokenizer.backend_tokenizer)
    assert plain_backend(own) is None and plain_backend(None) is None
    tokeniser = Tokeniser(own, base.spec, threads=1)
    [tokens] = asyncio.run(tokeniser.texts([TextInput("ab")]))
    tokeniser.close()
    assert list(tokens.ids) == base.tokenizer("own")["input_ids"]
