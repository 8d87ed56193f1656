"""How fast a run is, how long it will take, and when it must stop. Used by `fit`."""

import time


class Clock:
    """Counts from its making on; `max_seconds` 0 is no limit."""

    def __init__(self, *, max_seconds: float):
        self.max_seconds = max_seconds
        self.started = self._ticked = time.monotonic()
        self._slowest_s = self._total_s = 0.0
        self._num_steps = 0

    def start(self) -> None:
        """Begin the first step."""
        self._ticked = time.monotonic()

    def is_nearly_up(self, save_s: float) -> bool:
        """Say whether one more step and a save of `save_s` seconds might end too late."""
        now = time.monotonic()
        step_s = max(self._slowest_s, now - self._ticked)
        return 0 < self.max_seconds <= now - self.started + 2 * step_s + 2 * save_s

    def tick(self) -> float:
        """Return the seconds since the last tick: a step is done."""
        now = time.monotonic()
        step_s, self._ticked = now - self._ticked, now
        self._slowest_s = max(self._slowest_s, step_s)
        self._total_s += step_s
        self._num_steps += 1
        return step_s

    def expected(self, num_steps: int) -> float:
        """Return the seconds that so many further steps will take."""
        return self._total_s / self._num_steps * num_steps
