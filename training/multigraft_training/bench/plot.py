"""The tables of the bench as one picture."""

from __future__ import annotations

from pathlib import Path

from multigraft_training.bench.cells import Results, Table


def draw(measured: list[tuple[Table, Results]], file: Path) -> None:
    """Each table as bars: a group for each data, a bar for each row, lines for the deviation."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(measured), 1, figsize=(9, 3.2 * len(measured)), squeeze=False)
    for (table, results), axis in zip(measured, axes[:, 0], strict=True):
        width = 0.8 / len(table.rows)
        for number, row in enumerate(table.rows):
            places = [group + number * width for group in range(len(table.data))]
            means = [results.mean(row.name, data) or 0.0 for data in table.data]
            spread = [results.deviation(row.name, data) or 0.0 for data in table.data]
            axis.bar(places, means, width, yerr=spread, label=row.name, capsize=2)
        axis.set_xticks([group + 0.4 - width / 2 for group in range(len(table.data))], table.data)
        axis.set_title(table.title, fontsize=10)
        axis.legend(fontsize=7, ncols=4)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
