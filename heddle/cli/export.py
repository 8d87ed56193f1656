"""`heddle export`: write a model, or what a run has learned so far, as a folder."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from heddle.cli import options
from heddle.cli.console import note, print_json

SHARD_MIB = {"heddle": 16, "huggingface": 4096}

Out = Annotated[Path, typer.Option(help="The folder to make; it must not exist yet.")]
Format = Annotated[
    Literal["heddle", "huggingface"],
    typer.Option(help="Heddle's own folder, or one that transformers loads (dense models)."),
]
ShardMib = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Size of a file of weights at most, in MiB.",
        show_default="16, or 4096 with --format huggingface",
    ),
]
Precision = Annotated[
    Literal["float32", "bfloat16"], typer.Option(help="Precision of the written weights.")
]


def export(
    model: options.Model,
    out: Out,
    format: Format = "heddle",
    shard_mib: ShardMib = None,
    dtype: Precision = "float32",
    as_json: options.AsJson = False,
) -> None:
    """Write a model anew; of a run's folder, the model that its newest checkpoint makes."""
    import torch

    from heddle.cli.download import fetched
    from heddle.train.publish import trained_model
    from heddle.weights.checkpoint import open_checkpoint
    from heddle.weights.export import export_checkpoint
    from heddle.weights.native import write_native
    from heddle.weights.store import checkpoints

    path = fetched(model)
    checkpoint = trained_model(path) if checkpoints(path) else open_checkpoint(path)
    write = write_native if format == "heddle" else export_checkpoint
    max_file_bytes = (shard_mib or SHARD_MIB[format]) << 20
    write(checkpoint, out, dtype=getattr(torch, dtype), max_file_bytes=max_file_bytes)
    written = open_checkpoint(out)
    if as_json:
        print_json({"path": str(out), "name": written.name, "description": written.description})
        return
    print(out)
    note(f"{written.name}: {written.description}")
