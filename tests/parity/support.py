"""`docs/support.md`, made of what the matrix ran, and the figures that are printed after it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tests.house.tree import ROOT
from tests.parity.cells import Cell
from tests.parity.forms import FORMS, TASK_TYPES
from tests.parity.matrix import FamilyRun
from tests.parity.tolerances import BF16_METHOD, BF16_ROW, FP32, root_mean_square
from tests.parity.variants import VARIANTS

PAGE = ROOT / "docs" / "support.md"
SERVED = "✓"
METHOD_NAMES = {
    "lora": "LoRA",
    "ia3": "(IA)³",
    "bottleneck": "bottleneck",
    "prompt": "prompt",
    "prefix": "prefix",
}
OPENING = f"""# What is served

One table for each type of task: a row for each method, in the ways in which PEFT makes it, and a column for
each family of bases. `pytest tests/parity --write-support` writes this page from what it ran, and the tests
fail where the page and the run differ.

- {SERVED} is exact. With an adapter that PEFT made on a tiny random base of the family, the answer alone and
  the answer in one step with every other {SERVED} of the family and the bare base are both PEFT's, within
  {FP32:g} in fp32, in parts of the answer's largest number where that is above 1. Bottleneck adapters, which
  PEFT has none of, are held to our tuner for PEFT ([training](training.md)) and to the formula itself.
- A number is a refusal: the upload gives the reason that is listed below the table. A family without a column,
  and a method without a row, is refused throughout.

In bf16 a number has 8 significant bits, so that a rounding is off by up to 2⁻⁹ of it. A row's state is rounded
some 25 times in the two layers of a tiny base, which makes √25 · 2⁻⁹ ≈ 1%; random weights, with their sharp
attention, amplify that. Differences from PEFT's answers in fp32, in the measure above, may be
1/{1 / BF16_ROW:.0f} in a single answer. In the root mean square of a method's answers on a family they may be
1/{1 / BF16_METHOD:.0f}, and twice those of PEFT's own answers in bf16.
"""


def render(runs: Sequence[FamilyRun]) -> str:
    """The page."""
    return "\n".join([OPENING, *(_section(peft_type, runs) for peft_type in TASK_TYPES)])


def figures(runs: Sequence[FamilyRun]) -> list[str]:
    """What is printed: the cells of each family and method, and the largest differences."""
    lines = [f"{'family':<12}{'method':<12}{'served':>7}{'refused':>8}{'fp32':>9}{'bf16':>8}{'PEFT bf16':>10}"]
    for run in runs:
        for method, name in METHOD_NAMES.items():
            lines.append(f"{run.family:<12}{name:<12}" + _method_figures(run, method))
    measured = [one for run in runs for one in run.measured]
    refused = sum(not cell.served for run in runs for cell in run.cells)
    lines.append(
        f"{len(measured)} cells served, {refused} refused; in fp32 {max(m.fp32 for m in measured):.1e} from "
        f"PEFT's at most, {max(m.apart for m in measured):.1e} between alone and one step; bf16 as a root mean "
        "square"
    )
    return lines


def _method_figures(run: FamilyRun, method: str) -> str:
    of_method = [cell for cell in run.cells if cell.variant.method == method]
    own = [one for one in run.measured if one.row.cell.variant.method == method]
    counts = f"{len(own):>7}{len(of_method) - len(own):>8}"
    if not own:
        return counts
    fp32, bf16 = max(one.fp32 for one in own), root_mean_square([one.bf16 for one in own])
    return f"{counts}{fp32:>9.1e}{bf16:>8.2%}{root_mean_square([one.peft_bf16 for one in own]):>10.2%}"


def _section(peft_type: str, runs: Sequence[FamilyRun]) -> str:
    """One type of task: its table, then the reasons of its refusals."""
    columns = [run for run in runs if any(cell.served for cell in _of(run, peft_type))]
    lines = [f"## {TASK_TYPES[peft_type]}", "", *_forms(peft_type)]
    lines += [f"| method | {' | '.join(run.family for run in columns)} |", "|---|" + ":-:|" * len(columns)]
    reasons: dict[str, int] = {}
    nowhere: dict[str, list[str]] = {}
    for variant in VARIANTS:
        own = [_alike([cell for cell in _of(run, peft_type) if cell.variant is variant]) for run in columns]
        if not any(cell.served for cell in own):
            nowhere.setdefault(_shared(own, columns), []).append(variant.name)
            continue
        marks = [_mark(cell, run.family, reasons) for cell, run in zip(own, columns, strict=True)]
        lines.append(f"| {variant.name} | {' | '.join(marks)} |")
    lines += ["", *(f"{number}. {reason}" for reason, number in reasons.items()), ""]
    lines += ["Refused on all of these:", ""] if nowhere else []
    lines += [f"- {', '.join(names)}: {reason}" for reason, names in nowhere.items()]
    lines += [""]
    lines += _elsewhere(peft_type, [run for run in runs if run not in columns])
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip("\n") + "\n"


def _forms(peft_type: str) -> list[str]:
    forms = [form.shown for form in FORMS if form.peft_type == peft_type and form.shown]
    pairs = "; a text or a pair" if peft_type == "SEQ_CLS" else ""
    return [f"Each {SERVED} in these forms: {', '.join(forms)}{pairs}.", ""] if forms else []


def _alike(cells: Sequence[Cell]) -> Cell:
    """One for all forms of a head: under these a method is not served here and refused there."""
    assert cells
    assert len({cell.reason for cell in cells}) == 1, [(cell.name, cell.reason) for cell in cells]
    return cells[0]


def _shared(cells: Sequence[Cell], columns: Sequence[FamilyRun]) -> str:
    """The reason, or reasons, of a method that no family serves under this head."""
    told = [_told(cell, run.family) for cell, run in zip(cells, columns, strict=True)]
    return "; ".join(dict.fromkeys(told))


def _mark(cell: Cell, family: str, reasons: dict[str, int]) -> str:
    return SERVED if cell.served else str(reasons.setdefault(_told(cell, family), len(reasons) + 1))


def _elsewhere(peft_type: str, runs: Sequence[FamilyRun]) -> list[str]:
    """The families with no cell that is served, by the reason that all of them share."""
    families: dict[str, list[str]] = {}
    for run in runs:
        for reason in {_told(cell, run.family) for cell in _of(run, peft_type)}:
            families.setdefault(reason, []).append(run.family)
    return [f"Refused on {', '.join(names)}: {reason}.\n" for reason, names in families.items()]


def _told(cell: Cell, family: str) -> str:
    """A reason, as it is for every family."""
    told = cell.reason.replace(f" of type '{family}'", " of this type").replace(f" on {family}:", ":")
    return re.sub(rf" '{family}'", "", told)


def _of(run: FamilyRun, peft_type: str) -> list[Cell]:
    return [cell for cell in run.cells if cell.form.peft_type == peft_type]
