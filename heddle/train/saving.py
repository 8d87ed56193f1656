"""When to save, and how a run is put back where it was. Used by `fit`.

One process, or DDP, in which every rank has everything: rank 0 writes safetensors. FSDP and expert
parallel: every rank writes its shards. Either form is read by any number of ranks.
"""

import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from heddle.errors import ConfigError
from heddle.train import dist
from heddle.train.trainee import Trainee
from heddle.weights import store
from heddle.weights.store import Record, Tensors


@dataclass(frozen=True, kw_only=True)
class SavingConfig:
    """When to save and what to keep. The last step and an early stop are saved in any case.

    Attributes:
        every_steps, every_minutes: whichever comes first; 0 is never.
        keep: older checkpoints are deleted.
    """

    every_steps: int = 1000
    every_minutes: float = 10.0
    keep: int = 2

    def __post_init__(self):
        if self.every_steps < 0 or self.every_minutes < 0 or self.keep < 1:
            raise ConfigError("every_steps and every_minutes must not be negative, keep at least 1")


class Saves:
    """The checkpoints of one run's folder."""

    def __init__(self, folder: Path, config: SavingConfig):
        self.folder, self.config = folder, config
        folder.mkdir(parents=True, exist_ok=True)
        self.seconds = 0.0  # that the slowest save took
        self._saved_at = time.monotonic()

    def is_due(self) -> bool:
        """Say whether the minutes are over."""
        minutes = (time.monotonic() - self._saved_at) / 60
        return 0 < self.config.every_minutes <= minutes

    def save(self, trainee: Trainee, record: Record) -> None:
        """Write a checkpoint, together with all ranks. Raises StorageError."""
        started = time.monotonic()
        tensors = trainee.tensors()
        if dist.is_sharded(tensors.model):
            self._save_shards(tensors, record)
        elif dist.world().rank == 0:
            with store.new_checkpoint(self.folder, record, keep=self.config.keep) as unfinished:
                store.write_tensors(unfinished, tensors)
        self._saved_at = time.monotonic()
        self.seconds = max(self.seconds, self._saved_at - started)

    def restore(self, trainee: Trainee) -> Record | None:
        """Read the newest checkpoint, if there is one, into `trainee`.

        Raises WeightsError when it is damaged or of another network.
        """
        paths = store.checkpoints(self.folder)
        if not paths:
            return None
        record = store.read_record(paths[-1])
        shards = paths[-1] / store.SHARDS
        if not shards.exists():
            trainee.restore(store.read_tensors(paths[-1]))
            return record
        read = dist.load_shards(shards, trainee.tensors().model)
        trainee.restore(
            Tensors(
                model={name: value for name, value in read.items() if ":" not in name},
                optimiser={name: value for name, value in read.items() if ":" in name},
            )
        )
        return record

    def _save_shards(self, tensors: Tensors, record: Record) -> None:
        first = dist.world().rank == 0
        folder = store.new_checkpoint(self.folder, record, keep=self.config.keep)
        with folder if first else nullcontext() as unfinished:
            path = dist.agree_on_path(unfinished)
            dist.save_shards(path / store.SHARDS, tensors.model | tensors.optimiser)
