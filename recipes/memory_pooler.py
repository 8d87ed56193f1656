"""Teach a model's summary slots to answer as the exact tokens would, all else frozen.

    heddle train memory_pooler

Only documents longer than the exact window teach anything; the default ones are passkeys in prose.
"""

from pathlib import Path

from heddle.model.config import MemoryConfig, Tier
from heddle.train.data.corpus import Corpus
from heddle.train.fit import FitConfig
from heddle.train.optim import OptimiserConfig
from heddle.train.pooling import Pooling
from heddle.train.run import Run
from heddle.train.schedule import Schedule


def memory_pooler() -> Run:
    """Of up to 8,192 tokens the newest 512 are exact, the 4,096 before them 4:1, the rest 16:1."""
    return Run(
        folder=Path("runs/memory_pooler"),
        start="runs/halting",
        memory=MemoryConfig(window_blocks=8, tiers=(Tier(4, 64), Tier(16, None))),
        trains=("*.attention.pool.*",),
        objective=Pooling(
            corpus=Corpus(
                tasks=("passkey",), num_levels=4000, tokens_per_batch=8192, max_sequence=8192
            )
        ),
        optimiser=OptimiserConfig(
            hidden="adamw",
            learning_rate=3e-3,
            weight_decay=0.0,
            schedule=Schedule(warmup_steps=20, decay_steps=200),
        ),
        fit=FitConfig(num_steps=1000, num_microbatches=2, recompute=True, validate_every=200),
    )
