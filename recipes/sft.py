"""Fine-tuning on chats: by default the default model learns what Heddle is.

`data/heddle_chats.jsonl` holds a few dozen chats written for this recipe (Apache-2.0, as the
repository); `--set objective.chats='["my.jsonl"]'` takes others.
"""

from pathlib import Path

from heddle.config import DEFAULT_MODEL
from heddle.train.fit import FitConfig
from heddle.train.optim import OptimiserConfig
from heddle.train.run import Run
from heddle.train.schedule import Schedule
from heddle.train.sft import ChatTuning


def sft() -> Run:
    """Train the last ten layers; the run leaves a delta over the default model."""
    return Run(
        folder=Path("runs/sft"),
        start=DEFAULT_MODEL,
        trains=("layers.2?.*", "norm.*"),
        objective=ChatTuning(chats=(Path(__file__).parent / "data" / "heddle_chats.jsonl",)),
        optimiser=OptimiserConfig(
            hidden="adamw",
            learning_rate=1e-4,
            weight_decay=0.0,
            schedule=Schedule(warmup_steps=4, decay_steps=20),
        ),
        fit=FitConfig(num_steps=40, validate_every=20),
    )
