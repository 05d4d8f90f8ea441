"""A chat as tokens, by the base's own template, with only the assistant's turns to learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from multigraft_adapters.errors import InvalidDataError
from multigraft_training.batches import IGNORED
from multigraft_training.examples import ChatExample, Message

Turns = list[dict[str, str]]


def with_prompt(messages: Sequence[Message], prompt: str | None) -> Turns:
    """The turns as a template takes them, the system prompt put before a chat that has none."""
    turns = [{"role": message.role, "content": message.content} for message in messages]
    if prompt is not None and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": prompt})
    return turns


def render(tokenizer: Any, turns: Turns, *, is_open: bool) -> str:
    """The chat as the base's text; `is_open` ends it where the assistant's answer begins."""
    try:
        text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=is_open)
    except TemplateError as error:
        raise InvalidDataError("the base's chat template refuses a chat", [str(error)]) from error
    return text


def encode_chat(tokenizer: Any, example: ChatExample, prompt: str | None) -> tuple[list[int], list[int]]:
    """(tokens, targets): a token of an assistant's turn is its own target, up to the one that ends the turn.

    Each piece is tokenised as a server meets it: what comes before an answer in one go, the answer by itself.
    Raises InvalidDataError where the template does not build a chat turn by turn.
    """
    turns = with_prompt(example.messages, prompt)
    tokens: list[int] = []
    targets: list[int] = []
    done = ""
    for index, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        before = render(tokenizer, turns[:index], is_open=True)
        after = render(tokenizer, turns[: index + 1], is_open=False)
        if not before.startswith(done) or not after.startswith(before):
            raise InvalidDataError(
                "the base's chat template cannot be trained on",
                ["it does not render a chat as the one before it with a turn added"],
            )
        context = _tokenize(tokenizer, before.removeprefix(done))
        answer = _tokenize(tokenizer, after.removeprefix(before))
        end = _turn_end(tokenizer, answer)
        tokens += context + answer
        targets += [IGNORED] * len(context) + answer[:end] + [IGNORED] * (len(answer) - end)
        done = after
    return tokens, targets


def _turn_end(tokenizer: Any, answer: list[int]) -> int:
    """How many tokens of a rendered answer belong to it, the special token that ends it included."""
    special = set(tokenizer.all_special_ids)
    ends = [index for index, token in enumerate(answer) if token in special]
    return ends[-1] + 1 if ends else len(answer)


def _tokenize(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids
