"""How much of a step is left for prompts, in seconds and in tokens, and who gets it."""

import math
from collections import Counter
from collections.abc import Sequence as Collection
from itertools import groupby

from heddle.engine.pace import Pace
from heddle.engine.sequence import Sequence

OLDEST_SHARE = 0.5
LEAST_TOKENS = 8  # so many there are for prompts, however full the step is


class Room:
    """What prompts may still take of a step."""

    def __init__(self, pace: Pace, *, seconds: float, num_tokens: int):
        self._pace = pace
        self._seconds = seconds
        self._num_tokens = num_tokens

    def divide(self, prompts: Collection[Sequence]) -> Counter[Sequence]:
        """Return how many tokens of each prompt, given oldest first, the step should compute.

        The most urgent come first. Among equally urgent ones the oldest has half the room and what
        is nearest to its end the rest: short prompts wait for no long one, and none waits for ever.
        """
        shares: Counter[Sequence] = Counter()
        for _, group in groupby(sorted(prompts, key=_urgency), key=_urgency):
            oldest, *_ = equals = list(group)
            if not shares:
                least_s = self._pace.prompt_s(first=oldest.num_computed, num=LEAST_TOKENS)
                self._seconds = max(self._seconds, least_s)
            self._give(oldest, shares, portion=OLDEST_SHARE)
            for sequence in sorted(equals, key=lambda each: each.num_pending - shares[each]):
                self._give(sequence, shares, portion=1.0)
        return shares

    def _give(self, sequence: Sequence, shares: Counter[Sequence], *, portion: float) -> None:
        """Add to a sequence's share what it wants and a portion of the room holds."""
        first = sequence.num_computed + shares[sequence]
        fitting = portion * self._seconds / self._pace.prompt_s(first=first, num=1)
        num = min(
            sequence.num_pending - shares[sequence],
            math.ceil(portion * self._num_tokens),
            math.ceil(min(fitting, self._num_tokens)),
        )
        if num > 0:
            shares[sequence] += num
            self._num_tokens -= num
            self._seconds = max(0.0, self._seconds - self._pace.prompt_s(first=first, num=num))


def _urgency(sequence: Sequence) -> int:
    return -sequence.request.priority
