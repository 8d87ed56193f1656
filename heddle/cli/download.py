"""Find a model, fetching it with a progress bar if it is not here yet."""

from contextlib import ExitStack
from pathlib import Path

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from heddle.cli.console import err
from heddle.weights.hub import full_spec, resolve


def fetched(spec: str) -> Path:
    """Return the local path of a model; `heddle.weights.hub` tells of `spec` and errors."""
    spec = full_spec(spec)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=err,
    )
    task: TaskID | None = None
    with ExitStack() as stack:

        def on_progress(num_bytes: int, total_bytes: int | None) -> None:
            nonlocal task
            if task is None:
                task = stack.enter_context(bar).add_task(f"Fetching {spec}")
            bar.update(task, completed=num_bytes, total=total_bytes)

        return resolve(spec, on_progress=on_progress)
