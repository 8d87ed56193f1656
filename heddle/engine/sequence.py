"""A request on its way through the engine: its tokens so far, its pages, its clock.

And `Work`, what a step does for it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from heddle.engine.grammar import Constraint
from heddle.engine.paged_memory import LaterLoops
from heddle.engine.request import (
    Event,
    Finished,
    FinishReason,
    Request,
    Thinking,
    TokenEvent,
    TopLogprobs,
)
from heddle.engine.sampler import Sampler
from heddle.engine.speculation import Speculation
from heddle.engine.spending import Spending
from heddle.errors import HeddleError

TokenScore = tuple[float, TopLogprobs]


@dataclass(eq=False)
class Sequence:
    """State of one request. `tokens` are the prompt's and then the generated ones."""

    request: Request
    on_event: Callable[[Event], None]
    sampler: Sampler
    constraint: Constraint | None
    spending: Spending
    speculation: Speculation | None
    arrival: int
    tokens: list[int] = field(init=False)
    pages: list[int] = field(default_factory=list)
    num_computed: int = 0
    num_remembered_pages: int = 0
    num_cached: int = 0
    num_generated: int = 0
    prompt_scores: list[TokenScore] = field(default_factory=list)
    hidden_sum_D: Tensor | None = None
    later: LaterLoops = field(default_factory=LaterLoops)
    submitted_at: float = field(default_factory=time.monotonic)
    started_at: float | None = None
    first_token_at: float | None = None

    def __post_init__(self):
        self.tokens = list(self.request.prompt)

    @property
    def num_pending(self) -> int:
        """Tokens whose keys and values are not in the cache yet."""
        return len(self.tokens) - self.num_computed

    @property
    def variant(self) -> tuple[Thinking, tuple[float, ...] | None]:
        """What besides its tokens decides the sequence's keys and values."""
        return self.request.thinking, self.request.steer

    @property
    def is_generating(self) -> bool:
        """Whether the prompt is read and only the newest token is pending."""
        return self.num_generated > 0 and self.num_pending == 1

    @property
    def num_shareable(self) -> int:
        """How many tokens may come from the cache: nothing is asked of their rows."""
        if self.request.embed:
            return 0
        if self.scores_prompt:
            return self.request.prompt_logprobs_from - 1
        return len(self.tokens) - 1

    @property
    def scores_prompt(self) -> bool:
        """Whether log-probabilities of the prompt's tokens are still owed."""
        return self.request.num_prompt_logprobs is not None and self.num_generated == 0

    def start(self) -> None:
        """Note the first time that the sequence runs, and how much of it came from the cache."""
        if self.started_at is None:
            self.started_at = time.monotonic()
            self.num_cached = self.num_computed

    def restart(self) -> None:
        """Forget what was computed, not what was generated."""
        self.num_computed = 0
        self.prompt_scores.clear()
        self.hidden_sum_D = None
        self.later = LaterLoops()

    def finished(
        self,
        reason: FinishReason,
        *,
        stop: TokenEvent | None = None,
        error: HeddleError | None = None,
    ) -> Finished:
        """Make the request's last event, with its times up to now."""
        now = time.monotonic()
        started = self.started_at or now
        first = self.first_token_at or now
        return Finished(
            reason=reason,
            num_prompt_tokens=len(self.request.prompt),
            num_cached_tokens=self.num_cached,
            num_new_tokens=self.num_generated,
            queue_s=started - self.submitted_at,
            prefill_s=first - started,
            decode_s=now - first,
            stop=stop,
            error=error,
            compute=self.spending.compute(),
        )


class Work(NamedTuple):
    """Run the next `num_tokens` pending tokens of `sequence`, and guesses at what follows them."""

    sequence: Sequence
    num_tokens: int
    draft: tuple[int, ...] = ()

    @property
    def num_rows(self) -> int:
        """Tokens that the step computes for the sequence."""
        return self.num_tokens + len(self.draft)
