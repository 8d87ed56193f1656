"""How fast `small-135m` trains with experts and loops, on tokens that mean nothing.

    heddle train gpu_speed --set fit.compile_layers=true

Real shapes, random tokens: `metrics.jsonl` tells tokens a second and the share of the peak.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from heddle.model.presets import find_preset
from heddle.train.data.document import IGNORED
from heddle.train.data.numbered import numbered_batches
from heddle.train.data.pack import TrainBatch
from heddle.train.depth import DepthSchedule
from heddle.train.fit import FitConfig
from heddle.train.optim import OptimiserConfig
from heddle.train.pretrain import pretrain
from heddle.train.run import Run
from heddle.train.saving import SavingConfig
from heddle.train.stage import Stage
from heddle.weights.contents import Checkpoint

MODEL = find_preset("small-135m")


@dataclass(frozen=True, kw_only=True)
class RandomTokens:
    """Sequences of random tokens, each labelled with a cluster by its number."""

    sequences: int = 16
    sequence_tokens: int = 1024
    depth: DepthSchedule = DepthSchedule(kind="fixed", last_mean=2.0)

    def stage(self, start: Checkpoint | None) -> Stage:
        """Return the stage of predicting them."""
        batches = numbered_batches(self._batch, {"shape": [self.sequences, self.sequence_tokens]})
        return pretrain(batches, depth=self.depth.depth)

    def _batch(self, number: int) -> TrainBatch:
        shape = (self.sequences, self.sequence_tokens)
        random = np.random.default_rng(number)
        token_SL = torch.from_numpy(random.integers(MODEL.vocab_size, size=shape))
        target_SL = token_SL.roll(-1, dims=1)
        target_SL[:, -1] = IGNORED
        num_tokens = token_SL.numel()
        return TrainBatch(
            token_T=token_SL.flatten(),
            target_T=target_SL.flatten(),
            position_T=torch.arange(shape[1]).repeat(shape[0]),
            bounds_S1=tuple(range(0, num_tokens + 1, shape[1])),
            cluster_T=(torch.arange(shape[0]) % 5).repeat_interleave(shape[1]),
            weight_T=torch.ones(num_tokens),
            part_T=torch.zeros(num_tokens, dtype=torch.long),
        )


def gpu_speed() -> Run:
    """A hundred steps of 16,384 tokens at two loops."""
    return Run(
        folder=Path("runs/gpu_speed"),
        model=MODEL,
        objective=RandomTokens(),
        optimiser=OptimiserConfig(),
        fit=FitConfig(num_steps=100, max_seconds=240, saving=SavingConfig(every_steps=0, keep=1)),
    )
