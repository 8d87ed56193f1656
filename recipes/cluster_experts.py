"""Give the clusters their meaning: gate, routers and experts on labelled data, all else frozen.

    heddle train cluster_experts

Tasks carry their cluster, and so do rows of prepared text with a `cluster`. The gate's loss fades
over the run, so that in the end routes serve the next token.
"""

from pathlib import Path

from heddle.train.adaptive import Auxiliary
from heddle.train.data.corpus import Corpus
from heddle.train.fit import FitConfig
from heddle.train.optim import OptimiserConfig
from heddle.train.pretrain import NextToken
from heddle.train.run import Run
from heddle.train.schedule import Schedule


def cluster_experts() -> Run:
    """At one loop: a quarter of an hour on one large GPU."""
    return Run(
        folder=Path("runs/cluster_experts"),
        start="runs/upcycle_heal",
        trains=("gate.*", "*.experts.*"),
        objective=NextToken(
            corpus=Corpus(tokens_per_batch=16_384, task_share=0.4),
            auxiliary=Auxiliary(cluster=0.3, last_cluster=0.03),
        ),
        optimiser=OptimiserConfig(
            hidden="adamw",
            learning_rate=1e-3,
            schedule=Schedule(warmup_steps=100, decay_steps=400),
        ),
        fit=FitConfig(num_steps=2000, num_microbatches=4, recompute=True, validate_every=200),
    )
