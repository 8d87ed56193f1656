"""Guessing the next tokens without a second model, and when that pays.

The engine runs guesses behind a sequence's newest token in the same step and draws from each row as
if it were alone; what was drawn counts as long as it is what was guessed. So answers are what they
would be anyway, sampled ones too, penalties and grammars included, and only their speed differs.

A draft repeats what followed the same tokens earlier in prompt or answer (arXiv:2304.04487; prompt
lookup decoding, https://github.com/apoorvumang/prompt-lookup-decoding).
"""

from collections.abc import Callable, Sequence

# Guess at most so many tokens that follow the given ones, which grow from call to call.
Draft = Callable[[Sequence[int], int], list[int]]

SIZE = 3  # tokens that must have been seen before
START_ODDS = (1.0, 2.0)  # guesses that came true of those that were tried, before any was
MEMORY = 0.9  # what a new draft leaves of the older ones' weight
PATIENCE = 48  # drafts that are let go by before one is tried against the odds
TRIAL_TOKENS = 2


class PromptLookup:
    """Drafts what followed the newest tokens the last time that they were seen."""

    def __init__(self):
        self._end_of: dict[tuple[int, ...], int] = {}
        self._num_read = SIZE - 1

    def __call__(self, tokens: Sequence[int], most: int) -> list[int]:
        """See `Draft`; what ends in a repetition is taken to go on repeating."""
        for end in range(self._num_read + 1, len(tokens)):
            self._end_of[tuple(tokens[end - SIZE : end])] = end
        self._num_read = max(self._num_read, len(tokens) - 1)
        end = self._end_of.get(tuple(tokens[-SIZE:]))
        if end is None:
            return []
        period = len(tokens) - end
        return [tokens[end + place % period] for place in range(most)]


class Speculation:
    """How well one sequence's drafts did, and how far the next one should go."""

    def __init__(self, draft: Draft):
        self._draft = draft
        self._num_true, self._num_tried = START_ODDS
        self._num_passed_over = 0

    def draft(
        self,
        tokens: Sequence[int],
        cost: Callable[[int], float],
        *,
        num_rows: int,
        num_expected: float,
        most: int,
    ) -> list[int]:
        """Return a draft of at most `most` tokens, empty where it would not pay.

        `num_expected` tokens are expected of the step's `num_rows` rows without it; `cost` is the
        time of a step of so many rows beside that of others.
        """
        guesses = self._draft(tokens, most)
        odds, expected = self.odds, num_expected
        length, best = 0, expected / cost(num_rows)
        for place in range(1, len(guesses) + 1):
            expected += odds**place
            value = expected / cost(num_rows + place)
            if value > best:
                length, best = place, value
        if guesses and not length:
            self._num_passed_over += 1
            length = TRIAL_TOKENS if self._num_passed_over > PATIENCE else 0
        if length:
            self._num_passed_over = 0
        return guesses[:length]

    @property
    def odds(self) -> float:
        """How likely a guess is true if those before it are."""
        return self._num_true / self._num_tried

    def expected(self, num_guesses: int) -> float:
        """Return how many of so many guesses are expected to come true."""
        return sum(self.odds**place for place in range(1, num_guesses + 1))

    def note(self, num_guesses: int, num_true: int) -> None:
        """Learn what became of a draft: guesses behind the first wrong one were not tried."""
        self._num_true = self._num_true * MEMORY + num_true
        self._num_tried = self._num_tried * MEMORY + min(num_true + 1, num_guesses)
