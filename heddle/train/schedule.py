"""The learning rate over a run: warm up, stay, decay. Read by `fit`.

Source: warmup-stable-decay, MiniCPM (Hu et al. 2024, arXiv:2404.06395); the 1-sqrt shape, Hägele et
al. 2024 (arXiv:2405.18392). The stable part can be prolonged by resuming with more steps.
"""

from dataclasses import dataclass
from typing import Literal

from heddle.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Which part of the peak learning rate a step gets.

    Attributes:
        warmup_steps: linear rise from the first step on.
        decay_steps: fall over the last steps of the run.
        decay: its shape, t being the share of the fall that is done: 1 - t or 1 - sqrt(t).
        floor: the factor at the end of the fall.
    """

    warmup_steps: int = 0
    decay_steps: int = 0
    decay: Literal["linear", "1-sqrt"] = "1-sqrt"
    floor: float = 0.0

    def __post_init__(self):
        if self.warmup_steps < 0 or self.decay_steps < 0:
            raise ConfigError("warmup_steps and decay_steps must not be negative")
        if not 0 <= self.floor <= 1:
            raise ConfigError(f"floor must lie between 0 and 1, not {self.floor}")

    def factor(self, step: int, *, num_steps: int) -> float:
        """Return the factor of step 0, 1, ..., num_steps - 1."""
        rise = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        done = (step - (num_steps - self.decay_steps)) / max(self.decay_steps, 1)
        if done <= 0:
            return rise
        fall = 1 - (done if self.decay == "linear" else done**0.5)
        return rise * (self.floor + (1 - self.floor) * fall)
