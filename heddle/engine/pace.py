"""How long steps take on this machine, learnt from the steps themselves.

`scheduler` asks how much of a prompt fits a step that an answer waits for, `speculation` what rows
for guesses cost. The time of rows that make logits is a curve over their number, whose shape
changes slowly and whose height quickly: a longer past, or a busy machine, lifts all of it.
"""

from bisect import bisect
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from heddle.engine.config import EngineConfig
from heddle.engine.sequence import Work
from heddle.model.config import ModelConfig
from heddle.model.cost import forward_flops, keys_attended

HEIGHT_RATE, SHAPE_RATE = 0.3, 0.1
SLOWER_RATE, FASTER_RATE = 0.5, 0.2  # of prompts: too long a step is worse than too short a one
MOST_SURPRISE = 2.0  # a time further off than this is another program's doing


class Load(NamedTuple):
    """What a step computes: rows that make logits for answers, and FLOPs of prompts."""

    num_rows: int
    prompt_flops: float


class Pace:
    """What was learnt so far. Until then `shared_step_tokens` take `shared_step_s`."""

    def __init__(self, model: ModelConfig, config: EngineConfig):
        self._model = model
        self._usual_flops = self._flops(0, config.shared_step_tokens)
        self._seconds_per_flop = config.shared_step_s / self._usual_flops
        self._height_s = 0.0
        self._shape: dict[int, float] = {}
        self._num_seen: Counter[int] = Counter()

    def cost(self, num_rows: int) -> float:
        """Return the time of a step of so many rows beside that of others.

        It is taken to be flat beyond what was seen, so that more rows are tried.
        """
        if num_rows in self._shape or not self._shape:
            return self._shape.get(num_rows, 1.0)
        known = sorted(self._shape)
        place = bisect(known, num_rows)
        if place in (0, len(known)):
            return self._shape[known[min(place, len(known) - 1)]]
        low, high = known[place - 1], known[place]
        share = (num_rows - low) / (high - low)
        return self._shape[low] * (1 - share) + self._shape[high] * share

    def rows_s(self, num_rows: int) -> float:
        """Return the seconds of a step of so many rows, 0 if no step was seen yet."""
        return self._height_s * self.cost(num_rows)

    def prompt_s(self, *, first: int, num: int) -> float:
        """Return the seconds that `num` tokens of a prompt from position `first` on add."""
        return self._seconds_per_flop * self._flops(first, num)

    def load(self, plan: Iterable[Work]) -> Load:
        """Return what a planned step computes."""
        num_rows, prompt_flops = 0, 0.0
        for work in plan:
            if work.sequence.is_generating:
                num_rows += work.num_rows
            else:
                prompt_flops += self._flops(work.sequence.num_computed, work.num_tokens)
        return Load(num_rows, prompt_flops)

    def note(self, load: Load, seconds: float) -> None:
        """Learn from a step that took so long."""
        if not load.prompt_flops:
            self._note_rows(load.num_rows, seconds)
            return
        of_prompts_s = max(0.1 * seconds, seconds - self.rows_s(max(1, load.num_rows)))
        change = of_prompts_s / load.prompt_flops - self._seconds_per_flop
        rate = SLOWER_RATE if change > 0 else FASTER_RATE
        trust = min(1.0, load.prompt_flops / self._usual_flops)
        self._seconds_per_flop += rate * trust * change

    def _note_rows(self, num_rows: int, seconds: float) -> None:
        self._height_s = self._height_s or seconds
        surprise = seconds / self.rows_s(num_rows)
        surprise = min(MOST_SURPRISE, max(1 / MOST_SURPRISE, surprise))
        self._num_seen[num_rows] += 1
        rate = max(SHAPE_RATE, 1 / (1 + self._num_seen[num_rows]))
        self._shape[num_rows] = self.cost(num_rows) * surprise**rate
        if rate == SHAPE_RATE:
            self._height_s *= surprise**HEIGHT_RATE

    def _flops(self, first: int, num: int) -> float:
        attended = keys_attended(self._model, first=first, num=num)
        return forward_flops(self._model, num_tokens=num, num_attended=attended)
