"""`heddle train` as processes of their own, for tests that kill them."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from heddle.train.overrides import override
from heddle.train.run import Run, load_recipe
from tests.train.small import RECIPE

PROCESS = Path(__file__).with_name("heddle_train.py")
ROOT = PROCESS.parents[2]
SETTINGS = (
    "fit.num_steps=120",
    "fit.num_microbatches=2",
    "fit.saving.every_steps=4",
    "optimiser.schedule.decay_steps=10",
)
SMALL = (*SETTINGS, "objective.num_documents=4")


def long_run(folder: Path, *, recipe: str = RECIPE, settings: Sequence[str] = SMALL) -> Run:
    """Return what `started` runs: one to two seconds of training."""
    return replace(override(load_recipe(recipe), settings), folder=folder)


@contextmanager
def started(
    run: Run,
    *options: str,
    recipe: str = RECIPE,
    settings: Sequence[str] = SMALL,
    environment: dict[str, str] | None = None,
) -> Iterator[subprocess.Popen]:
    words = [word for setting in (*settings, f"folder={run.folder}") for word in ("--set", setting)]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, PROCESS, recipe, *words, *options],
        env=os.environ | threads | (environment or {}),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for_steps(folder: Path, num_steps: int) -> None:
    log, deadline = folder / "metrics.jsonl", time.monotonic() + 100
    while not log.exists() or len(log.read_text(encoding="utf-8").splitlines()) < num_steps:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def ended(process: subprocess.Popen) -> tuple[int, str]:
    _, told = process.communicate(timeout=90)
    return process.returncode, told
