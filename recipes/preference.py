"""Preferences: by default the default model learns to answer shortly and to the point.

`data/preferences.jsonl` holds a few dozen pairs written for this recipe (Apache-2.0, as the
repository); `--set objective.pairs=my.jsonl` takes others.
"""

from pathlib import Path

from heddle.config import DEFAULT_MODEL
from heddle.train.fit import FitConfig
from heddle.train.optim import OptimiserConfig
from heddle.train.preference import DpoConfig, Preference
from heddle.train.run import Run
from heddle.train.schedule import Schedule


def preference() -> Run:
    """Train the last ten layers; the run leaves a delta over the default model."""
    return Run(
        folder=Path("runs/preference"),
        start=DEFAULT_MODEL,
        trains=("layers.2?.*", "norm.*"),
        objective=Preference(
            pairs=Path(__file__).parent / "data" / "preferences.jsonl",
            dpo=DpoConfig(num_pairs=4, num_validation=4),
        ),
        optimiser=OptimiserConfig(
            hidden="adamw",
            learning_rate=1e-5,
            weight_decay=0.0,
            schedule=Schedule(warmup_steps=4, decay_steps=12),
        ),
        fit=FitConfig(num_steps=24, validate_every=12),
    )
