"""What a run reports: `metrics.jsonl`, the terminal, TensorBoard if wanted. Used by `fit`.

A terminal gets a progress bar, a file or pipe a line every few seconds, both on standard error.
"""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from heddle.train.tensorboard import TensorBoard

LINE_EVERY_S = 10.0


class Journal:
    """Records one line of figures per step; ranks other than 0 are `silent`."""

    def __init__(self, folder: Path, *, step: int, num_steps: int, tensorboard: bool, silent: bool):
        self.num_steps = num_steps
        self._silent = silent
        if silent:
            return
        path = folder / "metrics.jsonl"
        _forget_after(path, step)
        self._file = path.open("a", encoding="utf-8")
        self._tensorboard = TensorBoard(folder / "tensorboard") if tensorboard else None
        self._console = Console(stderr=True, highlight=False)
        self._said_at = 0.0
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("train", total=num_steps, completed=step, figures="")

    def __enter__(self) -> "Journal":
        if not self._silent:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._silent:
            return
        self._bar.stop()
        self._file.close()
        if self._tensorboard:
            self._tensorboard.close()

    def write(self, figures: Mapping[str, Any]) -> None:
        """Record a step's figures; `step` counts the steps done."""
        if self._silent:
            return
        self._file.write(json.dumps(figures) + "\n")
        self._file.flush()
        if self._tensorboard:
            self._tensorboard.write(figures)
        shown = _shown(figures)
        self._bar.update(self._task, completed=figures["step"], figures=shown)
        if not self._console.is_terminal and time.monotonic() - self._said_at >= LINE_EVERY_S:
            self._said_at = time.monotonic()
            left = f"{figures['seconds_left']:.0f} s left"
            self.say(f"step {figures['step']}/{self.num_steps} {shown} {left}")

    def say(self, text: str) -> None:
        """Tell the person something beside the figures."""
        if not self._silent:
            self._console.print(text, soft_wrap=True)


def _shown(figures: Mapping[str, Any]) -> str:
    loss, mfu = figures["loss"], figures["mfu"]
    words = [f"loss {loss:.4f}" if loss is not None else "loss not finite"]
    words.append(f"{figures['tokens_per_s']:,.0f} tok/s")
    if mfu is not None:
        words.append(f"MFU {mfu:.1%}")
    return "  ".join(words)


def _forget_after(path: Path, step: int) -> None:
    """Drop the lines of steps that were done after the checkpoint and will be done again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            figures = json.loads(line)
        except ValueError:
            continue  # the last line of a process that was killed while writing it
        if figures["step"] <= step:
            kept.append(line + "\n")
    unfinished = path.with_suffix(".new")
    with unfinished.open("w", encoding="utf-8") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
