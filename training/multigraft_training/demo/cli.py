"""`multigraft demo`: see it work."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option(
    "--base",
    default="smollm2",
    show_default=True,
    help="A decoder, or with --methods also an encoder such as minilm: short name, folder or Hugging Face id.",
)
@click.option(
    "--methods", "shows_methods", is_flag=True, help="Train one adapter of each method, in place of three tasks."
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("multigraft-data"),
    show_default=True,
    help="Where the base, the adapters and the runs are kept.",
)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "bfloat16", "float32"]),
    default="auto",
    show_default=True,
    help="What training and the server compute in.",
)
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Of the server.  [default: 8100, or any if it is taken]"
)
@click.option("--api-key", envvar="MULTIGRAFT_API_KEY", show_envvar=True, help="The key that the server asks for.")
@click.option("--exit", "does_exit", is_flag=True, help="End the server after the tables, rather than at Ctrl-C.")
@click.option("--json", "json_file", metavar="FILE", help="Write the tables' content as JSON.")
def demo(
    base: str,
    shows_methods: bool,
    data_dir: Path,
    dtype: str,
    port: int | None,
    api_key: str | None,
    does_exit: bool,
    json_file: str | None,
) -> None:
    """Train three tasks while a server answers, then ask them all at once.

    A server starts on one base. Two classifiers and a chat style are trained on small data sets that come with
    multigraft, and pushed while the server goes on answering. Then one text is sent to all three, and the base
    and the style chat side by side. Takes some minutes on two cores.

    With --methods six adapters learn one task, each by another method (LoRA, (IA)3, bottleneck, prefix tuning,
    prompt tuning, P-tuning), and answer in one step; a table shows what each said and how often it is right.

    \b
    multigraft demo --exit
    multigraft demo --methods --base minilm

    The exit code is 0 when all tasks answered, their adapters (at least three) were computed in one step, and no
    request failed on the way; else 1.
    """
    from rich.console import Console

    from multigraft_training.demo.methods import tell_methods
    from multigraft_training.demo.processes import ending_on_signals
    from multigraft_training.demo.stage import DemoOptions
    from multigraft_training.demo.story import tell

    options = DemoOptions(base, data_dir, dtype, port, api_key, does_exit, json_file)
    play = tell_methods if shows_methods else tell
    with ending_on_signals():
        is_right = play(options, Console(highlight=False, markup=False, emoji=False))
    if not is_right:
        raise click.exceptions.Exit(1)
