"""What each of torchrun's processes does for test_policy_ranks, side by side in FOLDER."""

import sys
from pathlib import Path

import pytest

from heddle.errors import ConfigError
from heddle.train import dist
from heddle.train.answers import Answer
from heddle.train.data.pairs import Pair
from heddle.train.preference import DpoConfig, dpo
from heddle.train.rl import grpo
from heddle.train.stage import Stage
from tests.train import test_preference, test_rl


def rewards() -> Stage:
    return grpo(test_rl.questions(), test_rl.GRPO)


def preferences() -> Stage:
    pairs = [
        Pair(Answer([5, 6, 7 + n, 20 + n], 2), Answer([5, 6, 9, 8 + n, 30], 2)) for n in range(12)
    ]
    return dpo(pairs, DpoConfig(num_pairs=3, loops=2), reference=test_preference.adaptive_model())


def main(folder: Path) -> None:
    dist.join()
    test_rl.train(folder / "rewards-ddp", rewards(), num_steps=2)
    with pytest.raises(ConfigError, match="rewards need fit.parallel=ddp"):
        test_rl.train(folder / "rewards-fsdp", rewards(), num_steps=2, parallel="fsdp")
    for parallel in ("ddp", "fsdp"):
        test_preference.train(
            folder / f"preferences-{parallel}",
            preferences(),
            num_steps=2,
            num_microbatches=2,
            parallel=parallel,
        )
    dist.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
