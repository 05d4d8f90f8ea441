"""What weights of 8 bits change: the answers, the memory, the time of the linear layers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from multigraft_adapters.bases import Base, load_base
from multigraft_server.bench.steps import measure_floor
from multigraft_server.engine.quantising import QuantisedLinear, quantise

WINDOW = 256
"""Tokens of a text that are read at once."""


class Outputs(NamedTuple):
    """What a base makes of the windows of a text: a decoder's log-probabilities (tokens, vocabulary) of the next
    tokens and the tokens that did follow, or an encoder's vectors (windows, hidden)."""

    values: Tensor
    targets: Tensor | None


def compare(name: str, data_dir: Path, text: str, rows: int, rounds: int) -> dict[str, float]:
    """The figures of a base with its weights as they are and with weights of 8 bits, by name.

    The accuracy is over a text, in windows of 256 tokens; the time is of the linear layers and the output head on
    so many rows, in turns.
    """
    plain = load_base(name, data_dir)
    own = _outputs(plain, text)
    quantised = quantise(load_base(name, data_dir))
    figures = _accuracy(own, _outputs(quantised, text))
    figures["linear weights, MB"], figures["in 8 bits, MB"] = _megabytes(plain), _megabytes(quantised)
    ratios = []
    for _ in range(rounds):
        before, after = (median(measure_floor(base, rows, 3)) for base in (plain, quantised))
        ratios.append(after / before)
    figures[f"time of the linear layers on {rows} rows, to that without"] = median(ratios)
    return figures


def _accuracy(own: Outputs, quantised: Outputs) -> dict[str, float]:
    if own.targets is None:
        cosines = functional.cosine_similarity(own.values, quantised.values)
        return {"cosine to the exact vector, mean": float(cosines.mean()), "least": float(cosines.min())}
    chosen = [found.values.gather(1, own.targets[:, None]).mean().neg().exp() for found in (own, quantised)]
    agree = (own.values.argmax(1) == quantised.values.argmax(1)).float().mean()
    divergence = (own.values.exp() * (own.values - quantised.values)).sum(1).mean()
    return {
        "tokens": float(len(own.targets)),
        "perplexity": float(chosen[0]),
        "perplexity in 8 bits": float(chosen[1]),
        "same most likely token": float(agree),
        "divergence, nats a token": float(divergence),
    }


@torch.inference_mode()
def _outputs(base: Base, text: str) -> Outputs:
    states = [(ids, base.model(input_ids=ids[None]).last_hidden_state[0]) for ids in _windows(base, text)]
    if base.lm_head is None:
        return Outputs(torch.stack([found.float().mean(0) for _, found in states]), None)
    logits = torch.cat([base.lm_head(found[:-1]).float() for _, found in states])
    return Outputs(logits.log_softmax(1), torch.cat([ids[1:] for ids, _ in states]))


def _windows(base: Base, text: str) -> Iterator[Tensor]:
    ids = torch.tensor(base.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    return (window for window in torch.split(ids, WINDOW) if len(window) > 1)


def _megabytes(base: Base) -> float:
    modules: list[nn.Module] = [base.model.get_submodule(path) for path in base.spec.targets]
    modules += [] if base.lm_head is None else [base.lm_head]
    return sum(map(_num_bytes, modules)) / 1e6


def _num_bytes(module: nn.Module) -> int:
    weight: Tensor = module.weight  # type: ignore[assignment]
    return module.num_bytes if isinstance(module, QuantisedLinear) else weight.nbytes
