"""`multigraft import`: adapters of other libraries become artifacts of ours."""

from __future__ import annotations

from pathlib import Path

import click


@click.group(name="import")
def importing() -> None:
    """Convert adapters that another library saved into artifacts of ours.

    \b
    multigraft import adapterhub saved/sentiment --base ./bert-base-uncased --out runs/imported/adapter
    """


@importing.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--base", "base_name", metavar="NAME", required=True, help="The base that it was trained on.")
@click.option("--out", metavar="FOLDER", required=True, type=click.Path(path_type=Path), help="The artifact.")
@click.option("--labels", metavar="A,B,...", help="The labels' names in their order, where the head names none.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("multigraft-data"),
    show_default=True,
    help="Where unpacked bases are kept; the server's data folder.",
)
def adapterhub(folder: Path, base_name: str, out: Path, labels: str | None, data_dir: Path) -> None:
    """Convert a bottleneck adapter that AdapterHub's library saved, with its head.

    DIR holds adapter_config.json with pytorch_adapter.bin or adapter.safetensors, and the head's files if it has
    one; without a head it makes vectors. What cannot be served exactly is refused with the reason. The artifact in
    FOLDER has passed the same verification as an upload.

    \b
    multigraft import adapterhub saved/sentiment --base ./bert-base-uncased --out runs/imported/adapter
    multigraft push runs/imported/adapter --task sentiment --alias production
    """
    from multigraft_adapters.adapterhub import convert
    from multigraft_adapters.artifact import write_folder
    from multigraft_adapters.bases import read_spec, resolve_base
    from multigraft_adapters.bases.resolve import base_display_name

    spec = read_spec(base_display_name(base_name), resolve_base(base_name, data_dir))
    names = [name.strip() for name in labels.split(",")] if labels else []
    adapter = convert(folder, spec, names)
    write_folder(out, adapter.files)
    click.echo(f"{out}: {adapter.manifest.task_type}, {adapter.digest}")
