"""The token classification head: a linear head on every token's state. `entities` reads what it says of a text."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from multigraft_adapters.bases.spec import BaseSpec
from multigraft_adapters.heads.head import refuse_fields
from multigraft_adapters.heads.labels import check_labels
from multigraft_adapters.heads.linear import LinearHead, read_linear
from multigraft_adapters.manifest import HeadSpec


def read_tokens(
    wanted: HeadSpec,
    id2label: Mapping[int, str] | None,
    tensors: dict[str, Tensor],
    spec: BaseSpec,
    problems: list[str],
) -> LinearHead | None:
    """Read the head of `transformers`' token classification models; see `HeadKind.read`."""
    refuse_fields(wanted, ("activation", "thresholds"), problems)
    check = partial(check_labels, id2label)
    return read_linear("token-classification", wanted, tensors, spec, check, problems)
