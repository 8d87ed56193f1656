"""Wake an upcycled model's new parts on a general mix, its base frozen: the first stage.

    heddle upcycle default --out models/small-135m
    heddle train upcycle_heal

Everything that the upcycle added trains together, at few loops, until routes and loops stop
costing more than they give. docs/training.md says which public text to add to the tasks.
"""

from pathlib import Path

from heddle.train.data.corpus import Corpus
from heddle.train.depth import DepthSchedule
from heddle.train.fit import FitConfig
from heddle.train.optim import OptimiserConfig
from heddle.train.pretrain import NextToken
from heddle.train.run import Run
from heddle.train.schedule import Schedule


def upcycle_heal() -> Run:
    """Half an hour on one large GPU; `--set` makes it small enough for a CPU."""
    return Run(
        folder=Path("runs/upcycle_heal"),
        start="models/small-135m",
        trains=(
            "gate.*",
            "*.experts.*",
            "think.mix*",
            "think.step",
            "think.gate.*",
            "think.loras.*",
        ),
        objective=NextToken(
            corpus=Corpus(tokens_per_batch=16_384),
            depth=DepthSchedule(first_mean=1.5, last_mean=2.5, deep_share=0.02),
        ),
        optimiser=OptimiserConfig(
            hidden="adamw",
            learning_rate=1e-3,
            schedule=Schedule(warmup_steps=100, decay_steps=400),
        ),
        fit=FitConfig(num_steps=2000, num_microbatches=4, recompute=True, validate_every=200),
    )
