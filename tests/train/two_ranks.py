"""What each of torchrun's processes does for test_dist: several small runs, side by side in FOLDER.

Called with the folder; `early` in it holds three steps that a single process has done.
"""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from heddle.errors import ConfigError
from heddle.train import dist
from tests.train.small import small_run, train


def main(folder: Path) -> None:
    dist.join()
    first = dist.world().rank == 0
    fields = {"num_steps": 5, "num_microbatches": 4}
    train(small_run(folder / "ddp", parallel="ddp", **fields))
    for hidden in ("muon", "adamw"):
        train(small_run(folder / f"fsdp-{hidden}", hidden=hidden, parallel="fsdp", **fields))

    three = small_run(folder / "three", parallel="fsdp", **(fields | {"num_steps": 3}))
    train(three)
    train(replace(three, fit=replace(three.fit, num_steps=5)), resume=True)

    if first:
        shutil.copytree(folder / "early", folder / "on-two")
    dist.agree_on_path(folder)  # wait for rank 0
    train(small_run(folder / "on-two", parallel="fsdp", **fields), resume=True)

    train(small_run(folder / "bfloat16", parallel="fsdp", dtype="bfloat16", **fields))
    with pytest.raises(ConfigError, match="multiple of the 2 processes, not 3"):
        train(small_run(folder / "odd", num_microbatches=3))
    dist.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
