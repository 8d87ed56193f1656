"""Batches that follow from their number, as a stage wants them. Called by `preference` and `rl`."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from heddle.train.data.cursor import Cursor


def numbered_batches(
    make: Callable[[int], Any], identity: Mapping[str, Any]
) -> Callable[..., Iterator[tuple[Any, dict[str, Any]]]]:
    """Return `Stage.batches` over `make(0)`, `make(1)` and so on.

    `identity`, as JSON, is what must be the same to go on. The iterator raises DataError for a
    place in other data.
    """

    def batches(
        cursor: Mapping[str, Any] | None, *, rank: int, num_ranks: int
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
        place = Cursor.from_json(cursor, identity) if cursor else Cursor.start(identity, ())
        while True:
            number = place.num_batches + rank
            place.num_batches += num_ranks
            yield make(number), place.to_json()

    return batches
