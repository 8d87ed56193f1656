"""Which sequence runs how many tokens in the next step, and who waits.

Every generating sequence gets its one token; what is left of the step goes to prompts, oldest
first. When pages run out the youngest sequence gives its own back and waits to be computed again.
"""

import bisect
from typing import NamedTuple

from heddle.engine.cache import PageCache
from heddle.engine.config import EngineConfig
from heddle.engine.sequence import Sequence


class Work(NamedTuple):
    """Run the next `num_tokens` pending tokens of `sequence`."""

    sequence: Sequence
    num_tokens: int


class Scheduler:
    """Holds every live sequence, waiting (most urgent first) or running (oldest first)."""

    def __init__(self, config: EngineConfig, cache: PageCache):
        self._config, self._cache = config, cache
        self._page_tokens = cache.page_tokens
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.num_preempted = 0

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence behind those of the same priority that came before it."""
        bisect.insort(self.waiting, sequence, key=_urgency)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, running or waiting; its full pages stay findable."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        self._give_back(sequence)

    def plan(self) -> list[Work]:
        """Choose the next step's work and see that its pages exist."""
        work = [
            Work(sequence, 1)
            for sequence in list(self.running)
            if sequence.is_generating and self._reserve(sequence, 1)
        ]
        work = [item for item in work if item.sequence in self.running]  # not preempted since
        limit = self._config.shared_step_tokens if work else self._config.step_tokens
        room = limit - len(work)
        for sequence in list(self.running):
            if room and sequence in self.running and not sequence.is_generating:
                room -= self._plan_prompt(sequence, room, work)
        while room and self.waiting and len(self.running) < self._config.max_running:
            sequence = self._admit()
            if sequence is None:
                break
            num_planned = self._plan_prompt(sequence, room, work)
            if not num_planned:
                break
            room -= num_planned
        return work

    def computed(self, work: Work) -> None:
        """Note that a piece of work is done and make its full pages findable."""
        sequence, page_tokens = work.sequence, self._page_tokens
        sequence.num_computed += work.num_tokens
        for index in range(sequence.num_remembered_pages, sequence.num_computed // page_tokens):
            self._cache.remember(
                sequence.pages[index],
                parent=sequence.pages[index - 1] if index else None,
                variant=sequence.variant,
                tokens=sequence.tokens[index * page_tokens : (index + 1) * page_tokens],
            )
            sequence.num_remembered_pages = index + 1

    def _plan_prompt(self, sequence: Sequence, room: int, work: list[Work]) -> int:
        num_tokens = min(sequence.num_pending, room)
        if not self._reserve(sequence, num_tokens, may_preempt=not work):
            return 0
        work.append(Work(sequence, num_tokens))
        return num_tokens

    def _admit(self) -> Sequence | None:
        """Move the most urgent sequence that may start now to the running ones."""
        for place, sequence in enumerate(self.waiting):
            shareable = sequence.tokens[: sequence.num_shareable + 1]
            shared = self._cache.match(shareable, sequence.variant)
            if self._waits_for_prefix(sequence, len(shared)):
                continue
            num_pages = -(-len(sequence.tokens) // self._page_tokens)
            num_idle_shared = sum(self._cache.is_idle(page) for page in shared)
            if self.running and (
                num_pages - len(shared) > self._cache.num_available - num_idle_shared
            ):
                return None  # let the running ones end; smaller requests must not overtake for ever
            del self.waiting[place]
            self._cache.take(shared)
            sequence.pages = shared
            sequence.num_computed = len(shared) * self._page_tokens
            sequence.num_remembered_pages = len(shared)
            sequence.start()
            bisect.insort(self.running, sequence, key=lambda other: other.arrival)
            return sequence
        return None

    def _waits_for_prefix(self, sequence: Sequence, num_shared_pages: int) -> bool:
        """Whether a running prompt is about to compute a page that this sequence could share."""
        num_wanted = (num_shared_pages + 1) * self._page_tokens
        if num_wanted > sequence.num_shareable:
            return False
        wanted = sequence.tokens[:num_wanted]
        return any(
            other.num_computed < num_wanted
            and other.variant == sequence.variant
            and other.tokens[:num_wanted] == wanted
            for other in self.running
        )

    def _reserve(self, sequence: Sequence, num_tokens: int, *, may_preempt: bool = True) -> bool:
        """Give the sequence pages for its next tokens; False if it has to wait."""
        needed = -(-(sequence.num_computed + num_tokens) // self._page_tokens)
        while len(sequence.pages) < needed:
            page = self._cache.allocate(after=sequence.pages[-1] if sequence.pages else None)
            if page is not None:
                sequence.pages.append(page)
                continue
            victim = self.running[-1]
            if not may_preempt and victim is not sequence:
                return False
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._give_back(sequence)
        sequence.restart()
        self.num_preempted += 1
        self.add(sequence)

    def _give_back(self, sequence: Sequence) -> None:
        self._cache.release(sequence.pages)
        sequence.pages = []
        sequence.num_remembered_pages = 0


def _urgency(sequence: Sequence) -> tuple[int, int]:
    return (-sequence.request.priority, sequence.arrival)
