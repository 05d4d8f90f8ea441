"""The names of a head's labels, held against its tensors."""

from __future__ import annotations

from collections.abc import Mapping

LABELS_HINT = (
    'give id2label in task.json, or in the part "task" of the upload, as {"id2label": {"0": "first label", ...}}'
)


def check_labels(id2label: Mapping[int, str] | None, outputs: int, problems: list[str]) -> None:
    """Note a problem unless each of a head's outputs has a name."""
    if not id2label:
        problems.append(f"the head has {outputs} labels without names: {LABELS_HINT}")
    elif len(id2label) != outputs:
        problems.append(f"the head has {outputs} labels, id2label has {len(id2label)}")
