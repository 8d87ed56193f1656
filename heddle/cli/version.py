"""`heddle version`: what is installed and where things are kept."""

from typing import Annotated

import typer

from heddle.cli.console import out, print_json


def version(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show versions, the processor and the folders Heddle uses."""
    import torch
    from rich.table import Table

    from heddle.bench.environment import describe_environment
    from heddle.config import DEFAULT_MODEL, cache_dir, data_dir

    found = describe_environment() | {
        "threads": torch.get_num_threads(),
        "default_model": DEFAULT_MODEL,
        "cache": str(cache_dir()),
        "data": str(data_dir()),
    }
    if as_json:
        print_json(found)
        return
    table = Table.grid(padding=(0, 2))
    for name, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{package} {number}" for package, number in value.items())
        table.add_row(f"[bold]{name.replace('_', ' ')}", str(value))
    out.print(table)
