"""The training data of a run: an endless stream of packed batches that resumes exactly.

Made by stages; `batches` is what `stage.Stage` wants.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from heddle.errors import ConfigError
from heddle.train.data.cursor import Cursor
from heddle.train.data.mix import Mix, Part
from heddle.train.data.pack import Packer, TrainBatch


class BatchStream:
    """Batches of `tokens_per_batch` tokens; batch n is a function of the arguments and n alone."""

    def __init__(
        self,
        parts: Mapping[str, Part],
        *,
        seed: int,
        tokens_per_batch: int,
        max_sequence: int | None = None,
    ):
        """Mix the parts. Without `max_sequence` a sequence may fill its batch."""
        self._max_sequence = tokens_per_batch if max_sequence is None else max_sequence
        if not 1 <= self._max_sequence <= tokens_per_batch:
            raise ConfigError(
                f"max_sequence must be from 1 to tokens_per_batch ({tokens_per_batch}), "
                f"not {max_sequence}"
            )
        self._parts = parts
        self._seed = seed
        self._tokens_per_batch = tokens_per_batch

    def batches(
        self, cursor: Mapping[str, Any] | None = None, *, rank: int = 0, num_ranks: int = 1
    ) -> Iterator[tuple[TrainBatch, dict[str, Any]]]:
        """Yield one rank's batches, each with the place behind it, from a place or the start on.

        Of every `num_ranks` batches each rank gets the one of its number, and the place behind them
        all, so that every rank saves the same and another number of ranks can go on from there.
        Raises DataError for a place in other data.
        """
        if not 0 <= rank < num_ranks:
            raise ConfigError(f"rank must be from 0 to {num_ranks - 1}, not {rank}")
        identity = self._identity()
        if cursor is None:
            place = Cursor.start(identity, self._parts)
        else:
            place = Cursor.from_json(cursor, identity)
        packer = Packer(
            Mix(self._parts, seed=self._seed),
            tokens_per_batch=self._tokens_per_batch,
            max_sequence=self._max_sequence,
        )
        while True:
            plans = [packer.plan(place) for _ in range(num_ranks)]
            yield packer.fill(plans[rank]), place.to_json()

    def _identity(self) -> dict[str, Any]:
        """Return what a cursor's stream must have in common with this one."""
        return {
            "seed": self._seed,
            "tokens_per_batch": self._tokens_per_batch,
            "max_sequence": self._max_sequence,
            "parts": {
                name: [part.share, part.loss_weight, part.source.fingerprint]
                for name, part in self._parts.items()
            },
        }
