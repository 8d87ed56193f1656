"""What each of torchrun's processes does for test_parallel: small runs, side by side in FOLDER.

Called with the folder, in which a single process has left `early`, two steps of `one`.
"""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch.distributed.tensor import DTensor

from heddle.errors import ConfigError
from heddle.train import dist
from heddle.train.optim import OptimiserConfig
from heddle.train.trainee import Trainee
from tests.train.routed import routed_run
from tests.train.small import small_run
from tests.train.small import train as train_small
from tests.train.unequal import Unequal, packed, train, unequal_model


def main(folder: Path) -> None:
    dist.join()
    for parallel in ("ddp", "fsdp", "expert"):
        train(folder / parallel, parallel=parallel, num_steps=2)
        train(folder / parallel, parallel=parallel, resume=True)
        if dist.world().rank == 0:
            shutil.copytree(folder / "early", folder / f"{parallel}-from-one")
        dist.agree_on_path(folder)  # wait for rank 0
        train(folder / f"{parallel}-from-one", parallel=parallel, resume=True)
        train_small(routed_run(folder / f"{parallel}-routed", parallel=parallel))
    train(folder / "expert-frozen", parallel="expert", frozen="*attention*")
    train(folder / "expert-adamw", parallel="expert", hidden="adamw", recompute=True)
    train(folder / "expert-bfloat16", parallel="expert", dtype="bfloat16")

    report = folder / f"expert-bytes-{dist.world().rank}.json"
    report.write_text(json.dumps(expert_bytes()), encoding="utf-8")
    with pytest.raises(ConfigError, match="multiple of the 2 processes, not 3"):
        train(folder / "odd", num_microbatches=3)
    with pytest.raises(ConfigError, match='"expert" needs a network with experts'):
        train_small(small_run(folder / "dense", parallel="expert"))
    dist.leave()


def expert_bytes() -> int:
    """Return what this rank holds of experts' parameters and of their optimiser's state."""
    trainee = Trainee(
        unequal_model(),
        Unequal().stage(None),
        optimiser=OptimiserConfig(),
        dtype=torch.float32,
        parallel="expert",
        recompute=False,
        is_compiled=False,
    )
    trainee.learn(packed(dist.world().rank), progress=0.0)
    trainee.move(learning_rate=1e-3, norm=trainee.gradient_norm(total_weight=1.0))
    tensors = trainee.tensors()
    held = 0
    for name, tensor in (tensors.model | tensors.optimiser).items():
        if name.partition(":")[0].endswith(("experts.gate", "experts.up", "experts.down")):
            assert isinstance(tensor, DTensor), name
            held += tensor.to_local().untyped_storage().nbytes()
    return held


if __name__ == "__main__":
    main(Path(sys.argv[1]))
