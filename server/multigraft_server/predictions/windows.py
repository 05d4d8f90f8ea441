"""Texts that are read in windows: each window is a row, and rows are brought together again by text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from multigraft_adapters.errors import InvalidRequestError
from multigraft_adapters.windows import ReadText, cut, num_windows
from multigraft_server.answers import Answer, Values, read_pooled
from multigraft_server.engine.requests import PoolingParams
from multigraft_server.parts import Parts
from multigraft_server.tokenising import Tokens


@dataclass(frozen=True, slots=True)
class Cut:
    """How one text is cut: windows of at most `size` tokens, `stride` of them shared with the one before."""

    text: ReadText
    size: int
    stride: int

    @property
    def num_windows(self) -> int:
        return num_windows(self.text.stop - self.text.start, self.size - self.text.num_around, self.stride)


@dataclass(frozen=True, slots=True)
class WindowedTexts:
    """The windows of several texts, in order."""

    windows: Sequence[Sequence[ReadText]]

    def rows(self, parts: Parts) -> list[tuple[Tokens, PoolingParams]]:
        """Every window as a row for the adapter's head."""
        params = PoolingParams("head")
        return [(parts.tokeniser.of_window(window), params) for text in self.windows for window in text]

    async def answers(self, answers: Sequence[Answer]) -> list[list[tuple[ReadText, Values]]]:
        """The windows of each text with what the head says of their tokens."""
        values = iter(await read_pooled(answers))
        return [[(window, next(values)) for window in text] for text in self.windows]


def cut_texts(cuts: Sequence[Cut], max_windows: int) -> WindowedTexts:
    """Cut texts into windows. Raises InvalidRequestError when there are more than `max_windows` in all."""
    count = sum(one.num_windows for one in cuts)
    if count > max_windows:
        raise InvalidRequestError(
            f"the inputs take {count} windows, at most {max_windows} are computed: send less text, or let windows "
            "share fewer tokens",
            param="inputs",
        )
    return WindowedTexts([cut(one.text, one.size, one.stride) for one in cuts])
