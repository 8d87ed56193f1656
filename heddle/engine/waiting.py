"""Requests that wait for a place, in the order in which they should get one. Kept by `scheduler`.

The most urgent go first. Among equally urgent ones the tenants, which are the server's callers,
take turns: the one with the fewest running requests is next, then the one whose last turn is
longest ago, so that a hundred requests of one do not hold up a single one of another.
"""

from collections import Counter
from collections.abc import Iterable

from heddle.engine.sequence import Sequence

MAX_TENANTS = 1000


class Waiting:
    """Sequences that have no place yet, or lost theirs.

    Beyond `MAX_TENANTS` those are forgotten whose last turn is longest ago.
    """

    def __init__(self):
        self._sequences: list[Sequence] = []
        self._last_turn: dict[str, int] = {}
        self._num_turns = 0

    def __len__(self) -> int:
        return len(self._sequences)

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait."""
        self._sequences.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that was cancelled."""
        self._sequences.remove(sequence)

    def take(self, sequence: Sequence) -> None:
        """Give a sequence its place: its tenant has had a turn."""
        self._sequences.remove(sequence)
        self._num_turns += 1
        self._last_turn.pop(sequence.request.tenant, None)
        self._last_turn[sequence.request.tenant] = self._num_turns
        if len(self._last_turn) > MAX_TENANTS:
            del self._last_turn[next(iter(self._last_turn))]

    def in_turn(self, running: Iterable[Sequence]) -> list[Sequence]:
        """Return all that wait, next first, given those that have a place."""
        num_running = Counter(sequence.request.tenant for sequence in running)

        def turn(sequence: Sequence) -> tuple[int, int, int, int]:
            tenant = sequence.request.tenant
            last_turn = self._last_turn.get(tenant, 0)
            return -sequence.request.priority, num_running[tenant], last_turn, sequence.arrival

        return sorted(self._sequences, key=turn)
