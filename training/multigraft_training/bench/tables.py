"""The tables of the bench: which rows are measured on which data."""

from __future__ import annotations

from multigraft_training.bench.cells import Row, Table
from multigraft_training.bench.goals import QUALITY_DATA, STOCK, STOCK_DATA, instruction_goals, quality_goals
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
            on={"movies": ("training.epochs=4",), "tweets": ("training.epochs=5",)},
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

INSTRUCTION = Table(
    name="instruction",
    title="Loss on held-out answers of a chat style, smollm2",
    rows=(
        # A LoRA that does not move: what the base answers by itself.
        Row("base", ("method.rank=1", "training.epochs=1", "training.learning_rate=1e-12")),
        Row(
            "lora",
            ("method.rank=16", "method.alpha=32", "training.epochs=2", "training.learning_rate=1.2e-3"),
        ),
    ),
    data=("pirate",),
    settings=("training.batch_tokens=400",),
    goals=instruction_goals,
)

TABLES: dict[str, Table] = {table.name: table for table in (QUALITY, INSTRUCTION, *OBJECTIVE_TABLES)}
