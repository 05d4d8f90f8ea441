"""Adapters whose answers tell which version computed them, whatever they are asked.

A delta overwhelms the base: its output does not depend on the text, and every part of it must be right. In a LoRA,
neurons in pairs make an even function of what they read (in BERT, gelu(y) + gelu(-y) is y erf(y / sqrt 2); in
Llama, silu(y) y + silu(-y) (-y) is y^2), which is above 0 whatever the text is: they write in one direction. The
first part writes one of a few *keys*; the last part reads all keys and writes another symbol for each; a head
gives each symbol a label by a permutation of its own. The wrong delta, half of another's delta, the bare base or
another's head end at another label or word.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import safetensors.numpy

from multigraft_loadtest import random_adapters
from multigraft_loadtest.random_adapters import CONFIG, PREFIX, TENSORS, Arrays, normal
from multigraft_loadtest.shapes import Shape
from multigraft_loadtest.storm.alphabet import Alphabet
from multigraft_loadtest.storm.base_files import Array

RANK = 8
LOUD = 100.0
"""What a neuron of ours reads is so many times what it would read of the base."""

WRITES = 1000.0
"""What a part writes, per unit of what it reads: far more than all the base's own blocks write."""

SATURATING = 50.0
"""The pooler's input before its tanh, where a key is read."""

Kind = Literal["classification", "generation"]
Method = Literal["lora", "bottleneck"]
METHODS: Sequence[Method] = ("lora", "bottleneck")


@dataclass(frozen=True, slots=True)
class Mark:
    """What the answers of one adapter say: the label on top of a classification, or a word over and over."""

    serial: int
    kind: Kind
    text: str


@dataclass(frozen=True, slots=True)
class MarkedAdapter:
    """The files of an adapter, what an upload must say of it, and its mark."""

    files: dict[str, bytes]
    declaration: dict[str, Any]
    mark: Mark


@dataclass(frozen=True, slots=True)
class Marker:
    """Makes marked adapters of one base.

    Of two adapters whose serial numbers are less far apart than there are symbols (or words), the deltas alone
    give different answers.
    """

    shape: Shape
    alphabet: Alphabet
    seed: int = 0

    def make(self, task: str, serial: int, kind: Kind, method: Method) -> MarkedAdapter:
        """The adapter of this serial number, which follows from the arguments."""
        draw = np.random.default_rng([self.seed, 2, serial])
        spoken = self._targets(kind)
        symbol = serial % len(spoken)
        config, tensors = random_adapters.METHODS[method](self.shape, RANK, np.random.default_rng([self.seed, 3]))
        write: Callable[[Arrays, Array, int, np.random.Generator], None] = {
            ("lora", "encoder"): self._lora_encoder,
            ("lora", "decoder"): self._lora_decoder,
        }.get((method, self.shape.family), self._bottleneck)
        write(tensors, spoken, symbol, draw)
        declaration: dict[str, Any] = {"task_type": "text-generation"}
        if kind == "generation":
            config["task_type"] = "CAUSAL_LM"
            text = self.alphabet.words[symbol]
        else:
            config |= {"task_type": "SEQ_CLS", "modules_to_save": [self.shape.head]}
            places = draw.permutation(self.alphabet.symbols)
            tensors |= self._head(method, places)
            names = [f"{task} {serial} {place}" for place in range(len(places))]
            text = names[int(places[symbol])]
            declaration = {
                "task_type": "text-classification",
                "id2label": {str(place): name for place, name in enumerate(names)},
            }
        half = {name: np.ascontiguousarray(tensor, np.float16) for name, tensor in tensors.items()}
        files = {CONFIG: json.dumps(config).encode(), TENSORS: safetensors.numpy.save(half, {"format": "pt"})}
        return MarkedAdapter(files, declaration, Mark(serial, kind, text))

    def _targets(self, kind: Kind) -> Array:
        """What the last part of a delta writes, by symbol."""
        return self.alphabet.towards if kind == "generation" else self.alphabet.signs

    def _lora_encoder(self, tensors: Arrays, spoken: Array, symbol: int, draw: np.random.Generator) -> None:
        """The last block writes a key, the pooler's dense reads the keys and writes symbols."""
        at = f"bert.encoder.layer.{self.shape.layers - 1}"
        key = int(draw.integers(RANK))
        reads = normal(draw, RANK, self.shape.hidden, scale=self.shape.hidden**-0.5)
        _set(tensors, f"{at}.intermediate.dense", reads, _pairs(self.shape.intermediate))
        writes = np.zeros((self.shape.hidden, RANK), np.float32)
        writes[:, 0] = WRITES * self.alphabet.keys[key]
        _set(tensors, f"{at}.output.dense", _together(self.shape.intermediate), writes)
        said = spoken[_said(key, symbol, len(spoken), draw)]
        reads = self.alphabet.keys[:RANK] * self.shape.hidden**-1
        _set(tensors, "bert.pooler.dense", reads, SATURATING * said.T)

    def _lora_decoder(self, tensors: Arrays, spoken: Array, symbol: int, draw: np.random.Generator) -> None:
        """The first block writes a key, which stays the largest in the residual; the last one reads the keys."""
        first, last = "model.layers.0.mlp", f"model.layers.{self.shape.layers - 1}.mlp"
        key = int(draw.integers(RANK))
        reads = normal(draw, RANK, self.shape.hidden, scale=self.shape.hidden**-0.5)
        writes = np.zeros((self.shape.hidden, RANK), np.float32)
        writes[:, 0] = WRITES * self.alphabet.keys[key]
        said = spoken[_said(key, symbol, len(spoken), draw)]
        keys = self.alphabet.keys[:RANK] * self.shape.hidden**-0.5
        for at, read, gather, write in (
            (first, reads, _together(self.shape.intermediate), writes),
            (last, keys, _apart(self.shape.intermediate), WRITES * said.T),
        ):
            for name in ("gate_proj", "up_proj"):
                _set(tensors, f"{at}.{name}", read, _pairs(self.shape.intermediate))
            _set(tensors, f"{at}.down_proj", gather, write)

    def _bottleneck(self, tensors: Arrays, spoken: Array, symbol: int, draw: np.random.Generator) -> None:
        """The last block's bias writes the symbol: a key in an encoder, whose own pooler reads it."""
        layer = self.shape.layers - 1
        at = f"model.layers.{layer}.mlp.down_proj"
        if self.shape.family == "encoder":
            at, spoken = f"bert.encoder.layer.{layer}.output.dense", self.alphabet.keys
        tensors[f"{PREFIX}{at}.bottleneck_up.bias"] = WRITES * 10 * spoken[symbol]

    def _head(self, method: Method, places: Any) -> Arrays:
        """Symbol s gets the label places[s]."""
        rows = self.alphabet.signs * (20.0 / self.shape.hidden)
        if method == "bottleneck" and self.shape.family == "encoder":
            rows = 20.0 * np.linalg.pinv(self.alphabet.pooled).T
        weight = np.zeros_like(rows)
        weight[places] = rows
        name = f"{PREFIX}{self.shape.head}"
        bias = {f"{name}.bias": np.zeros(len(rows), np.float32)} if self.shape.family == "encoder" else {}
        return {f"{name}.weight": weight, **bias}


def _said(key: int, symbol: int, count: int, draw: np.random.Generator) -> list[int]:
    """A symbol for each key, all different as far as there are enough: that of our own key is `symbol`."""
    others = [one for one in draw.permutation(count) if one != symbol]
    said = [int(others[place % len(others)]) for place in range(RANK)]
    said[key] = symbol
    return said


def _set(tensors: Arrays, path: str, a: Array, b: Array) -> None:
    """The factors of a linear module's LoRA: a (rank, inputs), b (outputs, rank)."""
    tensors[f"{PREFIX}{path}.lora_A.weight"] = a.astype(np.float32)
    tensors[f"{PREFIX}{path}.lora_B.weight"] = b.astype(np.float32)


def _pairs(size: int) -> Array:
    """B of a layer of neurons (size, rank): the neurons 2i and 2i + 1 read y_i and -y_i, all others nothing."""
    b = np.zeros((size, RANK), np.float32)
    places = np.arange(RANK)
    b[2 * places, places], b[2 * places + 1, places] = LOUD, -LOUD
    return b


def _together(size: int) -> Array:
    """A of the linear behind such a layer (rank, size): the sum over all pairs, in its first row."""
    a = np.zeros((RANK, size), np.float32)
    a[0, : 2 * RANK] = 1.0
    return a


def _apart(size: int) -> Array:
    """The same with a row for each pair."""
    a = np.zeros((RANK, size), np.float32)
    places = np.arange(RANK)
    a[places, 2 * places] = a[places, 2 * places + 1] = 1.0
    return a
