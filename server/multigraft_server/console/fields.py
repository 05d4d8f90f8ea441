"""Fields of forms and addresses as values."""

from __future__ import annotations

import re

from multigraft_adapters.errors import InvalidRequestError

_NUMBER = re.compile(r"[0-9]{1,9}")
_SHARE = re.compile(r"[0-9]{1,3}(\.[0-9]{1,6})?")


def number_of(text: object, name: str) -> int:
    """A whole number. Raises InvalidRequestError, with the field's name."""
    if not isinstance(text, str) or not _NUMBER.fullmatch(text):
        raise InvalidRequestError(f"{name}: a number is needed", param=name)
    return int(text)


def percentage_of(text: object, name: str) -> float:
    """A share that is written in per cent; nothing is 0. Raises InvalidRequestError, with the field's name."""
    if text == "":
        return 0.0
    if not isinstance(text, str) or not _SHARE.fullmatch(text):
        raise InvalidRequestError(f"{name}: a number of per cent is needed", param=name)
    return float(text)
