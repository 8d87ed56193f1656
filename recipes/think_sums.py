"""Teach the default model to think about sums and chains of steps, in chats, on a CPU.

    heddle upcycle default --out models/think-135m --no-fabric --max-loops 4 --gate-bias -1
    python -m recipes.data.think_data data
    heddle train think_sums
    heddle train halting --set start=runs/think_sums ...

docs/training.md ("A first upgrade on a CPU") has the commands whole, and what came of it.
"""

from pathlib import Path

from heddle.train.curriculum import LoopCurriculum
from heddle.train.data.corpus import Corpus
from heddle.train.depth import DepthSchedule
from heddle.train.fit import FitConfig
from heddle.train.optim import OptimiserConfig
from heddle.train.run import Run
from heddle.train.schedule import Schedule

SUMS_AND_TALK = Corpus(
    text=("data/sums", "data/chains", "data/talk"),
    tasks=("addition", "subtraction", "multiplication"),
    task_share=0.25,
    num_levels=6,
    chat=True,
    tokens_per_batch=1024,
    max_sequence=256,
    num_validation=3,
)


def think_sums() -> Run:
    """Two to four loops; the base, and so every answer at one loop, stays as it is."""
    return Run(
        folder=Path("runs/think_sums"),
        start="models/think-135m",
        trains=("think.mix*", "think.step", "think.gate.*", "think.loras.*"),
        objective=LoopCurriculum(
            corpus=SUMS_AND_TALK,
            depth=DepthSchedule(first_mean=2.0, last_mean=2.5, deep_share=0.0, least=2, most=4),
            keeps=("creative",),
        ),
        optimiser=OptimiserConfig(
            hidden="adamw",
            learning_rate=2e-3,
            schedule=Schedule(warmup_steps=10, decay_steps=60),
        ),
        fit=FitConfig(num_steps=120, dtype="bfloat16"),
    )
