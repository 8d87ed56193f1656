"""Teach a model that loops when to think and when to stop: two readings of 577 weights each.

heddle train halting
"""

from pathlib import Path

from heddle.train.data.corpus import Corpus
from heddle.train.fit import FitConfig
from heddle.train.halting import Halting
from heddle.train.optim import OptimiserConfig
from heddle.train.run import Run
from heddle.train.schedule import Schedule


def halting() -> Run:
    """Forward passes alone; nothing but the readings changes, so answers at fixed loops stay."""
    return Run(
        folder=Path("runs/halting"),
        start="runs/loop_curriculum",
        trains=("think.read*",),
        objective=Halting(corpus=Corpus(tokens_per_batch=16_384)),
        optimiser=OptimiserConfig(
            learning_rate=3e-3,
            weight_decay=0.0,
            schedule=Schedule(warmup_steps=20, decay_steps=100),
        ),
        fit=FitConfig(num_steps=400, num_microbatches=2, validate_every=100),
    )
