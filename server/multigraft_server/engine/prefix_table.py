"""Which prompt prefixes are kept, and where: the books of the prefix cache, without tensors.

Tokens are kept in blocks. A block is found by the block before it and its own tokens, which are compared whole:
no hash stands for them, so none can collide.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import NamedTuple

from multigraft_adapters.errors import IntegrityError

BLOCK_TOKENS = 16
LEAST_AWAITED = 64
"""Fewer tokens than these are computed twice rather than waited for."""
UNMERGED = "unmerged"
"""The state of the weights in which a row's delta is computed beside them."""
MERGED = "merged"
"""The state of the weights in which it is merged into them."""


class PrefixSpace(NamedTuple):
    """What shares keys and values: rows of one adapter, over weights in one state, with one caller's salt."""

    digest: str
    weights: str
    salt: str


@dataclass(slots=True, eq=False)
class Block:
    """Some tokens after all those before them. `place` is where the store has their keys and values, if it has.

    `holds`: running rows that have it; `awaited`: those of them that have yet to compute it; `children`: blocks
    that come after it. `used` is a count that grows with each use of the table.
    """

    parent: Block | PrefixSpace
    tokens: tuple[int, ...]
    place: int | None = None
    holds: int = 0
    awaited: int = 0
    children: int = 0
    used: int = 0
    is_listed: bool = False


@dataclass(slots=True, eq=False)
class Chain:
    """The blocks of a running row, held until the chain is closed; `num_passed` of them are saved, or never will
    be by this row."""

    space: PrefixSpace
    blocks: list[Block]
    num_passed: int

    def places(self, num_tokens: int) -> list[tuple[int, int]]:
        """Of the saved blocks of its first tokens, the place and the first token."""
        blocks = enumerate(self.blocks[: num_tokens // BLOCK_TOKENS])
        return [(block.place, index * BLOCK_TOKENS) for index, block in blocks if block.place is not None]


class PrefixTable:
    """Blocks by what comes before them; the least recently used without a child and a hold goes for a new one."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.merged: str | None = None  # the adapter that is merged into the weights now
        self._blocks: dict[tuple[Block | PrefixSpace, tuple[int, ...]], Block] = {}
        self._free = list(range(num_blocks - 1, -1, -1))
        # A turn may be out of date: its block was used again, or has a child. That is noticed when it comes up.
        self._turns: list[tuple[int, int, Block]] = []
        self._serial = itertools.count()
        self._uses = 0

    @property
    def used_tokens(self) -> int:
        return (self.num_blocks - len(self._free)) * BLOCK_TOKENS

    @property
    def capacity_tokens(self) -> int:
        return self.num_blocks * BLOCK_TOKENS

    def space(self, digest: str, salt: str) -> PrefixSpace:
        """Where rows of an adapter that begin now look and save."""
        return PrefixSpace(digest, self.weights_of(digest), salt)

    def weights_of(self, digest: str) -> str:
        """The state of the weights for rows of an adapter: those of others than the merged one run on the
        originals."""
        return MERGED if digest == self.merged else UNMERGED

    def find(self, space: PrefixSpace, tokens: Sequence[int]) -> list[Block]:
        """The known blocks that `tokens` begin with: first those that are saved, then those that are awaited."""
        found: list[Block] = []
        parent: Block | PrefixSpace = space
        for piece in _pieces(tokens, 0) if self._blocks else ():
            block = self._blocks.get((parent, piece))
            if block is None or (block.place is None and not block.awaited):
                break
            found.append(block)
            parent = block
        return found

    def open(self, space: PrefixSpace, tokens: Sequence[int], found: Sequence[Block]) -> Chain:
        """The chain of a row that begins with these tokens, of which `find` has found `found`."""
        saved = [block for block in found if block.place is not None]
        chain = Chain(space, list(saved), len(saved))
        self._uses += 1
        for block in saved:
            block.holds += 1
            block.used = self._uses
        self._add(chain, tokens)
        for block in chain.blocks[chain.num_passed :]:
            block.awaited += 1
        return chain

    def extend(self, chain: Chain, tokens: Sequence[int]) -> None:
        """Add a row's further tokens, which are computed, to its chain, if all before them is saved."""
        known = len(chain.blocks)
        if chain.num_passed == known and all(block.place is not None for block in chain.blocks[-1:]):
            self._add(chain, tokens)
            for block in chain.blocks[known:]:
                block.awaited += 1

    def saves(self, chain: Chain, num_computed: int) -> Iterator[list[tuple[int, int]]]:
        """What of a chain is to be saved, when so many of its row's tokens are computed: at most one list, of
        pairs of a place in the store and a block's first token.

        It is booked when the iteration goes on: a caller that fails to save has lost nothing.
        """
        stop = min(num_computed // BLOCK_TOKENS, len(chain.blocks))
        unsaved = [index for index in range(chain.num_passed, stop) if chain.blocks[index].place is None]
        is_current = chain.space.weights == self.weights_of(chain.space.digest)
        places = self._places(len(unsaved)) if is_current else []
        saved = list(zip(places, unsaved, strict=False))
        if saved:
            yield [(place, index * BLOCK_TOKENS) for place, index in saved]
            del self._free[-len(saved) :]
        for place, index in saved:
            chain.blocks[index].place = place
        # Behind a block that found no place, none is saved: what is saved is whole from the first token on.
        self._pass(chain, stop if len(saved) == len(unsaved) else len(chain.blocks))

    def close(self, chain: Chain) -> None:
        """A row has ended: what it held can go, and what it has not saved does."""
        self._pass(chain, len(chain.blocks))
        for block in reversed(chain.blocks):
            block.holds -= 1
            self._settle(block)
        chain.blocks.clear()

    def check_integrity(self, chains: Iterable[Chain]) -> None:
        """Raise IntegrityError unless every place is free or has one block, and what rows hold is what is held."""
        places = sorted([*self._free, *(b.place for b in self._blocks.values() if b.place is not None)])
        if places != list(range(self.num_blocks)):
            raise IntegrityError(f"places of the prefix cache are lost or doubled: {places}")
        children = Counter(block.parent for block in self._blocks.values())
        held = Counter(block for chain in chains for block in chain.blocks)
        for block in self._blocks.values():
            if block.children != children[block] or block.holds != held[block]:
                raise IntegrityError("a block of the prefix cache has lost a child or a hold")
            if block.place is None and not block.holds:
                raise IntegrityError("a block of the prefix cache is neither saved nor held")

    def _add(self, chain: Chain, tokens: Sequence[int]) -> None:
        parent: Block | PrefixSpace = chain.blocks[-1] if chain.blocks else chain.space
        for piece in _pieces(tokens, len(chain.blocks) * BLOCK_TOKENS):
            block = self._blocks.get((parent, piece))
            if block is None:
                block = self._blocks[parent, piece] = Block(parent, piece)
                if isinstance(parent, Block):
                    parent.children += 1
            block.holds += 1
            block.used = self._uses
            chain.blocks.append(block)
            parent = block

    def _pass(self, chain: Chain, number: int) -> None:
        for block in chain.blocks[chain.num_passed : number]:
            block.awaited -= 1
        chain.num_passed = max(number, chain.num_passed)

    def _settle(self, block: Block) -> None:
        """Note that a block may go, or let it go where there is nothing to keep."""
        if block.holds or block.children:
            return
        if block.place is None:
            self._unlink(block)
        elif not block.is_listed:
            block.is_listed = True
            heappush(self._turns, (block.used, next(self._serial), block))

    def _places(self, number: int) -> list[int]:
        """Free places, made free if need be, as many as can be had; they stay among the free ones."""
        while len(self._free) < number and self._turns:
            used, _, block = heappop(self._turns)
            block.is_listed = False
            if block.used != used:
                self._settle(block)
            elif not block.holds and not block.children and block.place is not None:
                self._free.append(block.place)
                block.place = None
                self._unlink(block)
        return self._free[: -number - 1 : -1]

    def _unlink(self, block: Block) -> None:
        del self._blocks[block.parent, block.tokens]
        if isinstance(block.parent, Block):
            block.parent.children -= 1
            self._settle(block.parent)


def is_worth_waiting(found: Sequence[Block], num_tokens: int) -> bool:
    """Whether a row of so many tokens does better to wait for the awaited ones of its blocks: it would spend most
    of its computing on them."""
    awaited = sum(block.place is None for block in found) * BLOCK_TOKENS
    to_compute = num_tokens - len(found) * BLOCK_TOKENS + awaited
    return awaited >= LEAST_AWAITED and 2 * awaited >= to_compute


def _pieces(tokens: Sequence[int], start: int) -> Iterator[tuple[int, ...]]:
    """The full blocks of tokens from `start` on."""
    for place in range(start, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        yield tuple(tokens[place : place + BLOCK_TOKENS])
