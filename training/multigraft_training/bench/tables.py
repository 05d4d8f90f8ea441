"""The tables of the bench: which rows are measured on which data."""

from __future__ import annotations

from multigraft_training.bench.cells import Row, Table
from multigraft_training.bench.goals import QUALITY_DATA, STOCK, STOCK_DATA, quality_goals
from multigraft_training.bench.objectives import OBJECTIVE_TABLES

SHORT = (
    "training.max_length=128",
    "training.batch_tokens=1024",
    "training.micro_batch_tokens=4096",
    "training.sorted_steps=16",
    "training.base_dropout=0",
)
SMALL_STEPS = ("training.batch_tokens=384",)
"""Deltas without a bypass of the base's matrices need many steps more than many texts in each."""
LORA = ("method.name=lora", "method.rank=8", "method.alpha=16", "training.learning_rate=1e-3")

QUALITY = Table(
    name="quality",
    title="Accuracy on minilm, texts cut at 128 tokens",
    rows=(
        Row("full", ("method.name=full", "method.extract=16", "training.learning_rate=1e-4")),
        Row("lora", LORA),
        Row("bottleneck", ("method.name=bottleneck", "method.placement=houlsby", "training.learning_rate=2e-3")),
        Row(
            "prefix",
            (
                "method.name=prefix",
                "training.learning_rate=1e-2",
                "training.head_learning_rate=5e-3",
                *SMALL_STEPS,
            ),
        ),
        Row(
            "ia3",
            ("method.name=ia3", "training.learning_rate=1e-2", "training.head_learning_rate=5e-3", *SMALL_STEPS),
        ),
        Row("head", ("method.name=head", "training.learning_rate=1e-2", *SMALL_STEPS)),
        Row(STOCK, LORA, runner="peft", only=STOCK_DATA),
    ),
    data=QUALITY_DATA,
    settings=SHORT,
    goals=quality_goals,
)

TABLES: dict[str, Table] = {table.name: table for table in (QUALITY, *OBJECTIVE_TABLES)}
