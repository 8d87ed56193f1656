"""Teach an upcycled model to think again: more loops as the run goes on, all else frozen.

    heddle train loop_curriculum

Hard tokens learn from the next token, easy ones to stay as the first loop has them.
"""

from pathlib import Path

from heddle.train.curriculum import LoopCurriculum
from heddle.train.data.corpus import Corpus
from heddle.train.depth import DepthSchedule
from heddle.train.fit import FitConfig
from heddle.train.optim import OptimiserConfig
from heddle.train.run import Run
from heddle.train.schedule import Schedule


def loop_curriculum() -> Run:
    """From 2 loops to 6 in the mean, a tenth of the steps at 16 to 32."""
    return Run(
        folder=Path("runs/loop_curriculum"),
        start="runs/cluster_experts",
        trains=("think.mix*", "think.step", "think.gate.*", "think.loras.*"),
        objective=LoopCurriculum(
            corpus=Corpus(tokens_per_batch=16_384, task_share=0.4),
            depth=DepthSchedule(first_mean=2.0, last_mean=6.0, least=2),
        ),
        optimiser=OptimiserConfig(
            hidden="adamw",
            learning_rate=1e-3,
            schedule=Schedule(warmup_steps=100, decay_steps=600),
        ),
        fit=FitConfig(num_steps=3000, num_microbatches=4, recompute=True, validate_every=300),
    )
