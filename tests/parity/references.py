"""What PEFT's model of an adapter computes, in the terms in which the engine answers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from multigraft_adapters.methods import applied
from tests.parity.cells import Cell
from tests.parity.rows import Input, Row

POOLED: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda states: states.mean(0),
    "cls": lambda states: states[0],
    "last": lambda states: states[-1],
}


@torch.inference_mode()
def expected(row: Row, model: Any, answer: Sequence[int]) -> Tensor:
    """What `model`, PEFT's of the row's cell or one like it, answers, in fp32.

    Logits (labels,), logits of each token (tokens, labels), a vector (hidden,), or for text-generation the
    log-probabilities (answer, vocabulary) after the input and after each token of the answer but the last.
    """
    output, kind = _forward(row.input, model, answer), row.cell.form.peft_type
    length = len(row.input.tokens)
    if kind == "CAUSAL_LM":
        return torch.log_softmax(output.logits[0, -len(answer) :].float(), dim=-1)
    if kind == "QUESTION_ANS":
        return torch.stack([output.start_logits[0, -length:], output.end_logits[0, -length:]], -1).float()
    if kind == "FEATURE_EXTRACTION":
        return vector(row.cell, output.last_hidden_state[0].float())
    logits: Tensor = output.logits[0].float()
    # Labels do not move: those of virtual tokens are nobody's.
    return logits[-length:] if kind == "TOKEN_CLS" else logits


def _forward(read: Input, model: Any, answer: Sequence[int]) -> Any:
    dtype = next(model.parameters()).dtype
    if read.pixels is not None:
        return model(pixel_values=torch.from_numpy(read.pixels)[None].to(dtype))
    ids = torch.tensor([[*read.tokens, *answer[:-1]]])
    with token_types(model, read.types):
        return model(input_ids=ids, attention_mask=torch.ones_like(ids))


@torch.inference_mode()
def greedy(cell: Cell, tokens: Sequence[int], count: int, **options: Any) -> list[int]:
    """PEFT's `count` greedy tokens after the input; an end-of-text token does not stop them."""
    ids = torch.tensor([list(tokens)])
    cell.model.generation_config.eos_token_id = None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Position ids are not supported", UserWarning)
        output = cell.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=count,
            pad_token_id=0,
            **options,
        )
    answer: list[int] = output[0].tolist()
    return answer[-count:]


def vector(cell: Cell, states: Tensor) -> Tensor:
    """The vector that a form pools from states (tokens, hidden), virtual tokens included."""
    pooled: Tensor = POOLED[cell.form.declared.get("pooling", "mean")](states)
    return nn.functional.normalize(pooled, dim=-1) if cell.form.declared.get("normalize", True) else pooled


@contextmanager
def token_types(model: Any, types: Sequence[int] | None) -> Iterator[None]:
    """Give the backbone token types, 0 for virtual tokens: PEFT's question answering takes none."""

    def give(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        ids = (*args, kwargs.get("input_ids"))[0]
        given = kwargs["inputs_embeds"] if ids is None else ids
        assert types is not None
        before = given.shape[1] - len(types)
        return args, kwargs | {"token_type_ids": torch.tensor([[0] * before + list(types)])}

    with ExitStack() as stack:
        if types is not None:
            inner = model.get_base_model() if hasattr(model, "get_base_model") else model
            stack.callback(inner.base_model.register_forward_pre_hook(give, with_kwargs=True).remove)
        yield


def with_head(cell: Cell) -> Any:
    """The bare task model, which is given the adapter's head, and has nothing of its delta."""
    saved = {
        name.replace(".modules_to_save.default", "").removeprefix("base_model.").removeprefix("model."): tensor
        for name, tensor in cell.model.state_dict().items()
        if ".modules_to_save.default" in name
    }
    assert not cell.task_model.load_state_dict(saved, strict=False).unexpected_keys
    return cell.task_model


@contextmanager
def by_formula(cell: Cell) -> Iterator[Any]:
    """As `with_head`, computing with the bottlenecks by their formula alone."""
    assert cell.verified is not None
    bare = with_head(cell)
    with applied(bare.base_model, cell.verified.delta):
        yield bare


def to_bf16(model: Any) -> Any:
    """The same model with its weights, but no buffer of positions, in bf16; `model` itself is changed."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    return model
