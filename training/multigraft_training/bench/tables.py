"""The tables of the bench: which rows are measured on which data, and what they should reach."""

from __future__ import annotations

from multigraft_training.bench.cells import Goal, Results, Row, Table

SERVABLE = ("lora", "bottleneck", "prefix", "ia3")
QUALITY_DATA = ("movies", "tweets", "news")
SHORT = ("training.max_length=128", "training.batch_tokens=1024", "training.micro_batch_tokens=2048")


def _quality_goals(results: Results) -> list[Goal]:
    return []


QUALITY = Table(
    name="quality",
    title="accuracy on minilm, texts cut at 128 tokens",
    rows=(
        Row("lora", ("method.name=lora",)),
        Row("bottleneck", ("method.name=bottleneck",)),
        Row("prefix", ("method.name=prefix",)),
        Row("ia3", ("method.name=ia3",)),
    ),
    data=QUALITY_DATA,
    settings=SHORT,
    goals=_quality_goals,
)

TABLES: dict[str, Table] = {table.name: table for table in (QUALITY,)}
