"""OpenAI's four forms of input: a text, texts, a list of tokens, lists of tokens."""

from __future__ import annotations

from collections.abc import Sequence

from multigraft_adapters.errors import InvalidRequestError
from multigraft_server.parts import Parts
from multigraft_server.tokenising import TextInput, Tokens

Input = str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]]


async def read_sequences(parts: Parts, given: Input, param: str) -> list[Tokens]:
    """The input's sequences in order. Raises InvalidRequestError naming `param`."""
    texts, ids = _sorted_out(given)
    count = len(texts) + len(ids)
    if count > parts.settings.max_entries:
        raise InvalidRequestError(
            f"{param} has {count} entries, at most {parts.settings.max_entries} are taken", param=param
        )
    if not all(texts):
        raise InvalidRequestError(f"{param} is empty", param=param)
    if ids:
        return [parts.tokeniser.of_ids(one, param) for one in ids]
    return await parts.tokeniser.texts([TextInput(text) for text in texts], param)


def _sorted_out(given: Input) -> tuple[list[str], list[list[int]]]:
    if isinstance(given, str):
        return [given], []
    texts = [one for one in given if isinstance(one, str)]
    numbers = [one for one in given if isinstance(one, int)]
    lists = [list(one) for one in given if not isinstance(one, str | int)]
    return texts, [numbers] if numbers else lists
