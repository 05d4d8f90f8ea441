"""Examples as tokens: what is learnt, what is masked, what is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from multigraft_adapters.bases import BaseSpec, load_tokenizer, read_spec
from multigraft_adapters.errors import InvalidDataError, UnsupportedBaseError
from multigraft_training.batches import IGNORED, Encoded
from multigraft_training.examples import ChatExample, CompletionExample, Message, TextExample
from multigraft_training.tasks import TaskSetup, TrainingTask, make_task
from tests.training.conftest import TinyBase

CHAT = ChatExample(
    (
        Message("user", "hello"),
        Message("assistant", "arr"),
        Message("user", "bye"),
        Message("assistant", "farewell"),
    )
)


class Tools:
    """A tiny base's tokenizer, and tasks on it."""

    def __init__(self, folder: Path) -> None:
        self.spec: BaseSpec = read_spec(folder.name, folder)
        self.tokenizer: Any = load_tokenizer(folder)

    def generation(self, max_length: int = 200, prompt: str | None = None) -> TrainingTask:
        return make_task("text-generation", TaskSetup(self.spec, self.tokenizer, max_length, prompt=prompt))

    def classification(self, max_length: int = 200) -> TrainingTask:
        setup = TaskSetup(self.spec, self.tokenizer, max_length, labels=("no", "yes"))
        return make_task("text-classification", setup)

    def text(self, encoded: Encoded) -> str:
        return str(self.tokenizer.decode(encoded.input_ids))

    def learnt(self, encoded: Encoded) -> str:
        """The text of the targets, `_` for what is masked."""
        parts = ["_" if t == IGNORED else self.tokenizer.decode([t]) for t in encoded.targets]
        assert all(t in (IGNORED, token) for t, token in zip(encoded.targets, encoded.input_ids, strict=True))
        return "".join(parts)


@pytest.fixture
def decoder(tiny_base: TinyBase) -> Tools:
    return Tools(tiny_base("llama"))


@pytest.fixture
def encoder(tiny_base: TinyBase) -> Tools:
    return Tools(tiny_base("bert"))


def test_a_completion_is_learnt_with_its_end_and_its_prompt_is_not(decoder: Tools) -> None:
    encoded = decoder.generation().encode(CompletionExample("ask", "tell"))
    assert decoder.text(encoded) == "asktell<|end|>"
    assert decoder.learnt(encoded) == "___tell<|end|>"


def test_all_assistant_turns_of_a_chat_are_learnt_with_their_ends_and_nothing_else_is(decoder: Tools) -> None:
    encoded = decoder.generation().encode(CHAT)
    rendered = decoder.tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in CHAT.messages], tokenize=True
    )
    assert encoded.input_ids == rendered["input_ids"]
    assert decoder.learnt(encoded).replace("_", "") == "arr<|end|>farewell<|end|>"


def test_what_a_template_puts_after_the_end_of_a_turn_is_not_learnt(decoder: Tools) -> None:
    decoder.tokenizer.chat_template = decoder.tokenizer.chat_template.replace("'<|end|>'", "'<|end|>\n'")
    encoded = decoder.generation().encode(ChatExample(CHAT.messages[:2]))
    assert decoder.text(encoded).endswith("arr<|end|>\n")
    assert decoder.learnt(encoded).strip("_") == "arr<|end|>"


def test_a_template_without_an_end_of_turn_gets_the_end_of_text(decoder: Tools) -> None:
    decoder.tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    encoded = decoder.generation().encode(ChatExample(CHAT.messages[:2]))
    assert decoder.learnt(encoded).strip("_") == "arr<|end|>"


def test_the_recipes_prompt_stands_before_a_chat_that_has_none(decoder: Tools) -> None:
    task = decoder.generation(prompt="Be brief.")
    assert decoder.text(task.encode(CHAT)).startswith("<|system|>Be brief.<|end|><|user|>hello")
    own = ChatExample((Message("system", "Sing."), *CHAT.messages))
    assert decoder.text(task.encode(own)).startswith("<|system|>Sing.<|end|><|user|>hello")


def test_a_long_example_is_cut_and_says_so(decoder: Tools) -> None:
    whole = decoder.generation().encode(CompletionExample("ask", "tell"))
    cut = decoder.generation(max_length=5).encode(CompletionExample("ask", "tell"))
    lost = decoder.generation(max_length=3).encode(CompletionExample("ask", "tell"))
    assert (whole.is_cut, cut.is_cut, lost.is_cut) == (False, True, True)
    assert (cut.input_ids, cut.num_targets, lost.num_targets) == (whole.input_ids[:5], 2, 0)


def test_a_template_that_rewrites_earlier_turns_is_refused(decoder: Tools) -> None:
    decoder.tokenizer.chat_template = (
        "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    with pytest.raises(InvalidDataError, match="chat template cannot be trained on"):
        decoder.generation().encode(CHAT)


def test_a_template_that_refuses_a_chat_says_why(decoder: Tools) -> None:
    decoder.tokenizer.chat_template = "{{ raise_exception('no chats today') }}"
    with pytest.raises(InvalidDataError, match="no chats today"):
        decoder.generation().encode(CHAT)


def test_a_base_without_a_template_takes_no_chats(decoder: Tools) -> None:
    decoder.tokenizer.chat_template = None
    with pytest.raises(InvalidDataError, match="no chat template"):
        decoder.generation().encode(CHAT)


def test_a_pair_of_texts_is_one_sequence_with_types(encoder: Tools) -> None:
    encoded = encoder.classification().encode(TextExample("ab", "c", "yes"))
    assert encoder.text(encoded) == "[CLS]ab[SEP]c[SEP]"
    assert (encoded.token_types, encoded.targets) == ([0, 0, 0, 0, 1, 1], [1])


def test_a_long_text_is_cut_inside_its_special_tokens(encoder: Tools) -> None:
    encoded = encoder.classification(max_length=8).encode(TextExample("a long text", None, "no"))
    assert encoder.text(encoded) == "[CLS]a long[SEP]"
    assert encoded.is_cut


def test_an_encoder_does_not_generate(encoder: Tools) -> None:
    with pytest.raises(UnsupportedBaseError, match="text-generation needs a decoder"):
        encoder.generation()
