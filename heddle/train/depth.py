"""How many loops tokens take in training: fixed, or drawn anew, more of them as a run goes on.

    loops = 1 + Poisson(rate),  rate ~ LogNormal(log(mean - 1) - σ²/2, σ)

Called by the stages that train the thinking block. Sources: the draw, Geiping et al. 2025
(arXiv:2502.05171); a mean that rises with the run, retrofitted recurrence (arXiv:2511.07384).
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from heddle.errors import ConfigError
from heddle.model.batch import Depth
from heddle.model.config import MAX_LOOPS, ModelConfig
from heddle.train.data.pack import TrainBatch

DEEP_LOOPS = 16


@dataclass(frozen=True, kw_only=True)
class DepthSchedule:
    """The loops of each token of a micro-batch.

    Attributes:
        kind: "fixed" takes the mean, rounded; "drawn" draws around it.
        per: what shares a draw. One per step follows from the step alone: all ranks loop equally
            often, and none waits for a deeper one.
        first_mean, last_mean: the mean at the run's start and at the end of its rise.
        rise: the share of the run over which the mean rises, by 1 - sqrt(1 - t): slowly at first.
        spread: the lognormal's σ.
        deep_share: so many draws are uniform from 16 to `most` instead, to keep deep loops stable.
        least, most: no draw is smaller or larger.
        backprop_loops: gradients flow through the deepest token's last so many loops; 0 is all.
    """

    kind: Literal["fixed", "drawn"] = "drawn"
    per: Literal["step", "microbatch", "sequence"] = "step"
    first_mean: float = 2.0
    last_mean: float = 6.0
    rise: float = 0.75
    spread: float = 0.5
    deep_share: float = 0.1
    least: int = 1
    most: int = MAX_LOOPS
    backprop_loops: int = 4
    seed: int = 0

    def __post_init__(self):
        if not 1 <= self.least <= self.most <= MAX_LOOPS:
            raise ConfigError(
                f"depth: least and most must rise from 1 to {MAX_LOOPS}, not {self.least} and "
                f"{self.most}"
            )
        for name in ("first_mean", "last_mean"):
            if not 1 <= getattr(self, name) <= self.most:
                raise ConfigError(
                    f"depth: {name} must lie between 1 and most ({self.most}), "
                    f"not {getattr(self, name)}"
                )
        if not 0 <= self.rise <= 1 or not 0 <= self.deep_share <= 1:
            raise ConfigError("depth: rise and deep_share must lie between 0 and 1")
        if min(self.spread, self.backprop_loops, self.seed) < 0:
            raise ConfigError("depth: spread, backprop_loops and seed must not be negative")

    def mean(self, progress: float) -> float:
        """Return the mean number of loops, deep draws aside, when a share of the run is done."""
        risen = min(1.0, progress / self.rise) if self.rise else 1.0
        return self.first_mean + (self.last_mean - self.first_mean) * (1 - math.sqrt(1 - risen))

    def depth(self, batch: TrainBatch, progress: float) -> Depth:
        """Return the exact loops of a batch's tokens; in validation (progress 1) the last mean."""
        num_tokens, num_sequences = len(batch.token_T), len(batch.bounds_S1) - 1
        is_fixed = self.kind == "fixed" or progress == 1
        num_draws = num_sequences if self.per == "sequence" and not is_fixed else 1
        if is_fixed:
            loops = np.array([max(self.least, round(self.mean(progress)))])
        else:
            loops = self.draw(self._generator(progress), num_draws, progress)
        lengths = np.diff(batch.bounds_S1) if num_draws > 1 else np.array([num_tokens])
        return Depth(
            torch.from_numpy(np.repeat(loops, lengths)),
            torch.zeros(num_tokens, dtype=torch.bool),
            self.backprop_loops or None,
        )

    def draw(self, random: np.random.Generator, count: int, progress: float) -> np.ndarray:
        """Return `count` draws of a number of loops."""
        rate = self.mean(progress) - 1
        if rate:
            rate = random.lognormal(math.log(rate) - self.spread**2 / 2, self.spread, count)
        loops = np.clip(1 + random.poisson(rate, count), self.least, self.most)
        deep = random.integers(min(DEEP_LOOPS, self.most), self.most, count, endpoint=True)
        return np.where(random.random(count) < self.deep_share, deep, loops)

    def _generator(self, progress: float) -> np.random.Generator:
        if self.per == "step":
            return step_random(self.seed, progress)
        # The loop seeds PyTorch's generator by step and micro-batch.
        return np.random.default_rng(int(torch.randint(2**62, ())))


def step_random(seed: int, progress: float) -> np.random.Generator:
    """Return a generator that every micro-batch and rank of a step has alike."""
    return np.random.default_rng((seed, int(progress * 2**52)))


def check_depth(config: ModelConfig, depth: Depth | None) -> None:
    """Raise ConfigError when a network cannot loop as often as is asked."""
    if depth is None:
        return
    most = config.think.max_loops if config.think else 1
    deepest = int(depth.max_T.max())
    if deepest > most:
        raise ConfigError(
            f"{deepest} loops are asked of a network that takes {most} at most: lower the "
            "objective's depth (its means and most), or start from a network that thinks deeper"
        )
