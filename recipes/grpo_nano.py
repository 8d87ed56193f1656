"""Verifiable rewards at the smallest size: half a million parameters get better at copying.

docs/training.md says how to make the start, which has seen a few examples of the task and is right
one time in seven. Here nothing is shown to it any more: it answers, the task says whether that was
right, and right answers become likelier.
"""

from pathlib import Path

from heddle.train.data.task_documents import Curriculum
from heddle.train.fit import FitConfig
from heddle.train.optim import OptimiserConfig
from heddle.train.rl import GrpoConfig, VerifiableRewards
from heddle.train.run import Run
from heddle.train.schedule import Schedule


def grpo_nano() -> Run:
    """Return the run; a minute and a half on one core."""
    return Run(
        folder=Path("runs/grpo_nano"),
        start="runs/beginner",
        objective=VerifiableRewards(
            task="copy",
            levels=Curriculum(lowest=3, highest=4),
            grpo=GrpoConfig(num_prompts=16, group_size=8, max_tokens=16, loops=2, num_validation=2),
        ),
        optimiser=OptimiserConfig(
            hidden="adamw",
            learning_rate=1e-3,
            weight_decay=0.0,
            schedule=Schedule(warmup_steps=5, decay_steps=20),
        ),
        fit=FitConfig(num_steps=160, validate_every=40),
    )
